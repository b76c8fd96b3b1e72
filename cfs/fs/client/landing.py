"""Memory that large writes land in, so that none of them is copied on its way to storage.

A gateway reads requests straight into `room`. Whoever keeps what landed there says so; the next
request lands behind it. So writes that follow one another lie side by side, and a stream is cut
into chunks where the kernel put it.

Bound: `bytes_max` in slabs; a slab lives as long as any byte that was kept of it. Beyond it nothing
is kept, and the writer copies. A slab that nobody has a view of any more is used again: new memory
costs more than a copy. `trim` gives the idle ones up.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

SLAB_BYTES = 8 << 20
KEPT_BYTES_MIN = 64 << 10
"""Less is copied: that is cheap, and a few small pieces must not hold whole slabs."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes `[start, stop)` of a slab: the keeper's own."""

    slab: memoryview
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def first(self, count: int) -> Kept:
        """Give the first `count` of the bytes."""
        return Kept(self.slab, self.start, self.start + count)

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return self.slab[self.start : self.stop]


class Landing:
    """The slabs of one client. `room` is where the next request may land; all of it is free."""

    def __init__(self, *, room_bytes: int, bytes_max: int) -> None:
        assert room_bytes <= SLAB_BYTES
        self._room_bytes = room_bytes
        self._slabs_max = max(1, bytes_max // SLAB_BYTES)
        self._slabs = [bytearray(SLAB_BYTES)]
        self._idle_count = self._count(0)
        self._at = 0
        self._slab = memoryview(self._slabs[0])
        self.room = self._slab[:room_bytes]

    def keep(self, count: int) -> Kept | None:
        """Give the first `count` bytes of the room away; None: they must be copied."""
        if count < KEPT_BYTES_MIN:
            return None
        slab, start = self._slab, self._at
        stop = start + count
        if stop + self._room_bytes > SLAB_BYTES:
            following = self._following()
            if following is None:
                return None
            self._slab = following
            self._at = 0
        else:
            self._at = stop
        self.room = self._slab[self._at : self._at + self._room_bytes]
        return Kept(slab, start, stop)

    def trim(self) -> None:
        """Give up the slabs that nobody uses."""
        for index in range(len(self._slabs) - 1, -1, -1):
            if self._count(index) == self._idle_count:
                del self._slabs[index]

    def _following(self) -> memoryview | None:
        for index in range(len(self._slabs)):
            if self._count(index) == self._idle_count:
                return memoryview(self._slabs[index])
        if len(self._slabs) >= self._slabs_max:
            return None
        self._slabs.append(bytearray(SLAB_BYTES))
        return memoryview(self._slabs[-1])

    def _count(self, index: int) -> int:
        """Count the references to a slab: every view holds one, through the buffer it shares."""
        return sys.getrefcount(self._slabs[index])
