"""The bytes that all files together may hold dirty.

A writer asks before it buffers; above the bound it waits until commits have made room. What is
held counts from the write until its commit is answered.
"""

from __future__ import annotations

import trio


class Buffer:
    """One bound for a client."""

    __slots__ = ("_bytes_max", "_room", "used")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._room = trio.Event()
        self.used = 0

    def admits(self, count: int) -> bool:
        """Tell whether `count` more bytes may be buffered now; one write always may."""
        return self.used + count <= self._bytes_max or self.used == 0

    @property
    def pressed(self) -> bool:
        """Tell whether more than half is in use."""
        return self.used * 2 > self._bytes_max

    def add(self, count: int) -> None:
        """Count bytes in; negative: out."""
        self.used += count
        if count < 0:
            self._room.set()
            self._room = trio.Event()

    async def wait(self) -> None:
        """Return once something was counted out."""
        await self._room.wait()
