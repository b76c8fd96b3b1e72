"""The ordered key-value port: what every state machine and index reads and writes.

Keys and values are bytes; order is bytewise. `Reader` and `Writer` are what `apply` sees;
`Store` is what lies below: durable, atomic per `write`. The memory twins live in this module
because they are pure; LMDB's side is `cfs.fs.kv`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from sortedcontainers import SortedDict


class Reader(Protocol):
    """A consistent ordered view."""

    def get(self, key: bytes) -> bytes | None:
        """Give the value of `key`, or None."""
        ...

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield pairs with `start <= key < end` in order (or from the end)."""
        ...


class Writer(Reader, Protocol):
    """A view that takes changes and sees its own."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove `key`; absent is not an error."""
        ...


class Store(Reader, Protocol):
    """A durable store. Raises `Corrupt` when a stored value fails its checksum."""

    def write(self, changes: Iterable[tuple[bytes, bytes | None]], *, sync: bool) -> None:
        """Apply puts and deletes (value None) as one atomic change; durable on return if `sync`."""
        ...

    def bytes_used(self) -> int:
        """Give the bytes the store occupies on its device."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...


class Instant(Reader, Protocol):
    """One instant of a store; use from one thread at a time."""

    def close(self) -> None:
        """Let go of the instant."""
        ...


class InstantStore(Store, Protocol):
    """A store that can be read as of one instant while it changes."""

    def view(self) -> Instant:
        """Open a view of this instant. Reading it may raise Unavailable: open another."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """Give the smallest key greater than every key with `prefix` (not all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped, "a prefix of 0xff bytes has no end"
    return stripped[:-1] + bytes([stripped[-1] + 1])


class MemoryStore:
    """Memory twin of `Writer` and `Store`."""

    def __init__(self) -> None:
        self._pairs: SortedDict[bytes, bytes] = SortedDict()

    def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        value: bytes | None = self._pairs.get(key)
        return value

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Reader.scan`; changes during the scan do not show."""
        keys = list(self._pairs.irange(start, end, inclusive=(True, False), reverse=reverse))
        for key in keys:
            if (value := self._pairs.get(key)) is not None:
                yield key, value

    def put(self, key: bytes, value: bytes) -> None:
        """See `Writer.put`."""
        self._pairs[key] = value

    def delete(self, key: bytes) -> None:
        """See `Writer.delete`."""
        self._pairs.pop(key, None)

    def write(self, changes: Iterable[tuple[bytes, bytes | None]], *, sync: bool) -> None:
        """See `Store.write`."""
        del sync
        for key, value in changes:
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)

    def bytes_used(self) -> int:
        """See `Store.bytes_used`."""
        return sum(len(k) + len(v) for k, v in self._pairs.items())

    def close(self) -> None:
        """See `Store.close`."""
