"""Latches: who may work on a name or an inode right now, inside one shard leader's process.

An operation takes its names first (exclusive), then its inodes (shared; exclusive to acquire a
write lease), each set in sorted order: names before inodes, everywhere, so no two operations wait
for one another in a ring. Waiters of one key are served first come, first served. Latches are
memory only: a new leader starts with none, because nothing proposed by the old one is still
between its checks and the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import trio

Key = tuple[Any, ...]


def name_key(parent: int, name: bytes) -> Key:
    """Give the latch key of a directory entry."""
    return ("n", parent, name)


def ino_key(ino: int) -> Key:
    """Give the latch key of an inode."""
    return ("o", ino)


class _Latch:
    __slots__ = ("exclusive", "holders", "waiters")

    def __init__(self) -> None:
        self.holders = 0
        self.exclusive = False
        self.waiters: deque[tuple[bool, trio.Event]] = deque()

    def admits(self, *, exclusive: bool) -> bool:
        return self.holders == 0 if exclusive else not self.exclusive


class Latches:
    """All latches of one shard leader; a key costs memory only while held."""

    def __init__(self) -> None:
        self._latches: dict[Key, _Latch] = {}

    def try_take(self, keys: Mapping[Key, bool]) -> bool:
        """Take all `keys` (key to exclusive) at once if none must be waited for, else none."""
        for key, exclusive in keys.items():
            latch = self._latches.get(key)
            if latch and (latch.waiters or not latch.admits(exclusive=exclusive)):
                return False
        for key, exclusive in keys.items():
            self._hold(key, exclusive=exclusive)
        return True

    async def take(self, keys: Mapping[Key, bool]) -> None:
        """Take all `keys`, waiting in sorted order. On cancellation none is held."""
        if self.try_take(keys):
            return
        held: list[Key] = []
        try:
            for key in sorted(keys):
                await self._take_one(key, exclusive=keys[key])
                held.append(key)
        except BaseException:
            self.release(held)
            raise

    def release(self, keys: Iterable[Key]) -> None:
        """Let go of `keys`, each taken once by the caller."""
        for key in keys:
            latch = self._latches[key]
            latch.holders -= 1
            if latch.holders == 0:
                latch.exclusive = False
            self._admit(key, latch)

    async def _take_one(self, key: Key, *, exclusive: bool) -> None:
        latch = self._latches.get(key)
        if latch is None or (not latch.waiters and latch.admits(exclusive=exclusive)):
            self._hold(key, exclusive=exclusive)
            return
        waiter = (exclusive, trio.Event())
        latch.waiters.append(waiter)
        try:
            await waiter[1].wait()  # whoever lets go hands the latch over before setting this
        except BaseException:
            if waiter[1].is_set():
                self.release([key])
            else:
                latch.waiters.remove(waiter)
                self._admit(key, latch)
            raise

    def _hold(self, key: Key, *, exclusive: bool) -> None:
        latch = self._latches.setdefault(key, _Latch())
        latch.holders += 1
        latch.exclusive = exclusive

    def _admit(self, key: Key, latch: _Latch) -> None:
        while latch.waiters and latch.admits(exclusive=latch.waiters[0][0]):
            exclusive, event = latch.waiters.popleft()
            latch.holders += 1
            latch.exclusive = exclusive
            event.set()
        if latch.holders == 0 and not latch.waiters:
            del self._latches[key]
