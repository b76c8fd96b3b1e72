"""Compares the replicas of metadata groups: what they hold, and what they have on disk.

Replicas that applied the same entries have the same digest. Each keeps the digests of its latest
applied indexes, so on a busy group, too, there is one that all of them passed. Who differs from a
majority of all voters, or fails its own recount, is wrong: with `repair` it is rebuilt from its
peers. Without a majority nothing is touched: people must look.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import structlog
import trio

from cfs.core.api.cluster import NodeState, ShardPlacement
from cfs.core.api.scrub import DigestOf, DigestReply, Finding, RebuildReplica
from cfs.core.errors import CfsError, DeadlineExceeded
from cfs.fs.root.ports import Calls
from cfs.fs.root.view import ClusterView
from cfs.net.tasks import open_tasks

_LOG = structlog.get_logger()

ASK_S = 300.0
"""A recount reads all of a replica's state."""
MEET_S = 0.2
MEETINGS = 25
REBUILT_S = 120.0


class Verdict(msgspec.Struct, kw_only=True):
    """What a comparison came to."""

    findings: list[Finding] = []
    silent: list[int] = []
    """Nodes that did not answer."""


class Replicas:
    """The comparer."""

    def __init__(self, *, view: ClusterView, calls: Calls) -> None:
        self._view = view
        self._calls = calls

    async def compare(
        self, group: ShardPlacement, *, recount: bool, log: bool, repair: bool
    ) -> Verdict:
        """Compare one group's replicas; `log`: have its nodes read their logs, too."""
        verdict = Verdict()
        replies = await self._digests(group, recount=recount, log=log, mend=repair)
        verdict.silent = [v for v in group.voters if v not in replies]
        for node, reply in replies.items():
            if reply.log_damage:
                said = reply.log_damage + ("; written anew from memory" * reply.log_mended)
                verdict.findings.append(self._finding("log", node, -1, said, reply.log_mended))
        wrong = {n: r.damage for n, r in replies.items() if r.damage}
        differing, agreed = await self._differing(group, replies)
        wrong = {**differing, **wrong}
        for node, said in wrong.items():
            repaired = False
            told = said
            healthy = agreed and node in group.voters
            if repair and healthy and len(group.voters) - len(wrong) > len(group.voters) // 2:
                try:
                    await self._rebuild(group, node)
                    repaired = True
                    told += "; rebuilt from its peers"
                except CfsError as error:
                    told += f"; cannot be rebuilt now: {error}"
            elif not agreed:
                told += "; no majority of replicas agrees, nothing was changed"
            verdict.findings.append(self._finding("replica", node, group.group, told, repaired))
        return verdict

    async def _digests(
        self, group: ShardPlacement, *, recount: bool, log: bool, mend: bool
    ) -> dict[int, DigestReply]:
        replies: dict[int, DigestReply] = {}
        request = DigestOf(group=group.group, recount=recount, log=log, mend=mend)

        async def ask(node: int) -> None:
            try:
                replies[node] = await self._ask(node, request, ASK_S)
            except CfsError as error:
                _LOG.info("digest_unknown", group=group.group, node=node, error=str(error))

        async with open_tasks() as nursery:
            for node in group.voters:
                if self._up(node):
                    nursery.start_soon(ask, node)
        return replies

    async def _differing(
        self, group: ShardPlacement, replies: dict[int, DigestReply]
    ) -> tuple[dict[int, str], bool]:
        """Give who differs from the majority; the flag: there is one."""
        asked = sorted(replies)
        for _ in range(MEETINGS):
            common = set.intersection(*(set(replies[n].digests) for n in asked)) if asked else set()
            if common:
                break
            await trio.sleep(MEET_S)
            fresh = await self._digests(group, recount=False, log=False, mend=False)
            replies = {n: fresh[n] for n in asked if n in fresh}
            asked = sorted(replies)
        else:
            return {}, True  # never met: a replica is far behind, which the status shows
        if not common:
            return {}, True
        index = max(common)
        votes = Counter(replies[n].digests[index] for n in asked)
        winner, count = votes.most_common(1)[0]
        agreed = count > len(group.voters) // 2
        return {
            n: f"its state digest at {index} differs from that of {count} others"
            for n in asked
            if len(votes) > 1 and (replies[n].digests[index] != winner or not agreed)
        }, agreed

    async def _rebuild(self, group: ShardPlacement, node: int) -> None:
        _LOG.warning("replica_rebuild", group=group.group, node=node)
        request = RebuildReplica(group=group.group)
        await self._calls.call(node, "meta.rebuild", request, timeout_s=ASK_S)
        peer = next(v for v in group.voters if v != node and self._up(v))
        with trio.move_on_after(REBUILT_S):
            while True:
                mine = await self._ask(node, DigestOf(group=group.group), ASK_S)
                theirs = await self._ask(peer, DigestOf(group=group.group), ASK_S)
                shared = set(mine.digests) & set(theirs.digests) - {0}
                if mine.applied and any(mine.digests[i] == theirs.digests[i] for i in shared):
                    return
                await trio.sleep(MEET_S)
        raise DeadlineExceeded(f"it begins empty and has not caught up within {REBUILT_S:.0f} s")

    async def _ask(self, node: int, request: DigestOf, timeout_s: float) -> DigestReply:
        reply, _ = await self._calls.call(node, "meta.digest", request, timeout_s=timeout_s)
        assert isinstance(reply, DigestReply)
        return reply

    def _up(self, node: int) -> bool:
        known = self._view.node(node)
        return known is not None and known.state in (NodeState.IN, NodeState.DRAINING)

    def _finding(self, kind: str, node: int, group: int, said: str, repaired: bool) -> Finding:  # noqa: FBT001
        known = self._view.node(node)
        name = known.name if known is not None else f"node {node}"
        key = f"{kind} {name}" + (f" group {group}" if group >= 0 else "")
        return Finding(kind=kind, key=key, where=name, detail=said, repaired=repaired)
