"""Where every byte of a file is, how safe it is now, and why reading it might wait (`cfs explain`).

Asks the shard's leader for extents and holders, and every storage node for the fragments of each
segment: who answers slowly, or not at all, is named. Bounded: `SEGMENTS_MAX` segments are looked
at, the rest is counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import trio

from cfs.core.api import insight, meta, store
from cfs.core.api.cluster import NodeState, Role
from cfs.core.errors import CfsError
from cfs.core.ids import Ino, SegmentId, group_of, shard_of
from cfs.core.place.group import placement_group_of
from cfs.fs.root.paths import Paths, is_directory
from cfs.fs.root.ports import Calls
from cfs.fs.root.sweep import Shards
from cfs.fs.root.view import ClusterView
from cfs.net.tasks import open_tasks

SEGMENTS_MAX = 200
LAYOUT_BYTES = 64 << 20
ASK_S = 5.0
STORE_S = 2.0
SLOW_MS = 500


class _Segment(msgspec.Struct, kw_only=True):
    data: int
    parity: int
    length: int
    bytes_here: int = 0
    extents: int = 0
    held: dict[int, list[int]] = {}
    """Fragment index: nodes."""


class Explainer:
    """Gathers it."""

    def __init__(self, *, view: ClusterView, calls: Calls, shards: Shards, paths: Paths) -> None:
        self._view = view
        self._calls = calls
        self._shards = shards
        self._paths = paths

    async def explain(self, ino: int) -> dict[str, Any]:
        """Give all that is known of an inode, as plain values."""
        shard = shard_of(Ino(ino))
        attr = await self._paths.attributes(ino)
        group = next(g for g in self._view.map.groups if g.group == group_of(shard))
        told: dict[str, Any] = {
            "ino": ino,
            "size": attr.size,
            "allocated": attr.allocated,
            "links": attr.nlink,
            "shard": int(shard),
            "replicas": [self._described(v) for v in group.voters],
        }
        held = await self._shards.call(
            group_of(shard), "meta.holders", insight.GetHolders(shard=shard, ino=ino),
            timeout_s=ASK_S,
        )  # fmt: skip
        told["holders"] = [msgspec.structs.asdict(h) for h in held.holders]
        told["waits"] = list(held.waits)
        if not is_directory(attr):
            told |= await self._contents(ino, attr.size)
        return told

    async def _contents(self, ino: int, size: int) -> dict[str, Any]:
        segments, kinds = await self._segments(ino, size)
        chosen = dict(list(segments.items())[:SEGMENTS_MAX])
        asked = await self._fragments(chosen)
        rows = [self._row(segment, seen) for segment, seen in chosen.items()]
        spare = [row["survives"] for row in rows]
        slow = {self._name(n): ms for n, ms in asked.items() if ms is None or ms > SLOW_MS}
        return {
            "bytes": {kind.name.lower(): count for kind, count in kinds.items()},
            "segments": rows,
            "segments_not_shown": len(segments) - len(chosen),
            "survives": min(spare, default=None),
            "nodes": {self._name(n): ms for n, ms in asked.items()},
            "slow": slow,
        }

    async def _segments(
        self, ino: int, size: int
    ) -> tuple[dict[bytes, _Segment], Counter[meta.ExtentKind]]:
        shard = shard_of(Ino(ino))
        found: dict[bytes, _Segment] = {}
        kinds: Counter[meta.ExtentKind] = Counter()
        at = 0
        while at < size:
            request = meta.Layout(shard=shard, session=0, ino=ino, offset=at, length=LAYOUT_BYTES)
            reply = await self._shards.call(
                group_of(shard), "meta.layout", request, timeout_s=ASK_S
            )
            for extent in reply.extents:
                kinds[extent.kind] += extent.length
                if extent.kind is meta.ExtentKind.CHUNK:
                    seen = found.setdefault(
                        extent.segment,
                        _Segment(data=extent.data, parity=extent.parity,
                                 length=extent.segment_length),
                    )  # fmt: skip
                    seen.bytes_here += extent.length
                    seen.extents += 1
            at = reply.end
        return found, kinds

    async def _fragments(self, chosen: dict[bytes, _Segment]) -> dict[int, float | None]:
        """Ask every storage node what it has of these; give how long the slowest answer took."""
        took: dict[int, float | None] = {}

        async def ask(node: int) -> None:
            slowest = 0.0
            for segment, seen in chosen.items():
                before = (int.from_bytes(segment, "big") - 1).to_bytes(16, "big")
                request = store.ListFragments(after=before, after_index=65535, limit=16)
                began = trio.current_time()
                try:
                    reply, _ = await self._calls.call(
                        node, "store.list", request, timeout_s=STORE_S
                    )
                except CfsError:
                    took[node] = None
                    return
                slowest = max(slowest, 1000 * (trio.current_time() - began))
                for info in reply.fragments:
                    if info.segment == segment:
                        seen.held.setdefault(info.index, []).append(node)
            took[node] = round(slowest, 1)

        async with open_tasks() as nursery:
            for node in self._view.map.nodes:
                if node.role == Role.STORAGE and node.state != NodeState.OUT:
                    nursery.start_soon(ask, node.node_id)
        return took

    def _row(self, segment: bytes, seen: _Segment) -> dict[str, Any]:
        copies = seen.data == 1
        whole = sum(map(len, seen.held.values())) if copies else len(seen.held)
        placement = self._view.map.placement
        members = placement[placement_group_of(SegmentId(segment), len(placement))]
        total = seen.data + seen.parity
        return {
            "segment": segment.hex(),
            "form": f"{total} copies" if copies else f"{seen.data}+{seen.parity}",
            "bytes": seen.bytes_here,
            "extents": seen.extents,
            "fragments": {
                str(i): [self._name(n) for n in seen.held.get(i, ())] for i in range(total)
            },
            "belongs_on": [self._name(n) for n in members],
            "survives": whole - seen.data,
        }

    def _described(self, node: int) -> str:
        known = self._view.node(node)
        return f"{self._name(node)} ({known.state.value if known else 'unknown'})"

    def _name(self, node: int) -> str:
        known = self._view.node(node)
        return known.name if known is not None else f"node {node}"
