"""The past of a shard: its records as a snapshot shows them.

`Past` is a `Reader`, so whatever reads the present reads it too (`read`, `pages`, `entries`). What
no snapshot shows (sessions, leases, references) is seen as it is now; nobody asks a past for it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from cfs.core.errors import FsError
from cfs.core.kv import Reader
from cfs.core.meta import keys, versions
from cfs.core.meta.records import STATE, since_of


class Past:
    """The records of one snapshot. It must exist as long as this is read: see `past`."""

    def __init__(self, kv: Reader, epoch: int) -> None:
        self._kv = kv
        self._epoch = epoch

    def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        value = self._kv.get(key)
        if not versions.is_versioned(key):
            return value
        if value is not None and since_of(value) < self._epoch:
            return value
        start, end = keys.version(key, self._epoch), keys.version(key, versions.EPOCH_MAX)
        for found, kept in self._kv.scan(start, end):
            if len(found) == len(end):
                return kept if since_of(kept) < self._epoch else None
        return None

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Reader.scan`; all keys of the range are of one kind."""
        if not versions.is_versioned(start):
            yield from self._kv.scan(start, end, reverse=reverse)
            return
        kept = self._kept(start, end, reverse=reverse)
        other = next(kept, None)
        for key, value in self._kv.scan(start, end, reverse=reverse):
            if since_of(value) >= self._epoch:
                continue
            while other is not None and (other[0] > key if reverse else other[0] < key):
                yield other
                other = next(kept, None)
            yield key, value
        while other is not None:
            yield other
            other = next(kept, None)

    def _kept(self, start: bytes, end: bytes, *, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Yield, for each key, the version that ended first of those after the snapshot."""
        held: tuple[bytes, bytes] | None = None
        for found, value in self._kv.scan(b"h" + start, b"h" + end, reverse=reverse):
            key, until = keys.of_version(found)
            if held is not None and held[0] != key:
                if since_of(held[1]) < self._epoch:
                    yield held
                held = None
            if until >= self._epoch and (reverse or held is None):
                held = key, value
        if held is not None and since_of(held[1]) < self._epoch:
            yield held


def past(kv: Reader, epoch: int) -> Past:
    """Give a snapshot's records. Raises ESTALE when it is not here (any more)."""
    value = kv.get(keys.STATE)
    if value is None or epoch not in STATE.decode(value).snapshots:
        raise FsError(errno.ESTALE, f"snapshot {epoch} is gone")
    return Past(kv, epoch)
