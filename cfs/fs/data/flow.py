"""One write (or pack) under way: how its bytes flow through threads and the network.

A write flows in batches of up to 4 MiB of plain bytes:

    cut and name (thread) -> ask the dedupe index -> compress and seal (thread)
        -> pack into segments -> build and code (thread) -> send

Cutting of a batch overlaps sealing of the one before and the sending of segments before that; the
order of chunks is kept, so neighbours in a file are neighbours in a segment. Each heavy step is one
hop into a thread per batch, not per chunk; what is small is done in place.

Bounds, over all flows of one `Engine`: plain bytes from being taken up until durable, and segments
being sent. A flow that must wait for bytes first sends what it holds, so flows cannot starve each
other. Every byte taken is given back however the flow ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple

import trio

from cfs.core.api.store import ChunkRef
from cfs.core.data import chunking
from cfs.core.data.pipeline import Sealed, Sealer
from cfs.core.errors import CfsError
from cfs.core.ids import ChunkId
from cfs.core.segment.container import CHUNK_COUNT_MAX, SEGMENT_BYTES_MAX, built_length
from cfs.fs.data.budget import Budget
from cfs.fs.data.dedupe import Dedupe
from cfs.fs.data.sender import Sender
from cfs.fs.data.source import PIECE_BYTES_MIN, Piece, Source
from cfs.net.ports import Threads
from cfs.net.tasks import open_tasks

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_PREPARING_MAX = 3
"""Batches of one write being sealed at once."""
_HOP_BYTES = 32 << 10
"""Cutting and sealing below this (about 60 us) costs less than handing it to a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one Uploader."""

    batch_bytes: int = 8 << 20
    """Plain bytes that make a hop; at least 1 MiB."""
    bytes_in_flight: int = 64 << 20
    """Plain bytes between being taken up and being durable."""
    segments_in_flight: int = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """A chunk of a run."""

    run: int
    offset: int
    plain: memoryview
    chunk_id: ChunkId


class Engine:
    """What all flows of one Uploader share."""

    def __init__(
        self,
        *,
        dedupe: Dedupe,
        sender: Sender,
        threads: Threads,
        limits: Limits,
        published: Callable[[Sequence[ChunkRef]], Awaitable[None]],
    ) -> None:
        assert limits.batch_bytes >= PIECE_BYTES_MIN
        self.dedupe = dedupe
        self.sender = sender
        self.threads = threads
        self.limits = limits
        self.published = published
        self.budget = Budget(limits.bytes_in_flight)
        self.sending = trio.Semaphore(limits.segments_in_flight)


class Flow:
    """One `write` or `pack`. `refs` names every chunk when it has returned."""

    def __init__(
        self,
        engine: Engine,
        avoid: Collection[bytes],
        *,
        repair: bool = False,
        fast: bool = False,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`fast` compresses less; `settled` is called when chunks have got references."""
        self._engine = engine
        self._settled = settled
        self._avoid = avoid
        self._repair = repair
        self.refs: dict[bytes, ChunkRef] = {}
        self._seen: set[bytes] = set()
        self._held = 0
        self._open: list[Sealed] = []
        self._open_bytes = 0
        self._open_held = 0
        self._preparing: deque[_Batch] = deque()
        self._error: CfsError | None = None
        self._fast = fast
        self._nursery: trio.Nursery

    async def write(self, sealer: Sealer, source: Source, cuts: list[Cut] | deque[Cut]) -> None:
        """Store the source's chunks durably, and add the cuts in order. Raises NoSpace."""
        try:
            async with open_tasks() as self._nursery:
                while pieces := await source.take():
                    held = sum(len(piece.data) for piece in pieces)
                    await self._take(held)
                    new, left = await self._hop(held, _cut_and_name, sealer, pieces)
                    source.put_back(left)
                    cuts.extend(new)
                    batch = _Batch(self._unseen(new), held)
                    self._preparing.append(batch)
                    self._nursery.start_soon(self._seal, sealer, batch)
                    while len(self._preparing) >= _PREPARING_MAX:
                        await self._pack_oldest()
                await self._drain()
        finally:
            self._engine.budget.give(self._held)
        if self._error is not None:
            raise self._error

    async def pack(
        self, sealed: Sequence[Sealed], accept: Callable[[ChunkRef], bool] = lambda _ref: True
    ) -> None:
        """Store sealed chunks durably; what is there counts if `accept` says so. Raises NoSpace."""
        unique = list({chunk.chunk_id: chunk for chunk in sealed}.values())
        found = await self._engine.dedupe.find([c.chunk_id for c in unique], self._avoid)
        for chunk in unique:
            ref = found.get(chunk.chunk_id)
            same = ref is not None and (ref.raw, ref.key_version) == (chunk.raw, chunk.key_version)
            if ref is not None and same and accept(ref):
                self.refs[chunk.chunk_id] = ref
        missing = [chunk for chunk in unique if chunk.chunk_id not in self.refs]
        try:
            async with open_tasks() as self._nursery:
                for chunk in missing:
                    await self._take(len(chunk.blob))
                    await self._add(chunk)
                    self._open_held += len(chunk.blob)
                await self._dispatch()
        finally:
            self._engine.budget.give(self._held)
        if self._error is not None:
            raise self._error

    def _unseen(self, cuts: list[Cut]) -> list[Cut]:
        fresh = []
        for cut in cuts:
            if cut.chunk_id not in self._seen:
                self._seen.add(cut.chunk_id)
                fresh.append(cut)
        return fresh

    async def _take(self, count: int) -> None:
        """Take budget; before waiting send what is held, for others may wait for that."""
        budget = self._engine.budget
        if not budget.take_now(count):
            await self._drain()
            await budget.take(count)
        self._held += count

    def _give(self, count: int) -> None:
        self._held -= count
        self._engine.budget.give(count)

    async def _hop(self, size: int, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        if size <= _HOP_BYTES:
            return function(*args)
        return await self._engine.threads.run(function, *args)

    async def _seal(self, sealer: Sealer, batch: _Batch) -> None:
        found = await self._engine.dedupe.find([c.chunk_id for c in batch.cuts], self._avoid)
        missing = []
        for cut in batch.cuts:
            ref = found.get(cut.chunk_id)
            if ref is not None and ref.raw == len(cut.plain) and sealer.knows(ref.key_version):
                self.refs[cut.chunk_id] = ref
            else:
                missing.append(cut)
        if missing:
            size = sum(len(cut.plain) for cut in missing)
            batch.sealed = await self._hop(size, _seal_all, sealer, missing, self._fast)
        if len(missing) < len(batch.cuts):
            self._settled()
        batch.ready.set()

    async def _drain(self) -> None:
        while self._preparing:
            await self._pack_oldest()
        await self._dispatch()

    async def _pack_oldest(self) -> None:
        batch = self._preparing[0]
        await batch.ready.wait()
        self._preparing.popleft()
        if not batch.sealed:
            self._give(batch.held)
            return
        for chunk in batch.sealed:
            await self._add(chunk)
        self._open_held += batch.held

    async def _add(self, chunk: Sealed) -> None:
        grown = built_length(len(self._open) + 1, self._open_bytes + len(chunk.blob))
        if grown > SEGMENT_BYTES_MAX or len(self._open) == CHUNK_COUNT_MAX:
            await self._dispatch()
        self._open.append(chunk)
        self._open_bytes += len(chunk.blob)

    async def _dispatch(self) -> None:
        if not self._open:
            return
        await self._engine.sending.acquire()
        chunks, held = self._open, self._open_held
        self._open, self._open_bytes, self._open_held = [], 0, 0
        self._nursery.start_soon(self._send, chunks, held)

    async def _send(self, chunks: list[Sealed], held: int) -> None:
        try:
            refs = await self._engine.sender.send(chunks, repair=self._repair)
        except CfsError as error:
            self._error = error
            self._nursery.cancel_scope.cancel()
            return
        finally:
            self._engine.sending.release()
            self._give(held)
        for ref in refs:
            self.refs[ref.chunk_id] = ref
        self._settled()
        await self._engine.published(refs)


@dataclass(slots=True)
class _Batch:
    """Chunks on their way to being packed, and the budget they hold."""

    cuts: list[Cut]
    held: int
    sealed: Sequence[Sealed] = ()
    ready: trio.Event = field(default_factory=trio.Event)


def _cut_and_name(sealer: Sealer, pieces: Sequence[Piece]) -> tuple[list[Cut], int]:
    """Give the cuts, and the bytes that the last piece left."""
    cuts = []
    left = 0
    for piece in pieces:
        at = 0
        end = len(piece.data)
        for length in chunking.cut(piece.data):
            if at + length == end and length < chunking.CHUNK_BYTES_MAX and not piece.last:
                break
            plain = piece.data[at : at + length]
            cuts.append(Cut(piece.run, piece.offset + at, plain, sealer.chunk_id(plain)))
            at += length
        left = end - at
    return cuts, left


def _seal_all(sealer: Sealer, cuts: Sequence[Cut], fast: bool) -> list[Sealed]:  # noqa: FBT001
    return [sealer.seal(cut.plain, cut.chunk_id, fast=fast) for cut in cuts]
