"""Fetcher: extents to plain bytes, every one of them verified.

Holes are zeroes, inline extents are opened in place, chunks come from a bounded cache of plain
chunks or from storage. Chunks that are neighbours in a segment are read as one range; a chunk that
several readers want is fetched once. A chunk whose seal does not match is tried again from every
other choice of fragments before Corrupt is raised: wrong bytes are never returned.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from cfs.core.api.cluster import ClusterMap, Profile
from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.data.pipeline import Sealer
from cfs.core.errors import CfsError, Corrupt
from cfs.fs.data.fragment_client import Buffer, FragmentClient, Pool
from cfs.fs.data.fragments import Fragments, ReadCounters, Segment
from cfs.fs.data.nodes import Nodes
from cfs.net.ports import Threads
from cfs.net.tasks import open_tasks

RANGE_BYTES_MAX = 1 << 20
GAP_BYTES_MAX = 16 << 10
"""Unwanted bytes read rather than asking twice."""
RANGES_IN_FLIGHT = 16
"""Bounds sealed bytes on their way to 16 MiB."""
_HOP_BYTES = 128 << 10
"""Opening this much plain (about 30 us) costs less than handing it to a thread."""


@dataclass(slots=True)
class _Flight:
    """A chunk that somebody is fetching."""

    done: trio.Event
    plain: bytes | None = None
    error: CfsError | None = None


class Fetcher:
    """Reads files by their extents."""

    def __init__(
        self,
        *,
        pool: Pool,
        cluster_map: Callable[[], ClusterMap],
        sealer: Sealer,
        threads: Threads,
        cache_bytes: int,
        refresh: Callable[[], Awaitable[object]] | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        """Wire it; `cache_bytes` bounds the plain chunks kept (0: none)."""
        self.sealer = sealer
        self._threads = threads
        self.counters = ReadCounters()
        self._fragments = Fragments(
            client=FragmentClient(pool),
            nodes=nodes or Nodes(cluster_map),
            refresh=refresh,
            counters=self.counters,
        )
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._cache_bytes_max = cache_bytes
        self.cache_bytes = 0
        self.cache_hits = 0
        self.cache_misses = 0
        self._flights: dict[bytes, _Flight] = {}
        self._ranges = trio.Semaphore(RANGES_IN_FLIGHT)

    async def read(self, extents: Sequence[Extent], offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset` of a file whose extents, in order, tile that range.

        Raises Unavailable (again later), Corrupt (also when the extents leave a gap), NotFound.
        """
        used = _overlapping(extents, offset, length)
        return _cut(used, await self._gather(used), offset, length)

    def cached(self, extents: Sequence[Extent], offset: int, length: int) -> bytes | None:
        """Give what `read` would, if every chunk is here; else None. Raises Corrupt."""
        used = _overlapping(extents, offset, length)
        plains, wanted = self._at_hand(used)
        return None if wanted else _cut(used, plains, offset, length)

    async def prefetch(self, extents: Sequence[Extent]) -> None:
        """Bring the chunks of these extents into the cache, as far as it can hold them.

        Failures are left for `read` to meet.
        """
        chosen = []
        room = self._cache_bytes_max
        for extent in extents:
            room -= extent.raw
            if room < 0:
                break
            if extent.kind == ExtentKind.CHUNK and extent.chunk_id not in self._cache:
                chosen.append(extent)
        try:
            await self._gather(chosen)
        except CfsError:
            return

    async def _gather(self, extents: Sequence[Extent]) -> dict[bytes, bytes]:
        """Give the plain bytes of every chunk named, by chunk id."""
        plains, wanted = self._at_hand(extents)
        while wanted:
            await self._join(wanted, plains)
        return plains

    def _at_hand(self, extents: Sequence[Extent]) -> tuple[dict[bytes, bytes], dict[bytes, Extent]]:
        """Give the plain bytes of chunks that are here, and the extents of those that are not."""
        plains: dict[bytes, bytes] = {}
        wanted: dict[bytes, Extent] = {}
        for extent in extents:
            if extent.kind == ExtentKind.HOLE or extent.chunk_id in plains:
                continue
            cached = self._cached(extent.chunk_id)
            if cached is not None:
                plains[extent.chunk_id] = cached
            elif extent.kind == ExtentKind.INLINE:
                plains[extent.chunk_id] = self._open_inline(extent)
            else:
                wanted[extent.chunk_id] = extent
        return plains, wanted

    async def _join(self, wanted: dict[bytes, Extent], plains: dict[bytes, bytes]) -> None:
        """Fetch what nobody else is fetching, and wait for the rest; some may still be wanted."""
        joined = {c: flight for c in wanted if (flight := self._flights.get(c)) is not None}
        own = [extent for chunk_id, extent in wanted.items() if chunk_id not in joined]
        if own:
            plains.update(await self._fetch(own))
            for extent in own:
                del wanted[extent.chunk_id]
        for chunk_id, flight in joined.items():
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
            if flight.plain is not None:
                plains[chunk_id] = flight.plain
                del wanted[chunk_id]

    async def _fetch(self, extents: Sequence[Extent]) -> dict[bytes, bytes]:
        """Fetch chunks that nobody else is fetching."""
        flights = {extent.chunk_id: _Flight(trio.Event()) for extent in extents}
        self._flights.update(flights)
        self.cache_misses += len(flights)
        errors: list[CfsError] = []

        async def fetch(span: _Span) -> None:
            try:
                await self._fetch_span(span, flights)
            except CfsError as error:
                errors.append(error)

        try:
            spans = _spans(extents)
            if len(spans) == 1:
                await fetch(spans[0])
            else:
                async with open_tasks() as nursery:
                    for span in spans:
                        nursery.start_soon(fetch, span)
        finally:
            for chunk_id, flight in flights.items():
                del self._flights[chunk_id]
                flight.done.set()
        if errors:
            raise errors[0]
        return {c: flight.plain for c, flight in flights.items() if flight.plain is not None}

    async def _fetch_span(self, span: _Span, flights: dict[bytes, _Flight]) -> None:
        async with self._ranges:
            try:
                data = memoryview(
                    await self._fragments.read(span.segment, span.at, span.end - span.at)
                )
            except CfsError as error:
                for extent in span.extents:
                    flights[extent.chunk_id].error = error
                raise
            blobs = [
                (extent, data[extent.at - span.at : extent.at - span.at + extent.stored])
                for extent in span.extents
            ]
            if sum(extent.raw for extent in span.extents) <= _HOP_BYTES:
                opened = _open_all(self.sealer, blobs)
            else:
                opened = await self._threads.run(_open_all, self.sealer, blobs)
            for extent, plain in zip(span.extents, opened, strict=True):
                flight = flights[extent.chunk_id]
                if isinstance(plain, Corrupt):
                    try:
                        flight.plain = await self._recover(span.segment, extent, plain)
                    except CfsError as error:
                        flight.error = error
                        raise
                else:
                    flight.plain = plain
                self._keep(extent.chunk_id, flight.plain)

    async def _recover(self, segment: Segment, extent: Extent, corrupt: Corrupt) -> bytes:
        """Find a choice of fragments under which the seal matches. Raises Corrupt."""
        if not self.sealer.knows(extent.key_version):
            raise corrupt
        self.counters.bad_seals += 1
        async for blob in self._fragments.alternatives(segment, extent.at, extent.stored):
            try:
                return self._open(extent, blob())
            except CfsError:
                await trio.lowlevel.checkpoint()
        raise corrupt

    def _open(self, extent: Extent, blob: Buffer) -> bytes:
        return self.sealer.open(extent.chunk_id, extent.key_version, extent.raw, blob)

    def _open_inline(self, extent: Extent) -> bytes:
        return self._open(extent, extent.inline)

    def _cached(self, chunk_id: bytes) -> bytes | None:
        plain = self._cache.get(chunk_id)
        if plain is not None:
            self._cache.move_to_end(chunk_id)
            self.cache_hits += 1
        return plain

    def _keep(self, chunk_id: bytes, plain: bytes) -> None:
        if chunk_id in self._cache or len(plain) > self._cache_bytes_max:
            return
        self._cache[chunk_id] = plain
        self.cache_bytes += len(plain)
        while self.cache_bytes > self._cache_bytes_max:
            _, oldest = self._cache.popitem(last=False)
            self.cache_bytes -= len(oldest)


@dataclass(slots=True)
class _Span:
    """One range of a segment, and the chunks wanted from it."""

    segment: Segment
    at: int
    end: int
    extents: list[Extent]


def _spans(extents: Sequence[Extent]) -> list[_Span]:
    """Join chunks that are close in a segment into ranges."""
    spans: list[_Span] = []
    for extent in sorted(extents, key=lambda e: (e.segment, e.at)):
        end = extent.at + extent.stored
        if end > extent.segment_length or extent.data < 1:
            raise Corrupt(f"extent at {extent.offset} names bytes outside its segment")
        last = spans[-1] if spans else None
        if (
            last is not None
            and last.segment.segment_id == extent.segment
            and extent.at - last.end <= GAP_BYTES_MAX
            and end - last.at <= RANGE_BYTES_MAX
        ):
            last.end = max(last.end, end)
            last.extents.append(extent)
        else:
            profile = Profile(extent.data, extent.parity)
            segment = Segment(extent.segment, profile, extent.segment_length)
            spans.append(_Span(segment, extent.at, end, [extent]))
    return spans


def _overlapping(extents: Sequence[Extent], offset: int, length: int) -> list[Extent]:
    """Give the extents that cover the range. Raises Corrupt when they leave a gap."""
    first = max(0, bisect_right(extents, offset, key=lambda e: e.offset) - 1)
    used = []
    reached = offset
    end = offset + length
    for position in range(first, len(extents)):
        extent = extents[position]
        if reached >= end:
            break
        if extent.offset > reached:
            break
        if extent.offset + extent.length > reached:
            used.append(extent)
            reached = extent.offset + extent.length
    if reached < end:
        raise Corrupt(f"no extent covers the file at {reached} up to {end}")
    return used


def _cut(used: Sequence[Extent], chunks: dict[bytes, bytes], offset: int, length: int) -> bytes:
    """Join what extents say of a range."""
    parts: list[Buffer] = []
    end = offset + length
    for extent in used:
        start = max(offset, extent.offset) - extent.offset
        stop = min(end, extent.offset + extent.length) - extent.offset
        if extent.kind == ExtentKind.HOLE:
            parts.append(bytes(stop - start))
            continue
        plain = chunks[extent.chunk_id]
        first, last = extent.skip + start, extent.skip + stop
        if last > len(plain):
            raise Corrupt(f"extent at {extent.offset} reaches past the end of its chunk")
        whole = first == 0 and last == len(plain)
        parts.append(plain if whole else memoryview(plain)[first:last])
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return parts[0]
    return b"".join(parts)


def _open_all(sealer: Sealer, blobs: Sequence[tuple[Extent, memoryview]]) -> list[bytes | Corrupt]:
    opened: list[bytes | Corrupt] = []
    for extent, blob in blobs:
        try:
            opened.append(sealer.open(extent.chunk_id, extent.key_version, extent.raw, blob))
        except Corrupt as error:
            opened.append(error)
    return opened
