"""The memory twin of the disk port, with the ways a disk can fail.

Decides what survives a power loss: everything up to the last `sync` of a file (its bytes) and of
the directory (its names). Operations after it are kept in order; `crash` drops them all, or with
`chance` keeps a prefix of them chosen by it, the last one torn at a byte, its pages kept or zeroed
one by one (a file system may extend a file before the data arrives). Handles opened before a
crash are dead (EBADF).

Faults: `fail` makes the nth next call raise, once or from then on; `capacity` bounds the blocks
(a call that does not fit writes what fits, then raises ENOSPC); `flip` damages a stored bit.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

BLOCK = 4096

Chance = Callable[[int], int]
"""Give a number in `[0, n)`; the caller seeds it."""

_Append = tuple[str, bytes]
_Number = tuple[str, int, int]


class _Content:
    """The bytes of a file: as they read now, as they were at the last sync, what came between."""

    __slots__ = ("durable", "durable_holes", "holes", "now", "pending")

    def __init__(self) -> None:
        self.now = bytearray()
        self.holes: set[int] = set()
        self.durable = bytearray()
        self.durable_holes: set[int] = set()
        self.pending: list[_Append | _Number] = []

    def allocated(self) -> int:
        return (-(-len(self.now) // BLOCK) - len(self.holes)) * BLOCK

    def change(self, operation: _Append | _Number) -> None:
        _change(self.now, self.holes, operation)
        self.pending.append(operation)

    def sync(self) -> None:
        for operation in self.pending:
            _change(self.durable, self.durable_holes, operation)
        self.pending.clear()

    def crash(self, chance: Chance | None) -> None:
        if chance is not None and self.pending:
            kept = chance(len(self.pending) + 1)
            for operation in self.pending[:kept]:
                _change(self.durable, self.durable_holes, operation)
            if kept < len(self.pending):
                torn = self.pending[kept]
                if torn[0] == "append":
                    _change(self.durable, self.durable_holes, ("append", _tear(torn[1], chance)))  # type: ignore[arg-type]
        self.pending.clear()
        self.now = bytearray(self.durable)
        self.holes = set(self.durable_holes)


class MemoryDirectory:
    """`port.Directory` in memory.

    `calls` counts every call on the directory and its files; `capacity` is in bytes.
    """

    def __init__(self, *, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.calls = 0
        self.generation = 0
        self._names: dict[str, _Content] = {}
        self._durable_names: dict[str, _Content] = {}
        self._pending: list[dict[str, _Content]] = []
        self._fail_at = 0
        self._fail_errno = 0
        self._fail_for_ever = False

    def open(self, name: str, *, create: bool = False) -> MemoryFile:
        """See the port."""
        self.touch()
        content = self._names.get(name)
        if content is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            content = self._names[name] = _Content()
            self._named()
        return MemoryFile(self, content)

    def names(self) -> list[str]:
        """See the port."""
        self.touch()
        return sorted(self._names)

    def remove(self, name: str) -> None:
        """See the port."""
        self.touch()
        self._find(name)
        del self._names[name]
        self._named()

    def rename(self, name: str, new_name: str) -> None:
        """See the port."""
        self.touch()
        content = self._find(name)
        del self._names[name]
        self._names[new_name] = content
        self._named()

    def write_whole(self, name: str, data: bytes) -> None:
        """See the port."""
        self.touch()
        content = _Content()
        self.reserve(content, len(data))
        content.change(("append", bytes(data)))
        content.sync()
        self._names[name] = content
        self._named()
        self.sync()

    def sync(self) -> None:
        """See the port."""
        self.touch()
        self._durable_names = dict(self._names)
        self._pending.clear()

    def device(self) -> str:
        """See the port."""
        return f"memory {id(self):x}"

    def usage(self) -> tuple[int, int]:
        """See the port."""
        self.touch()
        return self.capacity, max(0, self.capacity - self._used())

    def close(self) -> None:
        """Match `RealDirectory.close`; nothing is held."""

    # --- faults --------------------------------------------------------------------------------

    def crash(self, chance: Chance | None = None) -> None:
        """Lose what was not synced; with `chance` a part of it survives. Ends `fail`."""
        if chance is not None and self._pending:
            kept = chance(len(self._pending) + 1)
            if kept:
                self._durable_names = self._pending[kept - 1]
        self._pending.clear()
        self._names = dict(self._durable_names)
        for content in dict.fromkeys(self._names.values()):  # in order: chance is drawn
            content.crash(chance)
        self._durable_names = dict(self._names)
        self.generation += 1
        self.heal()

    def fail(self, nth: int, code: int, *, for_ever: bool = False) -> None:
        """Make the nth call from now (1: the next) raise `code`; `for_ever`: all after, too."""
        assert nth > 0
        self._fail_at = self.calls + nth
        self._fail_errno = code
        self._fail_for_ever = for_ever

    def heal(self) -> None:
        """End `fail`."""
        self._fail_at = 0

    def flip(self, name: str, offset: int, mask: int = 1) -> None:
        """Damage the byte at `offset`, on the platter as well as in the cache."""
        content = self._find(name)
        content.now[offset] ^= mask
        if offset < len(content.durable):
            content.durable[offset] ^= mask

    def touch(self) -> None:
        """Count a call and fail it when it is its turn."""
        self.calls += 1
        if self._fail_at and (
            self.calls == self._fail_at or (self._fail_for_ever and self.calls > self._fail_at)
        ):
            raise OSError(self._fail_errno, os.strerror(self._fail_errno))

    def reserve(self, content: _Content, count: int) -> int:
        """Give how many of `count` bytes more fit into `content`; raise ENOSPC when none does."""
        room = self.capacity - self._used() + -len(content.now) % BLOCK
        if count and room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return min(count, room)

    def _used(self) -> int:
        return sum(c.allocated() for c in set(self._names.values()))

    def _find(self, name: str) -> _Content:
        content = self._names.get(name)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return content

    def _named(self) -> None:
        self._pending.append(dict(self._names))


class MemoryFile:
    """`port.File` in memory."""

    def __init__(self, directory: MemoryDirectory, content: _Content) -> None:
        self._directory = directory
        self._content = content
        self._generation = directory.generation
        self._closed = False

    def append(self, parts: Sequence[bytes | bytearray | memoryview]) -> int:
        """See the port."""
        self._touch()
        start = len(self._content.now)
        data = b"".join(parts)
        room = self._directory.reserve(self._content, len(data))
        self._content.change(("append", data[:room]))
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return start

    def pread(self, offset: int, length: int) -> bytes:
        """See the port."""
        self._touch()
        return bytes(self._content.now[offset : offset + length])

    def sync(self) -> None:
        """See the port."""
        self._touch()
        self._content.sync()

    def punch(self, offset: int, length: int) -> None:
        """See the port."""
        self._touch()
        self._content.change(("punch", offset, length))

    def truncate(self, size: int) -> None:
        """See the port."""
        self._touch()
        self._content.change(("truncate", size, 0))

    def size(self) -> int:
        """See the port."""
        self._touch()
        return len(self._content.now)

    def allocated(self) -> int:
        """See the port."""
        self._touch()
        return self._content.allocated()

    def close(self) -> None:
        """See the port."""
        self._closed = True

    def _touch(self) -> None:
        if self._closed or self._generation != self._directory.generation:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._directory.touch()


def _change(data: bytearray, holes: set[int], operation: _Append | _Number) -> None:
    if operation[0] == "append":
        added = operation[1]
        assert isinstance(added, bytes)
        if added and holes:
            holes.discard(len(data) // BLOCK)
        data += added
        return
    assert len(operation) == 3
    name, first, second = operation
    if name == "truncate":
        if first < len(data):
            del data[first:]
            end = -(-first // BLOCK)
            holes -= {h for h in holes if h >= end}
        else:
            holes |= set(range(-(-len(data) // BLOCK), -(-first // BLOCK)))
            data += bytes(first - len(data))
        return
    end = min(first + second, len(data))
    if end > first:
        data[first:end] = bytes(end - first)
    last = -(-len(data) // BLOCK) if first + second >= len(data) else end // BLOCK
    holes |= set(range(-(-first // BLOCK), last))


def _tear(data: bytes, chance: Chance) -> bytes:
    torn = bytearray(data[: chance(len(data) + 1)])
    for page in range(0, len(torn), BLOCK):
        if chance(4) == 0:
            end = min(page + BLOCK, len(torn))
            torn[page:end] = bytes(end - page)
    return bytes(torn)
