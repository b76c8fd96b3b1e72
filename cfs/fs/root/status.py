"""Puts the cluster's condition in figures and plain words.

Totals are asked of the shard leaders (at most once a second); a shard that does not answer keeps
its last figures and is named as a problem. Every problem names the object, the fact, and what to
do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import trio

from cfs.core.api import meta, root
from cfs.core.api.cluster import ClusterMap, Node, NodeState, Role
from cfs.core.api.root import NodeStatus, WorkerStatus
from cfs.core.errors import CfsError
from cfs.core.ids import ShardId, group_of
from cfs.core.kv import Reader
from cfs.core.place.replicas import REPLICAS, size_of
from cfs.core.root import findings, records
from cfs.core.root.findings import FindingState
from cfs.core.root.jobs import read_jobs
from cfs.core.root.nodes import read_settings
from cfs.core.root.records import JobRecord, JobState, SettingsRecord
from cfs.fs.root.detector import Detector
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.view import ClusterView
from cfs.net.tasks import open_tasks

TOTALS_AGE_S = 1.0
ASK_S = 1.5
ASKS_AT_ONCE = 16


class Shards(Protocol):
    """Calls to shard leaders: `cfs.fs.meta.leaders.Leaders`."""

    async def call(self, group: int, method: str, request: Any, *, timeout_s: float) -> Any:
        """Call the leader of a group; raises DeadlineExceeded when there is none."""
        ...


NAMES_MAX = 5
_EXPECTED = (NodeState.IN.value, NodeState.DRAINING.value)


class StatusBuilder:
    """Builds `root.Status` on the root leader."""

    def __init__(
        self,
        *,
        node_id: int,
        replica: RootReplica,
        view: ClusterView,
        detector: Detector,
        shards: Shards,
        workers: Callable[[], Iterable[WorkerStatus]],
    ) -> None:
        self._node_id = node_id
        self._replica = replica
        self._view = view
        self._detector = detector
        self._shards = shards
        self._workers = workers
        self._totals: dict[int, meta.StatFsReply] = {}
        self._silent: tuple[int, ...] = ()
        self._asked_at = -TOTALS_AGE_S

    async def build(self) -> root.Status:
        """Give the status. Waits for shard leaders, `ASK_S` seconds at most."""
        await self._ask_totals()
        known = self._view.map
        now = trio.current_time()
        nodes = tuple(self._node_status(now, n) for n in known.nodes)
        troubles = problems(known, nodes, self._silent)
        troubles += open_findings(self._replica.state)
        filling = watermarks(nodes, read_settings(self._replica.state))
        troubles += repairs(known)
        notes = (
            notices(known)
            + refused_reads(nodes)
            + filling
            + stopped_jobs(read_jobs(self._replica.state))
        )
        totals = self._totals.values()
        return root.Status(
            map=known,
            leader=self._node_id,
            nodes=nodes,
            logical_bytes=sum(t.logical_bytes for t in totals),
            inodes=sum(t.inodes for t in totals),
            inline_bytes=sum(t.inline_bytes for t in totals),
            health=health(known, self._silent, troubles),
            problems=troubles + notes,
            workers=tuple(self._workers()),
            sessions=records.get_counters(self._replica.state).next_session - 1,
        )

    def _node_status(self, now: float, node: Node) -> NodeStatus:
        beat = self._detector.beats.get(node.node_id)
        return NodeStatus(
            node_id=node.node_id,
            name=node.name,
            role=node.role.value,
            address=f"{node.host}:{node.port}",
            state=node.state.value,
            seen_ms_ago=None if beat is None else int((now - beat.at) * 1000),
            heartbeat=None if beat is None else beat.heartbeat,
        )

    async def _ask_totals(self) -> None:
        if trio.current_time() - self._asked_at < TOTALS_AGE_S:
            return
        self._asked_at = trio.current_time()
        silent: list[int] = []
        limiter = trio.CapacityLimiter(ASKS_AT_ONCE)

        async def ask(shard: int) -> None:
            async with limiter:
                try:
                    self._totals[shard] = await self._shards.call(
                        group_of(ShardId(shard)),
                        "meta.statfs",
                        meta.StatFs(shard=shard),
                        timeout_s=ASK_S,
                    )
                except CfsError:
                    silent.append(shard)

        async with open_tasks() as nursery:
            for shard in range(self._view.map.shard_count):
                nursery.start_soon(ask, shard)
        self._silent = tuple(sorted(silent))


def problems(
    known: ClusterMap, nodes: Iterable[NodeStatus], silent_shards: Iterable[int]
) -> tuple[str, ...]:
    """Name what an operator should know, most severe first."""
    found: list[str] = []
    state_of = {n.node_id: n.state for n in known.nodes}
    found += [f"shard {s} has no leader: bring its metadata nodes back" for s in silent_shards]
    missing = (NodeState.DOWN, NodeState.OUT)
    for group in known.groups:
        down = [v for v in group.voters if state_of.get(v) in missing]
        if 2 * len(down) >= len(group.voters) and group.voters:
            name = "the root group" if group.group == 0 else f"shard {group.group - 1}"
            found.append(f"{name} has no quorum: {len(down)} of {len(group.voters)} replicas down")
    held = {node_id for members in known.placement for node_id in members}
    held |= {node_id for group in known.groups for node_id in group.voters}
    found += [
        f"{n.role} node {n.name} ({n.address}) is {n.state}: start it or replace it"
        for n in nodes
        if n.state in missing and (n.state == NodeState.DOWN or n.node_id in held)
    ]
    unheard = [n.name for n in nodes if n.seen_ms_ago is None and n.state in _EXPECTED]
    if unheard:
        found.append(
            f"{len(unheard)} nodes were not heard of since this leader took over "
            f"({', '.join(unheard[:NAMES_MAX])}): wait a moment"
        )
    found += [
        f"{n.role} node {n.name} has joined and was not heard of yet: start it at {n.address}"
        for n in nodes
        if n.state == NodeState.JOINING
    ]
    found += _replica_problems(known, nodes)
    found += _storage_problems(known, nodes)
    return tuple(found)


def open_findings(kv: Reader) -> tuple[str, ...]:
    """Name what scrub and fsck found and nothing has mended."""
    kinds = [f.kind for f in findings.read_findings(kv) if f.state == FindingState.OPEN]
    if not kinds:
        return ()
    said = ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds)))
    return (f"{len(kinds)} faults are open ({said}): see cfs admin findings --files",)


def refused_reads(nodes: Iterable[NodeStatus]) -> tuple[str, ...]:
    """Name nodes whose disks gave wrong bytes; scrub mended them, or they are findings."""
    stores = [(n.name, n.heartbeat.store) for n in nodes if n.heartbeat is not None]
    return tuple(
        f"storage node {name} refused {stat.corrupt_reads} reads for wrong checksums, "
        f"{stat.scrub_repaired} fragments were written anew: check its disks"
        for name, stat in stores
        if stat is not None and stat.corrupt_reads
    )


def watermarks(nodes: Iterable[NodeStatus], settings: SettingsRecord) -> tuple[str, ...]:
    """Name the disks above the two watermarks, the fullest first; what is full is a problem."""
    found: list[tuple[float, str]] = []
    for node in nodes:
        stat = node.heartbeat.store if node.heartbeat is not None else None
        for disk in stat.disks if stat is not None else ():
            room = disk.size - disk.reserve
            used = 1.0 - disk.free / room if room > 0 else 1.0
            said = f"disk {disk.name} of {node.name} is {100 * used:.0f} % full: "
            if used >= settings.critical_share:
                found.append((used, said + "delete something or add storage NOW"))
            elif used >= settings.warn_share:
                found.append((used, said + "add storage before it is full"))
    return tuple(text for _, text in sorted(found, reverse=True))


def repairs(known: ClusterMap) -> tuple[str, ...]:
    """Say how many placement groups are not whole."""
    out = {n.node_id for n in known.nodes if n.state == NodeState.OUT}
    broken = sum(not out.isdisjoint(members) for members in known.placement)
    if not broken:
        return ()
    return (f"{broken} placement groups lack a member that is out: see cfs admin jobs",)


def stopped_jobs(jobs: Iterable[JobRecord]) -> tuple[str, ...]:
    """Name the jobs that wait for an administrator."""
    return tuple(
        f"job {j.number} ({j.kind}) failed: {j.last_error}; cfs admin job resume {j.number}, "
        f"or cancel {j.number}"
        for j in jobs
        if j.state == JobState.FAILED
    )


def notices(known: ClusterMap) -> tuple[str, ...]:
    """Name what the cluster's own making limits; it is as healthy as it can be."""
    return _few_metas(known) + _empty_nodes(known)


def _empty_nodes(known: ClusterMap) -> tuple[str, ...]:
    """Name storage nodes that hold nothing: new ones, drained ones, lost ones."""
    held = {node_id for members in known.placement for node_id in members}
    said = {
        NodeState.IN: "holds nothing yet: cfs admin rebalance",
        NodeState.DRAINING: "is drained: cfs admin node remove",
        NodeState.OUT: "is out and everything is elsewhere: start it, or cfs admin node remove",
    }
    return tuple(
        f"storage node {n.name} {said[n.state]}"
        for n in known.nodes
        if n.role == Role.STORAGE and n.node_id not in held and n.state in said and held
    )


def _few_metas(known: ClusterMap) -> tuple[str, ...]:
    metas = sum(n.role == Role.META and n.state != NodeState.OUT for n in known.nodes)
    if metas < REPLICAS:
        return (
            f"{metas} metadata nodes: metadata survives the loss of one only from 3 on, add some",
        )
    return ()


def _replica_problems(known: ClusterMap, nodes: Iterable[NodeStatus]) -> list[str]:
    """Count replicas that are planned and do not vote yet, and groups that have too few."""
    metas = sum(n.role == Role.META and n.state == NodeState.IN for n in known.nodes)
    short = sum(len(g.voters) < size_of(g.group, metas) for g in known.groups)
    voting = {
        n.node_id: {g.group for g in n.heartbeat.groups if g.role != "learner"}
        for n in nodes
        if n.heartbeat is not None and n.state == NodeState.IN
    }
    building = sum(
        voter in voting and group.group not in voting[voter]
        for group in known.groups
        for voter in group.voters
    )
    found = []
    if short:
        found.append(f"{short} Raft groups have fewer replicas than they should: being planned")
    if building:
        found.append(f"{building} metadata replicas are being built")
    return found


def _storage_problems(known: ClusterMap, nodes: Iterable[NodeStatus]) -> list[str]:
    found: list[str] = []
    alive = {
        n.domain
        for n in known.nodes
        if n.role == Role.STORAGE and n.state in (NodeState.IN, NodeState.DRAINING)
    }
    profile = known.profile
    if len(alive) <= profile.parity:
        found.append(
            f"{len(alive)} storage domains are in and writes need {profile.parity + 1}: "
            "writes wait, add or start storage nodes"
        )
    elif len(alive) < profile.total:
        found.append(
            f"{len(alive)} storage domains are in, the profile {profile.data}+{profile.parity} "
            f"needs {profile.total}: new data is replicated {profile.parity + 1} times"
        )
    for node in nodes:
        stat = node.heartbeat.store if node.heartbeat is not None else None
        if stat is None:
            continue
        if stat.full:
            found.append(f"storage node {node.name} is full: add capacity or delete data")
        found += [f"storage node {node.name}: {warning}" for warning in stat.warnings]
    return found


def health(known: ClusterMap, silent_shards: Iterable[int], troubles: tuple[str, ...]) -> str:
    """Sum it up: `down` when something cannot be served, `degraded` when a loss is near."""
    writable = sum(
        n.role == Role.STORAGE and n.state in (NodeState.IN, NodeState.DRAINING)
        for n in known.nodes
    )
    if tuple(silent_shards) or writable <= known.profile.parity:
        return "down"
    return "degraded" if troubles else "ok"
