"""Proposes where placement groups and Raft replicas go, whenever nodes or states changed.

Storage: until the first client has a session nothing can have been written: every list is planned
afresh. From then on lists only grow at their end, while they are short. Moving data is another
worker's work. Replicas: onto nodes that are in, off nodes that are out or draining; nothing moves
while a metadata node is down unless something must.
"""

from __future__ import annotations

import structlog

from cfs.core.api.cluster import ClusterMap, NodeState, Role, ShardPlacement
from cfs.core.errors import CfsError, Retryable
from cfs.core.place import planner, replicas
from cfs.core.place.planner import Target
from cfs.core.root import commands, records
from cfs.core.root.map import read_map
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.workers import Worker
from cfs.net.ports import Threads

_LOG = structlog.get_logger()


class Placer:
    """Plans from the applied state and proposes; the machine refuses a plan that is stale."""

    def __init__(self, replica: RootReplica, worker: Worker, threads: Threads) -> None:
        self._replica = replica
        self._threads = threads
        self._worker = worker
        self._planned = 0

    def begin(self) -> None:
        """Start over with a new term."""
        self._planned = 0

    async def look(self) -> None:
        """Plan if nodes, states or placement changed since the last plan."""
        counters = records.get_counters(self._replica.state)
        if counters.placement_epoch == self._planned:
            return
        known = read_map(self._replica.state)
        if known is None:
            return
        self._worker.state = "planning"
        try:
            await self._propose(known, counters)
            self._worker.last_error = ""
        except CfsError as error:
            if not isinstance(error, Retryable):  # those are planned anew at the next look
                self._worker.last_error = str(error)
            raise
        finally:
            self._worker.state = "idle"

    async def _propose(self, known: ClusterMap, counters: records.Counters) -> None:
        epoch = counters.placement_epoch
        # In a thread: 1024 groups over 100 nodes take a second, and Raft shares this loop. What
        # changes meanwhile makes the machine refuse the plan.
        lists = await self._threads.run(plan_lists, known, counters.written)
        if lists:
            _LOG.info("placement_change", lists=len(lists))
            await self._replica.propose(commands.Place(placement_epoch=epoch, lists=lists))
            epoch = records.get_counters(self._replica.state).placement_epoch
        groups = await self._threads.run(plan_groups, known)
        if groups:
            _LOG.info("replicas_change", groups=len(groups))
            await self._replica.propose(commands.PlaceGroups(placement_epoch=epoch, groups=groups))
        if not lists and not groups:
            self._planned = epoch
            self._worker.progress = f"as planned at epoch {epoch}"


def plan_lists(
    known: ClusterMap,
    written: bool,  # noqa: FBT001 - `Threads.run` passes by position
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Give the placement lists to change; `written`: data may exist."""
    storage = [n for n in known.nodes if n.role == Role.STORAGE]
    targets = [
        Target(node_id=n.node_id, domain=n.domain, weight=n.weight)
        for n in storage
        if n.state == NodeState.IN
    ]
    if not written:
        fresh = planner.fresh(targets, len(known.placement), known.profile.total)
        return tuple(
            (number, members)
            for number, members in enumerate(fresh)
            if members != known.placement[number]
        )
    targets += [
        Target(node_id=n.node_id, domain=n.domain, weight=0.0)
        for n in storage
        if n.state != NodeState.IN
    ]
    moving = {move.group for move in known.moves}
    grown = planner.fill(known.placement, targets, known.profile.total)
    return tuple((group, members) for group, members in grown.items() if group not in moving)


def plan_groups(known: ClusterMap) -> tuple[ShardPlacement, ...]:
    """Give the Raft groups whose replicas or preferred leader should change."""
    metas = [n for n in known.nodes if n.role == Role.META]
    staying = [n for n in metas if n.state in (NodeState.IN, NodeState.DOWN)]
    hosts = [replicas.Host(node_id=n.node_id, domain=n.domain) for n in staying]
    if any(n.state == NodeState.DOWN for n in staying):
        stay = {n.node_id for n in staying}
        if all(set(g.voters) <= stay for g in known.groups):
            return ()
    return tuple(replicas.plan(known.groups, hosts))
