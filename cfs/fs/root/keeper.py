"""Starts the jobs that nobody asks for: repair of what is lost, tidying of what came back.

Looked at with every look of the root leader, cheap when nothing changed. A job that is paused or
failed is somebody's to decide about, and one that was cancelled is not started again for `HELD_S`.
"""

from __future__ import annotations

from typing import Any

import structlog
import trio

from cfs.core.api.cluster import NodeState, Role
from cfs.core.errors import Refused
from cfs.core.root import commands, jobs
from cfs.core.root.nodes import read_settings
from cfs.core.root.records import JobState, NodeRecord
from cfs.fs.root.detector import Detector
from cfs.fs.root.job_runner import Jobs
from cfs.fs.root.mover import Mover
from cfs.fs.root.replica import RootReplica
from cfs.net.ports import WallClock

_LOG = structlog.get_logger()

HELD_S = 600
AGAIN_S = 60
"""A repair that found no place for some groups is tried again after this."""
STARTED_BY = "cluster"
CALM_S = 5.0
"""Clients that have just seen a node missing go on without it for some seconds."""
FRESH_S = 2.0
"""A heartbeat no older than this says which disks a node has."""


class Keeper:
    """Looks for what is to be mended."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        jobs: Jobs,
        mover: Mover,
        detector: Detector,
        clock: WallClock,
    ) -> None:
        self._replica = replica
        self._jobs = jobs
        self._mover = mover
        self._detector = detector
        self._clock = clock
        self._missing: dict[int, float] = {}
        self._calm_since = 0.0

    def begin(self) -> None:
        """Start over with a new term."""
        self._missing.clear()
        self._calm_since = trio.current_time()

    async def look(self) -> None:
        """Start what is due."""
        nodes = [r for r in self._replica.nodes() if r.node.role == Role.STORAGE]
        out = {r.node.node_id for r in nodes if r.node.state == NodeState.OUT}
        if out and any(not out.isdisjoint(r.members) for r in self._mover.lists()):
            await self._start("repair", {})
        elif self._mover.open_moves() and not self._moving():
            await self._start("repair", {})  # what a job that was cancelled left open
        await self._look_at_forms(nodes)
        for record in nodes:
            if record.stray and record.node.state in (NodeState.IN, NodeState.DRAINING):
                await self._start("tidy", {"node": record.node.name})
            await self._look_at_disks(record)

    async def _look_at_forms(self, nodes: list[NodeRecord]) -> None:
        """Rewrite what was written while nodes were missing, once all are back for a while."""
        now = trio.current_time()
        total = self._replica.cluster().profile.total
        serving = [r.node for r in nodes if r.node.state == NodeState.IN]
        calm = (
            len({n.domain for n in serving}) >= total
            and not any(r.node.state == NodeState.DOWN for r in nodes)
            and all(len(r.members) >= total for r in self._mover.lists())
            and not self._moving()
        )
        if not calm or not self._replica.degraded():
            self._calm_since = now
        elif now - self._calm_since >= CALM_S:
            await self._start("reencode", {})

    async def _look_at_disks(self, record: NodeRecord) -> None:
        """Learn of new disks; repair a node whose disks have been gone for the grace."""
        node = record.node
        now = trio.current_time()
        shown = self.usable_disks(node.node_id)
        if shown is None or node.state not in (NodeState.IN, NodeState.DRAINING):
            self._missing.pop(node.node_id, None)
            return
        lost = [d for d in record.disks if d not in shown]
        if not lost:
            self._missing.pop(node.node_id, None)
            if len(shown) > len(record.disks):
                await self._replica.propose(commands.SetDisks(node_id=node.node_id, disks=shown))
            return
        since = self._missing.setdefault(node.node_id, now)
        if shown and now - since >= read_settings(self._replica.state).grace_s:
            await self._start("repair", {"node": node.name})

    def usable_disks(self, node_id: int) -> tuple[bytes, ...] | None:
        """Give the ids of a node's disks that take fragments; None when it was not heard now."""
        beat = self._detector.beats.get(node_id)
        if beat is None or beat.heartbeat.store is None:
            return None
        if trio.current_time() - beat.at > FRESH_S:
            return None
        return tuple(d.disk_id for d in beat.heartbeat.store.disks if d.usable)

    def lost_disks(self, record: NodeRecord) -> int:
        """Count a node's disks that are gone."""
        shown = self.usable_disks(record.node.node_id)
        return 0 if shown is None else sum(d not in shown for d in record.disks)

    def _moving(self) -> bool:
        return any(self._jobs.active(kind) for kind in ("repair", "drain", "rebalance"))

    async def _start(self, kind: str, spec: dict[str, Any]) -> None:
        known = [
            j for j in jobs.read_jobs(self._replica.state) if j.kind == kind and j.spec == spec
        ]
        if any(not jobs.is_over(j) for j in known):
            return
        now_ms = self._clock.time_ns() // 1_000_000
        for job in known:
            held_s = HELD_S if job.state == JobState.CANCELLED else AGAIN_S
            left = job.state == JobState.CANCELLED or job.result.get("groups_left")
            if left and job.updated_ms > now_ms - held_s * 1000:
                return
        try:
            await self._jobs.start(kind, spec, started_by=STARTED_BY)
        except Refused as error:
            _LOG.info("job_not_started", kind=kind, error=str(error))
