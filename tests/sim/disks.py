"""Disks and stores that outlive a process, as one life of a process sees them.

`SimDisk` is `MemoryDirectory` (what was not synced is lost, torn or reordered) that can also cut
the power inside a call. `Bolted` gives it to one life: when that ends every call fails. `SimStore`
keeps what LMDB would: every write is atomic and durable when it returns.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sortedcontainers import SortedDict

from cfs.core.errors import Unavailable
from cfs.fs.disk.memory import MemoryDirectory


class SimDisk(MemoryDirectory):
    """A disk of one machine."""

    def __init__(self, name: str, *, capacity: int = 1 << 40) -> None:
        super().__init__(capacity=capacity)
        self.name = name
        self.power_cut: Callable[[], None] | None = None
        self.cut_at = 0
        self.faults = 0

    def device(self) -> str:
        return self.name

    def cut_power_in(self, calls: int, then: Callable[[], None]) -> None:
        """Have `then` called, and everything fail, at the nth next call."""
        self.cut_at, self.power_cut = self.calls + calls, then

    def touch(self) -> None:
        if self.power_cut is not None and self.calls + 1 >= self.cut_at:
            then, self.power_cut = self.power_cut, None
            then()
            raise OSError(errno.EIO, "the power went")
        try:
            super().touch()
        except OSError:
            self.faults += 1
            raise

    def crash(self, chance: Any = None) -> None:
        self.power_cut = None
        super().crash(chance)


class Bolted:
    """A directory for one life of a process; see `cfs.fs.disk.port.Directory`."""

    def __init__(self, disk: SimDisk, life: Any) -> None:
        self._disk = disk
        self._life = life

    def __getattr__(self, name: str) -> Any:
        if not self._life.alive:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return getattr(self._disk, name)

    def close(self) -> None:
        pass


class SimStore:
    """The pairs of one environment, for one life; see `cfs.core.kv.InstantStore`."""

    def __init__(self, pairs: SortedDict, life: Any) -> None:
        self._pairs = pairs
        self._life = life

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return self._pairs.get(key)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        pairs = self._pairs
        keys = list(pairs.irange(start, end, inclusive=(True, False), reverse=reverse))
        return iter([(key, pairs[key]) for key in keys])

    def view(self) -> SimStore:
        return SimStore(self._pairs.copy(), self._life)

    def write(self, changes: Iterable[tuple[bytes, bytes | None]], *, sync: bool) -> None:
        del sync
        self._check()
        for key, value in changes:
            if value is None:
                self._pairs.pop(key, None)
            else:
                self._pairs[key] = bytes(value)

    def bytes_used(self) -> int:
        return 4096 * (1 + len(self._pairs) // 16)

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if not self._life.alive:
            raise Unavailable("the machine is off")
