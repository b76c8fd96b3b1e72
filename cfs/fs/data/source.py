"""Where the bytes of a write come from: dealt out in pieces, each a hop into a thread.

`Runs` are there as a whole. A `Stream` comes as its `Feed` gives it, in parts that follow one
another in the file. What a piece leaves without a cut is put back and comes again in front of the
next. Parts that lie side by side in memory are dealt without a copy; where two do not, only what is
left of the first and a megabyte of the second are joined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cfs.core.api.meta import Extent
from cfs.fs.data.fragment_client import Buffer

PIECE_BYTES_MIN = 1 << 20
"""Four of the largest chunks: a piece is not split to be less, so that every one has a cut."""


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes to write. They must not change until `write` returns."""

    offset: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `[start, stop)` of `slab`; those of a later part may follow them there."""

    slab: memoryview
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a run. `last`: what remains without a cut is a chunk all the same."""

    run: int
    offset: int
    data: memoryview
    last: bool


class Feed(Protocol):
    """Who writes a stream."""

    @property
    def offset(self) -> int:
        """Where in the file the stream begins."""
        ...

    async def next(self) -> Part | None:
        """Give what follows, which must not change until it has landed; None: nothing does."""
        ...

    @property
    def whole(self) -> bool:
        """Whether, once nothing follows, the bytes behind the last cut are a chunk all the same.

        If not they are left to the feed, which sends them again when there is more.
        """
        ...

    def landed(self, extents: Sequence[Extent]) -> None:
        """Hear what is durable: extents that follow those told before."""
        ...


class Source(Protocol):
    """Deals out pieces."""

    async def take(self) -> list[Piece]:
        """Give the next batch; empty at the end. Only its last piece may end without a cut."""
        ...

    def put_back(self, count: int) -> None:
        """Take back what the last piece left without a cut, unless its run ended there."""
        ...


class Runs:
    """Deals runs out, several to a batch where they are small."""

    def __init__(self, runs: Sequence[Run], batch_bytes: int) -> None:
        self._runs = runs
        self._batch_bytes = batch_bytes
        self._run = 0
        self._at = 0
        self._ended_inside = False

    async def take(self) -> list[Piece]:
        """See `Source.take`."""
        pieces: list[Piece] = []
        room = self._batch_bytes
        self._ended_inside = False
        while self._run < len(self._runs) and room > 0:
            run = self._runs[self._run]
            rest = len(run.data) - self._at
            if rest > room and room < PIECE_BYTES_MIN:
                break
            taken = min(rest, room)
            if taken:
                view = memoryview(run.data)[self._at : self._at + taken]
                pieces.append(Piece(self._run, run.offset + self._at, view, taken == rest))
            room -= taken
            if taken < rest:
                self._at += taken
                self._ended_inside = True
                break
            self._run += 1
            self._at = 0
        return pieces

    def put_back(self, count: int) -> None:
        """See `Source.put_back`."""
        if self._ended_inside:
            self._at -= count


class Stream:
    """Deals out what a feed gives."""

    def __init__(self, feed: Feed, batch_bytes: int) -> None:
        self._feed = feed
        self._batch_bytes = batch_bytes
        self._parts: deque[Part] = deque()
        self._size = 0
        self._offset = feed.offset
        self._fed = True
        self._ended = False
        self._end = Part(memoryview(b""), 0, 0)
        """What the last piece took of the last part it touched."""
        self._joined: memoryview | None = None
        """The last piece, where it was joined."""

    async def take(self) -> list[Piece]:
        """See `Source.take`."""
        while self._fed and self._size < self._batch_bytes:
            part = await self._feed.next()
            if part is None:
                self._fed = False
            else:
                self._append(part)
        if self._ended or not self._size:
            return []
        data = self._deal()
        self._size -= len(data)
        self._ended = not self._fed and not self._size
        piece = Piece(0, self._offset, data, self._ended and self._feed.whole)
        self._offset += len(data)
        return [piece]

    def put_back(self, count: int) -> None:
        """See `Source.put_back`."""
        if not count:
            return
        end = self._end
        if count > end.stop - end.start:
            assert self._joined is not None
            size = len(self._joined)
            back = Part(self._joined, size - count, size)
        else:
            back = Part(end.slab, end.stop - count, end.stop)
        front = self._parts[0] if self._parts else None
        if front is not None and front.slab is back.slab and front.start == back.stop:
            self._parts[0] = Part(back.slab, back.start, front.stop)
        else:
            self._parts.appendleft(back)
        self._size += count
        self._offset -= count

    def _append(self, part: Part) -> None:
        self._size += part.stop - part.start
        last = self._parts[-1] if self._parts else None
        if last is not None and last.slab is part.slab and last.stop == part.start:
            self._parts[-1] = Part(part.slab, last.start, part.stop)
        else:
            self._parts.append(part)

    def _deal(self) -> memoryview:
        """Take the next piece off the parts."""
        front = self._parts[0]
        size = front.stop - front.start
        self._joined = None
        if size >= PIECE_BYTES_MIN or len(self._parts) == 1:
            return self._off(min(size, self._batch_bytes))
        views = [self._off(size)]
        while self._parts and size < self._batch_bytes:
            front = self._parts[0]
            count = front.stop - front.start
            whole = count <= PIECE_BYTES_MIN and size + count <= self._batch_bytes
            if not whole and size >= PIECE_BYTES_MIN:
                break
            views.append(self._off(min(count, PIECE_BYTES_MIN)))
            size += len(views[-1])
            if not whole:
                break
        self._joined = memoryview(b"".join(views))
        return self._joined

    def _off(self, count: int) -> memoryview:
        part = self._parts[0]
        stop = part.start + count
        if stop == part.stop:
            self._parts.popleft()
        else:
            self._parts[0] = Part(part.slab, stop, part.stop)
        self._end = Part(part.slab, part.start, stop)
        return part.slab[part.start : stop]
