"""Decides who is down, who is back, and whose data must find another home.

Time is the root leader's monotonic clock, counted from when it began to lead: a new leader gives
everybody a full silence before it calls anyone down. When the leader itself stood still (stopped,
starved), that time counts for nobody.

A node that is DOWN becomes OUT after the grace, unless
* that would leave fewer domains (storage) or nodes (meta) than the cluster needs, or
* more than `share_max` of its role is missing: a network fault, not that many deaths.
"""

from __future__ import annotations

import msgspec

from cfs.core.api.cluster import NodeState, Role
from cfs.core.api.root import Heartbeat
from cfs.core.place.replicas import REPLICAS
from cfs.core.root.commands import StateChange
from cfs.core.root.records import NodeRecord

QUEUE_BYTES_BUSY = 4 << 20
"""More than about one segment's fragments waits: clients are slowed down by the disks."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Tunable patience."""

    silence_s: float = 3.0
    """Six beats missed."""
    grace_s: float = 600.0
    share_max: float = 0.34
    stall_s: float = 1.0
    """A gap between two looks beyond which this process stood still."""


class Beat(msgspec.Struct):
    """The last heartbeat of a node and when it came (monotonic seconds)."""

    at: float
    heartbeat: Heartbeat


class Detector:
    """Heartbeats seen by this leader, and the state changes they call for."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._since = 0.0
        self._looked = 0.0
        self._missing: dict[int, float] = {}
        self.beats: dict[int, Beat] = {}

    def patience(self, *, grace_s: float, share_max: float) -> None:
        """Take what an administrator set."""
        self._limits = msgspec.structs.replace(self._limits, grace_s=grace_s, share_max=share_max)

    def clients_queue(self) -> bool:
        """Tell whether clients waited for some node's disks in the last half second."""
        return any(
            beat.heartbeat.store is not None
            and beat.heartbeat.store.queued_bytes > QUEUE_BYTES_BUSY
            for beat in self.beats.values()
        )

    def begin(self, now: float) -> None:
        """Start over: this node leads from `now` on."""
        self._since = self._looked = now
        self._missing.clear()
        self.beats.clear()

    def beat(self, now: float, heartbeat: Heartbeat) -> None:
        """Note a heartbeat."""
        self.beats[heartbeat.node_id] = Beat(at=now, heartbeat=heartbeat)

    def silent_s(self, now: float, node_id: int) -> float:
        """Give how long a node has been silent, as far as this leader can know."""
        beat = self.beats.get(node_id)
        return now - max(self._since, beat.at if beat is not None else 0.0)

    def look(
        self, now: float, nodes: list[NodeRecord], domains_needed: int
    ) -> tuple[StateChange, ...]:
        """Give the changes due at `now`. Call it about every half second."""
        stood_still = now - self._looked - self._limits.stall_s
        if stood_still > 0:
            self._forgive(stood_still)
        self._looked = now
        changes = [c for r in nodes if (c := self._change_of(now, r)) is not None]
        return (*changes, *self._outs(now, nodes, domains_needed))

    def _forgive(self, seconds: float) -> None:
        self._since += seconds
        for beat in self.beats.values():
            beat.at += seconds
        for node_id in self._missing:
            self._missing[node_id] += seconds

    def _change_of(self, now: float, record: NodeRecord) -> StateChange | None:
        node = record.node
        heard = node.node_id in self.beats
        silent = self.silent_s(now, node.node_id) >= self._limits.silence_s
        match node.state:
            case NodeState.JOINING if heard and not silent:
                return StateChange(node.node_id, node.state, NodeState.IN)
            case NodeState.IN | NodeState.DRAINING if silent:
                return StateChange(node.node_id, node.state, NodeState.DOWN, False)
            case NodeState.DOWN | NodeState.OUT if heard and not silent:
                settled = record.resting
                back = NodeState.IN if settled == NodeState.JOINING else settled
                if back not in (node.state, NodeState.DOWN):
                    return StateChange(node.node_id, node.state, back)
            case _:
                pass
        return None

    def _outs(self, now: float, nodes: list[NodeRecord], domains_needed: int) -> list[StateChange]:
        outs: list[StateChange] = []
        down = {r.node.node_id for r in nodes if r.node.state == NodeState.DOWN}
        self._missing = {n: self._missing.get(n, now) for n in sorted(down)}
        for role in (Role.META, Role.STORAGE):
            members = [r.node for r in nodes if r.node.role == role]
            members = [n for n in members if n.state not in (NodeState.OUT, NodeState.JOINING)]
            missing = [n for n in members if n.state == NodeState.DOWN]
            alive = [n for n in members if n.state != NodeState.DOWN]
            if len(missing) > max(1, int(self._limits.share_max * len(members))):
                continue
            if role == Role.STORAGE and len({n.domain for n in alive}) < domains_needed:
                continue
            if role == Role.META and len(alive) < REPLICAS:
                continue
            outs += [
                StateChange(n.node_id, NodeState.DOWN, NodeState.OUT, False)
                for n in missing
                if now - self._missing[n.node_id] >= self._limits.grace_s
                and self.silent_s(now, n.node_id) >= self._limits.grace_s
            ]
        return outs
