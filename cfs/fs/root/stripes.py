"""Walks all segment ids once and has every segment proved by a storage node that holds part of it.

Three sorted streams are merged: fragments of each storage node, dedupe entries of each storage
node, segments that each shard's extents refer to. A step takes one page of every stream and treats
the ids below the first page's end, so memory is a page a stream whatever is stored.

What is written or collected meanwhile is no fault: whatever looks wrong is looked at again after
`AGAIN_S`, and counts only when a shard still refers to the segment then. Segments nobody refers to
are the collector's, and left alone.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import msgspec
import trio

from cfs.core.api import meta, scrub, store
from cfs.core.api.cluster import NodeState, Role
from cfs.core.api.methods import Internal
from cfs.core.api.scrub import Chunk, Finding, Stripe
from cfs.core.errors import FsError, Unavailable
from cfs.core.ids import Ino, ShardId, group_of, shard_of
from cfs.core.meta import queries
from cfs.fs.root.ports import Calls
from cfs.fs.root.sweep import Shards, Sweep
from cfs.fs.root.view import ClusterView
from cfs.net.tasks import open_tasks

PAGE = 500
REFERRED_PAGE = 32
BATCH = 8
ASK_S = 10.0
PROVE_S = 120.0
AGAIN_S = 2.0
LAYOUT_BYTES = 64 << 20
_SERVING = (NodeState.IN, NodeState.DRAINING)
_T = TypeVar("_T")


class Step(msgspec.Struct, kw_only=True):
    """What one step did."""

    after: bytes
    end: bool
    bytes_read: int = 0
    findings: list[Finding] = []


class _Segment(msgspec.Struct, kw_only=True):
    """A segment as the streams show it."""

    data: int = 0
    parity: int = 0
    length: int = 0
    holders: list[tuple[int, int]] = []
    extents: dict[Chunk, None] = {}
    entries: dict[Chunk, None] = {}
    counts: list[tuple[int, int, int]] = []
    """(shard, counted, found) where they differ."""

    def form(self, data: int, parity: int, length: int) -> None:
        if data:
            self.data, self.parity, self.length = data, parity, length


class Stripes:
    """The walk; keeps nothing between steps."""

    def __init__(self, *, view: ClusterView, calls: Calls, shards: Shards, sweep: Sweep) -> None:
        self._view = view
        self._calls = calls
        self._shards = shards
        self._sweep = sweep

    async def step(self, after: bytes, *, repair: bool) -> Step:
        """Treat the next page of segments after `after`. Raises what a shard's leader raises."""
        found: dict[bytes, _Segment] = {}
        bounds: list[bytes] = []
        nodes = self._serving()
        await self._fragments(after, nodes, found, bounds)
        await self._entries(after, nodes, found, bounds)
        await self._referred(after, found, bounds)
        bound = min(bounds) if bounds else None
        chosen = {s: found[s] for s in sorted(found) if bound is None or s < bound}
        step = Step(after=max(chosen, default=after), end=bound is None)
        await self._treat(chosen, step, repair=repair)
        return step

    async def of_tree(self, ino: int, *, repair: bool) -> AsyncIterator[Step]:
        """Prove the segments of one file, or of every file below a directory."""
        async for segments in self._files(ino):
            step = Step(after=b"", end=False)
            for segment in segments:
                for node in self._serving():
                    await self._holders_of(node, segment, segments[segment])
            await self._treat(segments, step, repair=repair)
            yield step

    # --- the streams

    async def _fragments(
        self, after: bytes, nodes: list[int], found: dict[bytes, _Segment], bounds: list[bytes]
    ) -> None:
        for node in nodes:
            request = store.ListFragments(after=after, after_index=65535, limit=PAGE)
            reply = await self._ask(node, "store.list", request)
            for info in reply.fragments:
                seen = found.setdefault(info.segment, _Segment())
                seen.form(info.data, info.parity, info.segment_length)
                seen.holders.append((node, info.index))
            if not reply.end and reply.fragments:
                bounds.append(reply.fragments[-1].segment)

    async def _entries(
        self, after: bytes, nodes: list[int], found: dict[bytes, _Segment], bounds: list[bytes]
    ) -> None:
        for node in nodes:
            request = scrub.ListEntries(after=after, limit=PAGE)
            reply = await self._ask(node, "store.entries", request)
            for row in reply.segments:
                seen = found.setdefault(row.segment, _Segment())
                seen.entries.update(dict.fromkeys(row.chunks))
            if not reply.end and reply.segments:
                bounds.append(reply.segments[-1].segment)

    async def _referred(
        self, after: bytes, found: dict[bytes, _Segment], bounds: list[bytes]
    ) -> None:
        for shard in range(self._view.map.shard_count):
            query = queries.Referred(limit=REFERRED_PAGE, after=after)
            rows = queries.decode_references(await self._query(shard, query))
            for row in rows:
                seen = found.setdefault(row.segment, _Segment())
                seen.form(row.data, row.parity, row.segment_length)
                seen.extents.update(dict.fromkeys(row.chunks))
                if row.counted != row.found:
                    seen.counts.append((shard, row.counted, row.found))
            if len(rows) == REFERRED_PAGE:
                bounds.append(rows[-1].segment)

    async def _holders_of(self, node: int, segment: bytes, seen: _Segment) -> None:
        before = (int.from_bytes(segment, "big") - 1).to_bytes(16, "big")
        request = store.ListFragments(after=before, after_index=65535, limit=16)
        reply = await self._ask(node, "store.list", request)
        seen.holders += [(node, i.index) for i in reply.fragments if i.segment == segment]

    async def _files(self, ino: int) -> AsyncIterator[dict[bytes, _Segment]]:
        """Yield the segments of file after file."""
        attr = (await self._meta(ino, "meta.getattr", meta.GetAttr)).attr
        pending = [ino]
        if not stat.S_ISDIR(attr.mode):
            yield await self._file(ino, attr.size)
            return
        while pending:
            directory, cookie = pending.pop(), 0
            while True:
                page = await self._meta(
                    directory, "meta.readdir", meta.ReadDir, cookie=cookie, limit=256, lease=False
                )
                for entry in page.entries:
                    if entry.kind == stat.S_IFDIR:
                        pending.append(entry.ino)
                    elif entry.kind == stat.S_IFREG:
                        yield await self._file(entry.ino, 1 << 62)
                if page.end or not page.entries:
                    break
                cookie = page.entries[-1].cookie

    async def _file(self, ino: int, size: int) -> dict[bytes, _Segment]:
        found: dict[bytes, _Segment] = {}
        at = 0
        while at < size:
            reply = await self._meta(
                ino, "meta.layout", meta.Layout, offset=at, length=LAYOUT_BYTES
            )
            for extent in reply.extents:
                if extent.kind is not meta.ExtentKind.CHUNK:
                    continue
                seen = found.setdefault(extent.segment, _Segment())
                seen.form(extent.data, extent.parity, extent.segment_length)
                chunk = Chunk(chunk_id=extent.chunk_id, at=extent.at, stored=extent.stored,
                              raw=extent.raw, key_version=extent.key_version)  # fmt: skip
                seen.extents[chunk] = None
            size, at = min(size, reply.attr.size), reply.end
        return found

    # --- treating

    async def _treat(self, chosen: dict[bytes, _Segment], step: Step, *, repair: bool) -> None:
        nodes = self._serving()
        work: dict[int, list[Stripe]] = {}
        doubtful: dict[bytes, list[Finding]] = {}
        for segment, seen in chosen.items():
            if seen.extents and not seen.holders:
                doubtful[segment] = [_lost(segment)]
            elif seen.entries and not seen.holders:
                await self._drop_entries(segment, step, repair=repair)
            elif seen.extents:
                prover = min(seen.holders, key=lambda h: (h[1], h[0]))[0]
                work.setdefault(prover, []).append(_stripe(segment, seen))
            for shard, counted, found in seen.counts:
                doubtful.setdefault(segment, []).append(_count(segment, shard, counted, found))
        async with open_tasks() as nursery:
            for node, stripes in work.items():
                nursery.start_soon(self._prove, node, stripes, step, doubtful, repair)
        complete = len(nodes) == sum(n.role == Role.STORAGE for n in self._view.map.nodes)
        if doubtful:
            await trio.sleep(AGAIN_S)
            gone = set(await self._sweep.unreferred(list(doubtful)))
            for segment, said in doubtful.items():
                if segment not in gone:
                    step.findings += [f for f in said if complete or f.kind != "stripe"]

    async def _prove(
        self, node: int, stripes: list[Stripe], step: Step,
        doubtful: dict[bytes, list[Finding]], repair: bool,  # noqa: FBT001 - a nursery's arguments
    ) -> None:  # fmt: skip
        for at in range(0, len(stripes), BATCH):
            request = scrub.ProveStripes(stripes=tuple(stripes[at : at + BATCH]), repair=repair)
            reply = await self._ask(node, "store.prove", request, PROVE_S)
            step.bytes_read += reply.bytes_read
            for finding in reply.findings:
                doubtful.setdefault(finding.segment, []).append(finding)

    async def _drop_entries(self, segment: bytes, step: Step, *, repair: bool) -> None:
        """Treat dedupe entries of a segment that is nowhere: look again, then forget them."""
        for node in self._serving():
            seen = _Segment()
            await self._holders_of(node, segment, seen)
            if seen.holders:
                return
        if repair:
            for node in self._serving():
                await self._ask(node, "store.forget", scrub.ForgetEntries(segments=(segment,)))
        step.findings.append(
            Finding(kind="dedupe", key=f"dedupe {segment.hex()}", where="", segment=segment,
                    detail="dedupe entries name a segment that is nowhere" + "; dropped" * repair,
                    repaired=repair)
        )  # fmt: skip

    # --- reaching out

    def _serving(self) -> list[int]:
        return [
            n.node_id
            for n in self._view.map.nodes
            if n.role == Role.STORAGE and n.state in _SERVING
        ]

    async def _ask(self, node: int, method: str, request: Any, timeout_s: float = ASK_S) -> Any:
        reply, _ = await self._calls.call(node, method, request, timeout_s=timeout_s)
        return reply

    async def _query(self, shard: int, query: queries.Query) -> bytes:
        group = group_of(ShardId(shard))
        request = Internal(group=group, command=queries.encode(query), read=True)
        reply = await self._shards.call(group, "meta.internal", request, timeout_s=ASK_S)
        answer: bytes = reply.result
        return answer

    async def _meta(self, ino: int, method: str, kind: Callable[..., _T], **fields: Any) -> Any:
        shard = shard_of(Ino(ino))
        request = kind(shard=shard, session=0, ino=ino, **fields)
        try:
            return await self._shards.call(group_of(shard), method, request, timeout_s=ASK_S)
        except FsError as error:
            raise Unavailable(f"inode {ino}: {error}") from error


def _stripe(segment: bytes, seen: _Segment) -> Stripe:
    return Stripe(
        segment=segment,
        data=seen.data,
        parity=seen.parity,
        segment_length=seen.length,
        holders=tuple(seen.holders),
        extents=tuple(seen.extents),
        entries=tuple(seen.entries),
    )


def _lost(segment: bytes) -> Finding:
    said = "files refer to this segment and no storage node has any part of it: its bytes are lost"
    return Finding(kind="stripe", key=f"stripe {segment.hex()}", where="", detail=said,
                   segment=segment)  # fmt: skip


def _count(segment: bytes, shard: int, counted: int, found: int) -> Finding:
    said = f"shard {shard} counts {counted} extents of this segment and has {found}"
    key = f"count {segment.hex()} {shard}"
    return Finding(kind="extent", key=key, where=f"shard {shard}", detail=said, segment=segment)
