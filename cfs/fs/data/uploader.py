"""Uploader: runs of bytes become durable extents; sealed chunks become durable references.

How a write flows is in `flow`, how a segment becomes durable in `sender`. Extents are given only
when everything they refer to is durable. Publishing to the dedupe index happens after that: in the
nursery given to the constructor, or else before `write` returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import trio

from cfs.core.api.cluster import ClusterMap
from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.api.store import ChunkRef
from cfs.core.data.pipeline import Sealed, Sealer
from cfs.fs.data.dedupe import Dedupe
from cfs.fs.data.flow import Cut, Engine, Flow, Limits
from cfs.fs.data.fragment_client import Buffer, FragmentClient, Pool
from cfs.fs.data.nodes import Nodes
from cfs.fs.data.sender import Sender
from cfs.fs.data.source import Feed, Run, Runs, Stream
from cfs.net.ports import Threads

__all__ = ["Limits", "Run", "Uploader", "extent_of"]

_STREAM_BYTES = 4 << 20
"""A write this long is part of a stream: it is compressed the fast way."""
_PUBLISHING_MAX = 64
"""Publications under way; more are dropped: a miss costs space."""


class Uploader:
    """Writes chunks to the cluster's storage nodes."""

    def __init__(
        self,
        *,
        pool: Pool,
        cluster_map: Callable[[], ClusterMap],
        sealer: Sealer | None,
        threads: Threads,
        session: Callable[[], int],
        refresh: Callable[[], Awaitable[object]],
        limits: Limits | None = None,
        nodes: Nodes | None = None,
        nursery: trio.Nursery | None = None,
    ) -> None:
        """Wire it. Without `sealer` it can only `pack`.

        `session` gives a session id that nobody else, no other Uploader either, has ever written
        segments under; it may change to another such id. `sealer` may be replaced when the volume
        key changes.
        """
        self.sealer = sealer
        client = FragmentClient(pool)
        self.nodes = nodes or Nodes(cluster_map)
        self.dedupe = Dedupe(client, self.nodes)
        self.sender = Sender(
            client=client,
            nodes=self.nodes,
            threads=threads,
            session=session,
            refresh=refresh,
        )
        self._engine = Engine(
            dedupe=self.dedupe,
            sender=self.sender,
            threads=threads,
            limits=limits or Limits(),
            published=self._published,
        )
        self._nursery = nursery
        self._publishing = 0

    async def write(
        self, runs: Sequence[Run], *, avoid: Collection[bytes] = ()
    ) -> list[list[Extent]]:
        """Store the runs; give each run's extents, in order, once they are durable.

        Dedupe hits in the segments `avoid` are not used. Waits while fewer than `m + 1` domains are
        alive. Raises NoSpace. Cancelled or failed, it has written nothing that anybody refers to.
        """
        assert self.sealer is not None
        flow = Flow(self._engine, avoid, fast=sum(len(r.data) for r in runs) >= _STREAM_BYTES)
        cuts: list[Cut] = []
        await flow.write(self.sealer, Runs(runs, self._engine.limits.batch_bytes), cuts)
        extents: list[list[Extent]] = [[] for _ in runs]
        for cut in cuts:
            extents[cut.run].append(extent_of(cut.offset, flow.refs[cut.chunk_id]))
        return extents

    async def stream(self, feed: Feed, *, avoid: Collection[bytes] = ()) -> None:
        """Store what `feed` gives until it gives no more; it is told what has landed on the way.

        Otherwise as `write`.
        """
        assert self.sealer is not None
        cuts: deque[Cut] = deque()

        def tell() -> None:
            landed = []
            while cuts and (ref := flow.refs.get(cuts[0].chunk_id)) is not None:
                landed.append(extent_of(cuts.popleft().offset, ref))
            if landed:
                feed.landed(landed)

        flow = Flow(self._engine, avoid, fast=True, settled=tell)
        await flow.write(self.sealer, Stream(feed, self._engine.limits.batch_bytes), cuts)
        tell()  # the last chunks may all be repeats of some that landed before
        assert not cuts

    async def pack(
        self,
        sealed: Sequence[Sealed],
        *,
        avoid: Collection[bytes] = (),
        accept: Callable[[ChunkRef], bool] = lambda _ref: True,
    ) -> list[ChunkRef]:
        """Store chunks that are sealed already; give their references in order, durable.

        Needs no key. Compaction names the segments it empties in `avoid`; what is there already
        counts only if `accept` says so. Raises as `write`.
        """
        flow = Flow(self._engine, avoid, repair=True)
        await flow.pack(sealed, accept)
        return [flow.refs[chunk.chunk_id] for chunk in sealed]

    def inline(self, offset: int, data: Buffer) -> Extent:
        """Seal up to 256 KiB (meant: 16) into an extent that carries its bytes itself."""
        assert self.sealer is not None
        sealed = self.sealer.seal(data)
        return Extent(
            offset=offset,
            length=sealed.raw,
            kind=ExtentKind.INLINE,
            chunk_id=sealed.chunk_id,
            raw=sealed.raw,
            key_version=sealed.key_version,
            stored=len(sealed.blob),
            inline=sealed.blob,
        )

    def forget(self, segments: Iterable[bytes]) -> None:
        """Take segments out of every later answer: a commit said they are condemned."""
        self.dedupe.forget(segments)

    async def _published(self, refs: Sequence[ChunkRef]) -> None:
        self.dedupe.remember(refs)
        if self._nursery is None:
            await self.dedupe.publish(refs)
        elif self._publishing < _PUBLISHING_MAX:
            self._publishing += 1
            self._nursery.start_soon(self._publish, refs)

    async def _publish(self, refs: Sequence[ChunkRef]) -> None:
        try:
            await self.dedupe.publish(refs)
        finally:
            self._publishing -= 1


def extent_of(offset: int, ref: ChunkRef) -> Extent:
    """Make the extent of a whole chunk at a file offset."""
    return Extent(
        offset=offset,
        length=ref.raw,
        kind=ExtentKind.CHUNK,
        chunk_id=ref.chunk_id,
        raw=ref.raw,
        key_version=ref.key_version,
        segment=ref.segment,
        data=ref.data,
        parity=ref.parity,
        segment_length=ref.segment_length,
        at=ref.at,
        stored=ref.stored,
    )
