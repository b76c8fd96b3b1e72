"""Frees segments that nothing refers to: the garbage rounds of DESIGN 5, run by the root leader.

A round's record in the root group is all that matters; a new leader goes on from it:

    CONDEMNING   condemn in every shard; when all count zero live bytes, ask every shard, through
                 its log, whether the round still stands; then record DELETING, else WITHDRAWING
    WITHDRAWING  withdraw in every shard, close
    DELETING     delete on every storage node that is in, until each answered; tell every shard that
                 the segments are collected; close, or OWED when nodes are missing
    OWED         delete on the missing nodes when they are back; close

Before a round is opened the dedupe index stops offering its segments, and clients have `GRACE_S` to
commit what they found there: without it they would find what is condemned a moment later, be
refused, and upload again. Nothing depends on it.

Safety: nothing is deleted before DELETING is in the root log, nothing is withdrawn before
WITHDRAWING is, and the root machine lets a round become only one of the two. Shards take rounds in
order, so one round at a time is before OWED.
"""

from __future__ import annotations

from typing import TypeVar

import structlog
import trio

from cfs.core.api import store
from cfs.core.api.cluster import NodeState, Role
from cfs.core.api.scrub import ForgetEntries
from cfs.core.errors import CfsError, Refused
from cfs.core.ids import ShardId, group_of
from cfs.core.meta import commands as shard_commands
from cfs.core.meta import results
from cfs.core.root import commands, rounds
from cfs.core.root.records import Phase, RoundRecord
from cfs.fs.root.ports import Calls
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.sweep import ASKS_AT_ONCE, Shards, Sweep
from cfs.fs.root.view import ClusterView
from cfs.fs.root.workers import Worker
from cfs.net.tasks import open_tasks, run_all

_LOG = structlog.get_logger()
_R = TypeVar("_R")

SEGMENTS_PER_ROUND = 512
"""Two gigabytes of segments; one entry of a shard then takes some ten milliseconds to apply."""
PERIOD_S = 10.0
MORE_S = 0.5
"""Pause after a pass that freed something: there may be more."""
SWEEP_EVERY = 6
"""Storage nodes are listed in every sixth pass only."""
RETRY_S = 1.0
GRACE_S = 5.0
"""A chunk found in the index is committed within about that; see `dedupe.RECENT_S`, too."""
FORGET_S = 5.0
COMMAND_S = 15.0
DELETE_S = 30.0


class Collector:
    """The garbage worker."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        view: ClusterView,
        shards: Shards,
        calls: Calls,
        sweep: Sweep,
        worker: Worker,
        period_s: float = PERIOD_S,
    ) -> None:
        self._replica = replica
        self._view = view
        self._shards = shards
        self._calls = calls
        self._sweep = sweep
        self._worker = worker
        self._period_s = period_s
        self._wake = trio.Event()
        self._freed = 0

    def wake(self) -> None:
        """Begin the next pass now."""
        self._wake.set()

    async def run(self) -> None:
        """Pass after pass until cancelled; what fails is tried anew from the round's record."""
        passes = 0
        while True:
            woken = self._wake.is_set()
            self._wake = trio.Event()
            pause_s = self._period_s
            try:
                freed = self._freed
                await self.collect(sweep=woken or passes % SWEEP_EVERY == 0)
                self._worker.last_error = ""
                if self._freed > freed:
                    pause_s = MORE_S
                else:
                    passes += 1
            except CfsError as error:
                self._worker.last_error = str(error)
                _LOG.info("collect_failed", error=str(error))
                pause_s = RETRY_S
            self._worker.state = "idle"
            with trio.move_on_after(pause_s):
                await self._wake.wait()

    async def collect(self, *, sweep: bool) -> None:
        """Finish the rounds that are open, then one or two new ones if there are candidates."""
        for record in rounds.read_rounds(self._replica.state):
            await self._drive(record)
        self._worker.state = "gathering"
        limit = SEGMENTS_PER_ROUND
        candidates = await self._sweep.noted(limit)
        if sweep and len(candidates) < limit:
            known = set(candidates)
            orphans = await self._sweep.orphans(limit - len(candidates))
            candidates += [s for s in orphans if s not in known]
        if candidates:
            # Another shard may refer to what one shard noted: most are sorted out by asking.
            candidates = await self._sweep.unreferred(candidates)
        if candidates:
            await self._withhold(candidates)
            candidates = await self._sweep.unreferred(candidates)
        while candidates:
            number = await self._replica.propose(commands.OpenRound(segments=tuple(candidates)))
            record = RoundRecord(
                number=number, phase=Phase.CONDEMNING, segments=tuple(candidates), pending=()
            )
            free = await self._drive(record)
            # Fewer each time: what some shard refers to is left out of the next round.
            candidates = free if len(free) < len(candidates) else []

    async def _drive(self, record: RoundRecord) -> list[bytes]:
        """Take a round as far as it goes; give what was free when it had to be withdrawn."""
        number = record.number
        self._worker.progress = (
            f"round {number}: {len(record.segments)} segments, {self._freed} freed so far"
        )
        free: list[bytes] = []
        phase = record.phase
        if phase == Phase.CONDEMNING:
            free = await self._condemn(record)
            if len(free) == len(record.segments) and await self._stands(record):
                await self._advance(number, Phase.DELETING, self._storage_nodes())
                phase, free = Phase.DELETING, []
            else:
                await self._advance(number, Phase.WITHDRAWING)
                phase = Phase.WITHDRAWING
        if phase == Phase.WITHDRAWING:
            self._worker.state = "withdrawing"
            await self._everywhere(shard_commands.Withdraw(round=number), results.Done)
            await self._replica.propose(commands.CloseRound(number=number))
        elif phase == Phase.DELETING:
            await self._delete(number)
            await self._tell_collected(record)
            await self._settle(number)
        else:
            await self._delete_owed(number)
        return free

    # --- phases

    async def _withhold(self, segments: list[bytes]) -> None:
        """Have the dedupe index offer these no more, as far as nodes answer, and wait a little."""
        self._worker.state = "withholding"
        request = ForgetEntries(segments=tuple(segments))

        async def forget(node: int) -> None:
            try:
                await self._calls.call(node, "store.forget", request, timeout_s=FORGET_S)
            except CfsError as error:
                _LOG.info("withhold_failed", node=node, error=str(error))

        async with open_tasks() as nursery:
            for node in self._storage_nodes():
                if self._reachable(node):
                    nursery.start_soon(forget, node)
        await trio.sleep(GRACE_S)

    async def _condemn(self, record: RoundRecord) -> list[bytes]:
        self._worker.state = "condemning"
        command = shard_commands.Condemn(round=record.number, segments=record.segments)
        answers = await self._everywhere(command, results.Condemned)
        return [
            segment
            for position, segment in enumerate(record.segments)
            if all(answer.live[position] == 0 for answer in answers)
        ]

    async def _stands(self, record: RoundRecord) -> bool:
        answers = await self._everywhere(
            shard_commands.Standing(round=record.number), results.Stands
        )
        return all(answer.count == len(record.segments) for answer in answers)

    async def _delete(self, number: int) -> None:
        """Delete on every node that is in; return when each of them answered."""
        self._worker.state = "deleting"
        while True:
            record = self._record(number)
            due = [n for n in record.pending if self._reachable(n)]
            if not due:
                return
            done = await self._delete_on(record, due)
            if done:
                await self._replica.propose(commands.RoundDeleted(number=number, nodes=tuple(done)))
            if len(done) < len(due):
                await trio.sleep(RETRY_S)

    async def _delete_owed(self, number: int) -> None:
        record = self._record(number)
        due = [n for n in record.pending if self._reachable(n)]
        done = await self._delete_on(record, due) if due else []
        # A node that the map does not know any more owes nothing, and one that is out may never
        # come back: what it still has then is an orphan, found and deleted like any other.
        done += [n for n in record.pending if self._is_gone(n)]
        if done:
            await self._replica.propose(commands.RoundDeleted(number=number, nodes=tuple(done)))
        await self._settle(number)

    async def _delete_on(self, record: RoundRecord, nodes: list[int]) -> list[int]:
        request = store.DeleteSegments(segments=record.segments, round_number=record.number)
        done: list[int] = []

        async def delete(node: int) -> None:
            try:
                await self._calls.call(node, "store.delete", request, timeout_s=DELETE_S)
                done.append(node)
            except CfsError as error:
                self._worker.last_error = f"round {record.number}: node {node}: {error}"

        async with open_tasks() as nursery:
            for node in nodes:
                nursery.start_soon(delete, node)
        return done

    async def _tell_collected(self, record: RoundRecord) -> None:
        self._worker.state = "telling shards"
        command = shard_commands.Collected(round=record.number, segments=record.segments)
        answers = await self._everywhere(command, results.Gone)
        lost = {segment for answer in answers for segment in answer.live}
        if lost:
            _LOG.error("segments_deleted_in_use", round=record.number, count=len(lost))
            raise Refused(
                f"round {record.number} deleted {len(lost)} segments that a shard refers to: "
                "run cfs check and report this"
            )
        self._freed += len(record.segments)

    async def _settle(self, number: int) -> None:
        record = self._record(number)
        if not record.pending:
            await self._replica.propose(commands.CloseRound(number=number))
        elif record.phase != Phase.OWED:
            await self._advance(number, Phase.OWED)

    # --- reaching out

    def _record(self, number: int) -> RoundRecord:
        for record in rounds.read_rounds(self._replica.state):
            if record.number == number:
                return record
        raise Refused(f"round {number} was closed by another leader")

    def _storage_nodes(self) -> tuple[int, ...]:
        return tuple(n.node_id for n in self._view.map.nodes if n.role == Role.STORAGE)

    def _reachable(self, node_id: int) -> bool:
        node = self._view.node(node_id)
        return node is not None and node.state in (NodeState.IN, NodeState.DRAINING)

    def _is_gone(self, node_id: int) -> bool:
        node = self._view.node(node_id)
        return node is None or node.state == NodeState.OUT

    async def _advance(self, number: int, phase: Phase, pending: tuple[int, ...] = ()) -> None:
        await self._replica.propose(
            commands.AdvanceRound(number=number, phase=phase, pending=pending)
        )

    async def _everywhere(self, command: shard_commands.Command, kind: type[_R]) -> list[_R]:
        """Have every shard apply a command. Raises the first failure, when all have ended."""
        answers: list[_R] = []

        async def ask(shard: int) -> None:
            group = group_of(ShardId(shard))
            result = await self._shards.command(group, command, timeout_s=COMMAND_S)
            assert isinstance(result, kind)
            answers.append(result)

        await run_all(ask, range(self._view.map.shard_count), at_once=ASKS_AT_ONCE)
        return answers
