"""The jobs that keep every placement group whole, and balanced: what is to move, in which order.

    repair      positions of nodes that are out move to others, most endangered groups first;
                with `node`: that node's lost disks are filled anew, in place
    drain       everything leaves a node; storage: its positions, metadata: its replicas
    rebalance   positions move from nodes above their share to those below, as few as can be
    tidy        a node that came back drops what is others' by now, proven there first

Each plans a batch from the state of the moment and has the `Mover` carry it out, until nothing is
left to plan: there is no cursor, so any leader may go on. Batches are cut by bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import trio

from cfs.core.api.cluster import Node, NodeState, Role, ShardPlacement
from cfs.core.errors import Malformed, NotFound, Refused, Unavailable
from cfs.core.place import planner
from cfs.core.place.planner import Target
from cfs.core.place.replicas import REPLICAS
from cfs.core.root import commands, records
from cfs.core.root.commands import Replacement
from cfs.core.root.nodes import read_settings
from cfs.core.root.records import NodeRecord
from cfs.fs.root.detector import Detector
from cfs.fs.root.fragments import Fragments
from cfs.fs.root.jobs import Job, JobContext, JobKind
from cfs.fs.root.mover import Mover
from cfs.fs.root.replica import RootReplica
from cfs.net.ports import Threads

BATCH_BYTES = 256 << 20
BATCH_GROUPS = 128
"""More would make a fault in between cost more to be looked at again."""
WAIT_S = 0.5
DOWN_WAIT_S = 60.0
"""A drain waits for who was heard of so lately: under load a node may be taken for down."""
PLAN_STEPS_MAX = 64

Moves = list[tuple[int, int, int]]
"""`(group, source, target)`."""


class Redundancy:
    """See the module. `kinds` are to be registered."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        mover: Mover,
        fragments: Fragments,
        detector: Detector,
        threads: Threads,
        usable_disks: Callable[[int], tuple[bytes, ...] | None],
    ) -> None:
        self._replica = replica
        self._mover = mover
        self._fragments = fragments
        self._detector = detector
        self._threads = threads
        self._usable_disks = usable_disks

        def repair_rate() -> int:
            return read_settings(replica.state).repair_rate

        def move_rate() -> int:
            return read_settings(replica.state).move_rate

        self.kinds = (
            JobKind(name="repair", run=self.repair, key=_key_of("repair"), rate=repair_rate),
            JobKind(
                name="drain", run=self.drain, key=_key_of("drain"), check=self.check_drain,
                rate=move_rate,
            ),
            JobKind(
                name="rebalance", run=self.rebalance, key=lambda _spec: "rebalance", rate=move_rate
            ),
            JobKind(name="tidy", run=self.tidy, key=_key_of("tidy"), rate=move_rate),
        )  # fmt: skip

    # --- jobs

    async def repair(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Re-home what was on nodes that are out; or fill a node's lost disks anew."""
        if "node" in job.spec:
            return await self._refill(job, context)
        moved = await self._move_all(context, self._plan_repair)
        out = self._storage(NodeState.OUT)
        left = sum(any(n.node_id in r.members for n in out) for r in self._mover.lists())
        if left:
            context.last_error = f"{left} groups wait: no other failure domain is in for them"
        return {"groups": moved, "bytes": context.done, "groups_left": left}

    async def drain(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Empty a node."""
        node = self._find(job.spec)
        while self._record(job.spec).resting == NodeState.IN:
            await self._await_nodes(job.spec, context)
            change = commands.StateChange(node.node_id, NodeState.IN, NodeState.DRAINING)
            await self._replica.propose(commands.SetStates(changes=(change,)))
        if node.role == Role.META:
            return await self._drain_meta(node, context)

        def plan() -> Moves:
            return self._plan_leaving({node.node_id})

        moved = await self._move_all(context, plan)
        self._require_draining(node)
        left = sum(node.node_id in r.members for r in self._mover.lists())
        if left:
            raise Unavailable(f"{left} groups cannot leave {node.name}: no other domain fits now")
        return {"node": node.name, "groups": moved, "bytes": context.done}

    async def rebalance(self, _job: Job, context: JobContext) -> dict[str, Any]:
        """Even the nodes out."""
        moved = await self._move_all(context, self._plan_even)
        return {"groups": moved, "bytes": context.done}

    async def tidy(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Drop what a node holds of groups it is no member of."""
        node = self._find(job.spec)
        lists = self._mover.lists()
        parties = {n: (r.move.source, r.move.target) for n, r in enumerate(lists) if r.move}
        foreign = [
            n
            for n, r in enumerate(lists)
            if node.node_id not in r.members and node.node_id not in parties.get(n, ())
        ]
        stays = 0
        for start in range(0, len(foreign), BATCH_GROUPS):
            groups = foreign[start : start + BATCH_GROUPS]
            members = {g: lists[g].members for g in groups}
            context.message = f"proving what {node.name} holds of {len(foreign)} groups"
            stays += await self._fragments.evict(context, node.node_id, members)
        if stays:
            raise Unavailable(f"{stays} fragments on {node.name} are not proven elsewhere yet")
        await self._replica.propose(commands.Tidied(node_id=node.node_id))
        return {"node": node.name, "bytes": context.done}

    # --- plans

    async def plan_rebalance(self) -> tuple[Moves, dict[int, tuple[int, int]]]:
        """Give every move of a rebalance, and (load now, load then) by node."""
        lists = [r.members for r in self._mover.lists()]
        targets, slots = self._targets(NodeState.DOWN), self._slots(lists)
        before = _loads(lists)
        moves, then = await self._threads.run(_all_moves, lists, targets, slots)
        after = _loads(then)
        return moves, {
            t.node_id: (before.get(t.node_id, 0), after.get(t.node_id, 0)) for t in targets
        }

    def check_drain(self, spec: dict[str, Any]) -> None:
        """Raise Refused when the cluster would be below its profile without the node.

        A node that went down a moment ago counts as in: the job waits for it.
        """
        lately = {n.node_id for n in self._down() if self._silent_s(n) < DOWN_WAIT_S}
        self._check_left(self._find(spec), lately)

    async def _await_nodes(self, spec: dict[str, Any], context: JobContext) -> None:
        """Return once a drain may begin. Raises Refused when what is down stays down."""
        deadline = trio.current_time() + DOWN_WAIT_S
        while True:
            try:
                return self._check_left(self._find(spec), ())
            except Refused:
                down = ", ".join(f"{n.name} (for {self._silent_s(n):.0f} s)" for n in self._down())
                left_s = deadline - trio.current_time()
                if not down or left_s <= 0:
                    raise
            context.message = f"waits {left_s:.0f} s more for nodes that are down: {down}"
            await trio.sleep(WAIT_S)

    def _check_left(self, node: Node, counted: Collection[int]) -> None:
        """Raise Refused when too few are in without `node`; those `counted` are taken for in."""
        states = (NodeState.IN, NodeState.DRAINING)
        if node.state not in states and node.node_id not in counted:
            raise Refused(f"{node.name} is {node.state}: nothing can be drained from it")
        left = [
            r.node
            for r in self._replica.nodes()
            if r.node.role == node.role
            and (r.node.state == NodeState.IN or r.node.node_id in counted)
            and r.node.node_id != node.node_id
        ]
        down = [n.name for n in self._down() if n.role == node.role and n.node_id != node.node_id]
        here = f"; down: {', '.join(down)}: start that, or " if down else ": "
        if node.role == Role.META:
            if len(left) < REPLICAS:
                raise Refused(
                    f"without {node.name} {len(left)} metadata nodes are in, and {REPLICAS} are "
                    f"needed to survive the loss of one{here}add a metadata node first"
                )
            return
        lists = self._mover.lists()
        needed = max([self._replica.cluster().profile.total, *(len(r.members) for r in lists)])
        domains = len({n.domain for n in left})
        if domains < needed:
            raise Refused(
                f"without {node.name} {domains} failure domains are in, and the profile needs "
                f"{needed}{here}add storage nodes first (cfs admin node add)"
            )

    def _down(self) -> list[Node]:
        """List the nodes that are down, and were in before."""
        return [
            r.node
            for r in self._replica.nodes()
            if r.node.state == NodeState.DOWN and r.resting == NodeState.IN
        ]

    def _silent_s(self, node: Node) -> float:
        return self._detector.silent_s(trio.current_time(), node.node_id)

    def bytes_a_group(self, node_id: int) -> int:
        """Estimate what a group weighs on a node; on the average node when that one is silent."""
        loads = _loads([r.members for r in self._mover.lists()])
        stored = {
            n: beat.heartbeat.store.stored
            for n, beat in self._detector.beats.items()
            if beat.heartbeat.store is not None and loads.get(n)
        }
        if node_id in stored:
            return stored[node_id] // loads[node_id]
        groups = sum(loads[n] for n in stored)
        return sum(stored.values()) // groups if groups else 0

    def _plan_repair(self) -> Moves:
        return self._plan_leaving({n.node_id for n in self._storage(NodeState.OUT)})

    def _plan_leaving(self, leaving: Collection[int]) -> Moves:
        lists = [r.members for r in self._mover.lists()]
        return planner.replace(lists, self._targets(), self._slots(lists), leaving, len(lists))

    def _plan_even(self) -> Moves:
        lists = [r.members for r in self._mover.lists()]
        return planner.even(lists, self._targets(NodeState.DOWN), self._slots(lists), len(lists))

    def _targets(self, *also: NodeState) -> list[Target]:
        """Give every storage node; those that take nothing weigh nothing, but keep their domain.

        `also`: nodes that were in and are so now count too.
        """
        return [
            Target(
                node_id=r.node.node_id,
                domain=r.node.domain,
                weight=r.node.weight
                if r.node.state == NodeState.IN
                or (r.node.state in also and r.resting == NodeState.IN)
                else 0.0,
            )
            for r in self._replica.nodes()
            if r.node.role == Role.STORAGE
        ]

    def _slots(self, lists: Sequence[tuple[int, ...]]) -> int:
        total = self._replica.cluster().profile.total
        return max([total, *(len(members) for members in lists)])

    def _storage(self, state: NodeState) -> list[Node]:
        nodes = [r.node for r in self._replica.nodes()]
        return [n for n in nodes if n.role == Role.STORAGE and n.state == state]

    def _find(self, spec: dict[str, Any]) -> Node:
        return self._record(spec).node

    def _record(self, spec: dict[str, Any]) -> NodeRecord:
        wanted = spec.get("node")
        if wanted is None:
            raise Malformed("a node is missing: its name or number")
        for record in self._replica.nodes():
            if wanted in (record.node.node_id, record.node.name):
                return record
        raise NotFound(f"there is no node {wanted!r}; see cfs admin node list")

    # --- carrying out

    async def _move_all(self, context: JobContext, plan: Callable[[], Moves]) -> int:
        """Move by a plan, batch after batch, until it is empty; give how many groups moved."""
        moved = 0
        moves: Moves = []
        while True:
            await self._mover.settle(context)
            busy = self._mover.open_moves()
            if not moves:  # in a thread: it takes up to a second, and Raft shares this loop
                moves = await self._threads.run(plan)
            moves = [m for m in moves if m[0] not in busy]
            if not moves:
                if busy:
                    raise Unavailable(f"{len(busy)} groups wait for nodes that are down")
                context.total = context.done
                return moved
            weights = {source: self.bytes_a_group(source) for source in {m[1] for m in moves}}
            context.total = context.done + sum(weights[source] for _, source, _ in moves)
            batch: Moves = []
            size = 0
            for move in moves:
                size += weights[move[1]]
                if batch and (size > BATCH_BYTES or len(batch) >= BATCH_GROUPS):
                    break
                batch.append(move)
            context.message = f"{len(moves)} groups to move"
            moves = moves[len(batch) :]
            await self._mover.move(context, [Replacement(*move) for move in batch])
            lists = self._mover.lists()
            arrived = sum(target in lists[group].members for group, _, target in batch)
            if not arrived:
                raise Unavailable(context.last_error or "no group could be moved")
            moved += arrived

    async def _refill(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Have a node that lost disks hold again all it should."""
        node = self._find(job.spec)
        groups = [n for n, r in enumerate(self._mover.lists()) if node.node_id in r.members]
        after = int(job.cursor or b"0")
        context.total = context.done + self.bytes_a_group(0) * sum(g >= after for g in groups)
        failed: dict[int, str] = {}
        left = [g for g in groups if g >= after]
        for start in range(0, len(left), BATCH_GROUPS):
            batch = left[start : start + BATCH_GROUPS]
            context.message = f"{len(left) - start} groups of {node.name} to look at"
            failed |= await self._mover.complete(context, node.node_id, batch)
            if not failed:
                context.advance(0, cursor=str(batch[-1] + 1).encode())
        if failed:
            group, why = next(iter(failed.items()))
            raise Unavailable(f"{len(failed)} groups are not whole yet, group {group}: {why}")
        disks = self._usable_disks(node.node_id)
        if disks is None:
            raise Unavailable(f"{node.name} is not heard of")
        await self._replica.propose(commands.SetDisks(node_id=node.node_id, disks=disks))
        context.total = context.done
        return {"node": node.name, "bytes": context.done}

    async def _drain_meta(self, node: Node, context: JobContext) -> dict[str, Any]:
        """Wait until the placer planned the replicas away and `members` moved them."""
        while True:
            self._require_draining(node)
            state = self._replica.state
            groups = records.get_all(state, ShardPlacement, records.GROUP_PREFIX)
            planned = sum(node.node_id in g.voters + g.learners for g in groups)
            beat = self._detector.beats.get(node.node_id)
            held = len(beat.heartbeat.groups) if beat is not None else 0
            context.total = max(context.total, planned, held)
            context.done = context.total - max(planned, held)
            context.message = f"{held} replicas on {node.name}"
            if beat is not None and not planned and not held:
                return {"node": node.name, "replicas": context.total}
            await trio.sleep(WAIT_S)

    def _require_draining(self, node: Node) -> None:
        now = self._find({"node": node.node_id})
        if now.state == NodeState.IN:
            raise Refused(f"{node.name} was set in again: nothing more is drained from it")


def _all_moves(
    lists: list[tuple[int, ...]], targets: list[Target], slots: int
) -> tuple[Moves, list[tuple[int, ...]]]:
    moves: Moves = []
    for _ in range(PLAN_STEPS_MAX):
        step = planner.even(lists, targets, slots, len(lists))
        if not step:
            break
        moves += step
        for group, old, new in step:
            lists[group] = tuple(new if m == old else m for m in lists[group])
    return moves, lists


def _loads(lists: Sequence[tuple[int, ...]]) -> dict[int, int]:
    loads: dict[int, int] = {}
    for members in lists:
        for node in members:
            loads[node] = loads.get(node, 0) + 1
    return loads


def _key_of(kind: str) -> Callable[[dict[str, Any]], str]:
    return lambda spec: f"{kind}/{spec.get('node', '')}"
