"""Finds segments that may be garbage; says nothing about whether they are.

Two sources: what shards noted when the last extent of a segment went (cheap, every pass), and
fragments on storage nodes that no shard refers to (writers that died between upload and commit;
one page a node and pass). Fragments younger than `AGE_MIN_S` are passed over: their commit may be
on its way. That is a heuristic to save work; safety comes from condemning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from cfs.core.api import store
from cfs.core.api.cluster import NodeState, Role
from cfs.core.api.methods import Internal
from cfs.core.errors import CfsError
from cfs.core.ids import ShardId, group_of
from cfs.core.meta import commands as shard_commands
from cfs.core.meta import queries, results
from cfs.fs.root.ports import Calls
from cfs.fs.root.view import ClusterView
from cfs.net.tasks import run_all

AGE_MIN_S = 300
PAGE = 1000
ASK_S = 5.0
ASKS_AT_ONCE = 2
"""Shards that work on a question at the same time: they share nodes with what clients wait for."""


class Shards(Protocol):
    """Calls to shard leaders: `cfs.fs.meta.leaders.Leaders`."""

    async def call(self, group: int, method: str, request: Any, *, timeout_s: float) -> Any:
        """Call the leader of a group."""
        ...

    async def command(
        self, group: int, command: shard_commands.Command, *, timeout_s: float
    ) -> results.Result:
        """Have the leader of a group apply a command; raises the error of a `Failed` result."""
        ...


class Sweep:
    """Gathers candidates; remembers how far it is on each storage node."""

    def __init__(self, *, view: ClusterView, shards: Shards, calls: Calls) -> None:
        self._view = view
        self._shards = shards
        self._calls = calls
        self._cursors: dict[int, tuple[bytes, int]] = {}
        self._noted_after: dict[int, bytes] = {}

    async def noted(self, limit: int) -> list[bytes]:
        """Take the next page of what every shard noted. Raises what a shard's leader raises.

        Page after page, because what other shards still refer to stays noted.
        """
        found: dict[bytes, None] = {}
        share = max(1, limit // self._view.map.shard_count)
        answers = await self._ask_shards(
            lambda shard: queries.Candidates(limit=share, after=self._noted_after.get(shard, b""))
        )
        for shard, answer in answers.items():
            found.update(dict.fromkeys(answer))
            self._noted_after[shard] = answer[-1] if len(answer) == share else b""
        return list(found)

    async def orphans(self, limit: int) -> list[bytes]:
        """Take the next page of every storage node that is in; give what no shard refers to."""
        segments: dict[bytes, None] = {}
        for node in self._view.map.nodes:
            if node.role == Role.STORAGE and node.state == NodeState.IN:
                segments.update(dict.fromkeys(await self._page(node.node_id)))
        unreferred = list(segments)[: min(limit, queries.SEGMENTS_MAX)]
        if unreferred:
            unreferred = await self.unreferred(unreferred)
        return unreferred

    async def unreferred(self, segments: list[bytes]) -> list[bytes]:
        """Give those that no shard refers to."""
        query = queries.Unreferred(segments=tuple(segments))
        asked = await self._ask_shards(lambda _shard: query)
        answers = [set(a) for a in asked.values()]
        return [s for s in segments if all(s in answer for answer in answers)]

    async def _page(self, node: int) -> list[bytes]:
        after, after_index = self._cursors.get(node, (b"", 0))
        request = store.ListFragments(
            after=after, after_index=after_index, limit=PAGE, age_min_s=AGE_MIN_S
        )
        try:
            reply, _ = await self._calls.call(node, "store.list", request, timeout_s=ASK_S)
        except CfsError:
            return []  # asked again at the next pass
        if reply.end or not reply.fragments:
            self._cursors.pop(node, None)
        else:
            last = reply.fragments[-1]
            self._cursors[node] = (last.segment, last.index)
        return [f.segment for f in reply.fragments]

    async def _ask_shards(
        self, query_of: Callable[[int], queries.Candidates | queries.Unreferred]
    ) -> dict[int, tuple[bytes, ...]]:
        answers: dict[int, tuple[bytes, ...]] = {}

        async def ask(shard: int) -> None:
            group = group_of(ShardId(shard))
            request = Internal(group=group, command=queries.encode(query_of(shard)), read=True)
            reply = await self._shards.call(group, "meta.internal", request, timeout_s=ASK_S)
            answers[shard] = queries.decode_segments(reply.result)

        await run_all(ask, range(self._view.map.shard_count), at_once=ASKS_AT_ONCE)
        return answers
