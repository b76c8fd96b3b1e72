"""One replica of one Raft group, as the services above see it.

Executes what its machine decides: sends, saves, applies, and answers whoever waits. The host owns
the loop, the log and the state that all groups share.

Invariants:

* Events go into `_inbox` and are stepped together in the host's turn; nothing steps while a
  snapshot is being installed (`paused`).
* An effect that must wait for a save waits in `_deferred`, first in first out; a later Apply never
  overtakes a deferred one.
* A waiter is answered once: with the result when its entry is applied here, with NotLeader when
  the proposal was not taken, with Unavailable when leadership ended first (the outcome is unknown).
* Applied state changes only in `_apply`, a whole command at a time, between two awaits of anyone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from cfs.core.errors import Corrupt, NotLeader, Unavailable
from cfs.core.machine import StateMachine
from cfs.core.raft import message as raft
from cfs.core.raft.machine import Machine
from cfs.core.raft.membership import decode_config
from cfs.fs.meta.snapshot import check_digest
from cfs.fs.meta.state import GroupState
from cfs.fs.meta.waiters import Waiters

if TYPE_CHECKING:
    from cfs.fs.meta.host import Host

TICK_STALE_MS_MAX = 75
"""A lease judged at a Tick older than this is judged anew; `Settings.lease_margin_ms` covers it."""
_EVENTS_MAX = 65536
"""Messages that wait for a paused group; more are dropped, as a network might."""


class Group:
    """A replica. `state` reads what is applied; consistent between awaits."""

    def __init__(
        self, host: Host, machine: Machine, commands: StateMachine, state: GroupState
    ) -> None:
        self.group = state.group
        self.state: GroupState = state
        self.machine = machine
        self.ready = False
        """This replica leads, and an entry of its own term is applied."""
        self.paused = False
        self.removed = False
        self.doubtful = machine.doubtful
        """The log lost its tail, and no leader has caught this replica up since."""
        self._host = host
        self._commands = commands
        self._inbox: list[raft.Event] = []
        self._scheduled = self._stepping = self._reading = False
        self._deferred: deque[tuple[int, raft.Effect]] = deque()
        self._deferred_ordered = 0
        self._last_save = self._durable_save = 0
        self._held: list[raft.Entry] = []
        self._waiters = Waiters()
        self._watchers: list[Callable[[Group], None]] = []
        self._told: tuple[str, int, int | None] = (machine.role, machine.term, machine.leader)
        self._tick_ms = -(1 << 30)
        self._stale_ms = min(TICK_STALE_MS_MAX, host.settings.lease_margin_ms // 2)
        self._lease_known = False
        self._progress = trio.lowlevel.ParkingLot()

    # --- what it is

    @property
    def role(self) -> str:
        """follower, candidate, leader or learner."""
        return self.machine.role

    @property
    def term(self) -> int:
        """The current term."""
        return self.machine.term

    @property
    def leader(self) -> int | None:
        """Node id of the leader of the term, if known."""
        return self.machine.leader

    @property
    def is_leader(self) -> bool:
        """Tell whether this replica leads; others may already lead a later term."""
        return self.machine.role == "leader"

    @property
    def others_over_s(self) -> float:
        """When, in trio time, all earlier leaders had stopped answering; now, at the latest."""
        return self.machine.others_over_ms / 1000

    @property
    def applied(self) -> int:
        """Index that `state` shows."""
        return self.state.applied

    @property
    def config(self) -> raft.Config:
        """The membership in force."""
        return self.machine.config

    @property
    def commit(self) -> int:
        """Highest index known committed."""
        return self.machine.commit

    @property
    def last_index(self) -> int:
        """Last index of the log."""
        return self.machine.last_index

    @property
    def digest(self) -> bytes:
        """Multiset hash of all records at `applied`, 16 bytes; equal on equal replicas."""
        return self.state.digest

    # --- what services ask of it

    async def propose(self, command: bytes) -> tuple[int, Any]:
        """Replicate a command; give (index, its result) once it is applied here.

        Raises NotLeader (no effect), Unavailable (unknown, unless `detail["taken"]` is False).
        """
        if self.machine.role != "leader":
            raise self._not_leader(self.machine.leader)
        answer: tuple[int, Any] = await self._ask(
            lambda token: raft.Propose(token=token, data=command)
        )
        return answer

    def readable(self) -> bool:
        """Tell whether `state` may be read as it is: a leader under its lease, all applied."""
        if not self.ready or self.paused:
            return False
        now_ms = self._host.now_ms()
        if now_ms - self._tick_ms > self._stale_ms:
            if self._stepping:
                return False
            self._host.step_now(self, [raft.Tick(now_ms=now_ms)])
        machine = self.machine
        if not self._lease_known:
            self._lease_known = machine.lease_holds
        return self._lease_known and self.ready and self.state.applied >= machine.commit

    async def read_barrier(self) -> int:
        """Return the applied index once reading `state` is linearizable; at once under a lease."""
        if self.readable():
            return self.state.applied
        if self.machine.role != "leader":
            raise self._not_leader(self.machine.leader)
        self._reading = True
        await self._ask(lambda token: raft.Read(token=token))
        return self.state.applied

    async def change_config(self, voters: tuple[int, ...], learners: tuple[int, ...]) -> None:
        """Change the membership; return when it is committed. Raises NotLeader, Unavailable."""
        wanted = raft.Config(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))
        if self.machine.role != "leader":
            raise self._not_leader(self.machine.leader)
        if not (self.machine.config_settled and self.machine.config == wanted):
            await self._ask(
                lambda token: raft.ProposeConfig(token=token, voters=voters, learners=learners)
            )
        while not (self.machine.config_settled and self.machine.config == wanted):
            if self.machine.role != "leader":
                raise Unavailable(f"group {self.group}: leadership lost while changing members")
            await self._progress.park()

    async def transfer(self, peer: int) -> None:
        """Hand leadership to `peer`. Raises NotLeader, Unavailable when it did not take over."""
        if self.machine.role != "leader":
            raise self._not_leader(self.machine.leader)
        self._push(raft.Transfer(peer=peer))
        with trio.move_on_after(self._host.settings.election_ms_max / 1000):
            while self.machine.role == "leader":
                await self._progress.park()
            return
        raise Unavailable(f"group {self.group}: node {peer} did not take over in time")

    async def recount(self) -> None:
        """Read every record on disk. Raises Unavailable when that shows damage: the node stops."""
        host = self._host
        await host.flush()
        try:
            await host.threads.run(check_digest, host.state.store, self.group)
        except Corrupt as error:
            raise host.state.damaged(error) from error

    def watch(self, callback: Callable[[Group], None]) -> None:
        """Call `callback` whenever role, term, leader or `ready` has changed."""
        self._watchers.append(callback)

    # --- what the host drives

    def _push(self, event: raft.Event) -> None:
        self._inbox.append(event)
        if not self._scheduled and not self.paused:
            self._scheduled = True
            self._host.schedule(self)

    def hear(self, event: raft.Event) -> None:
        """Take an event in for the next turn."""
        if len(self._inbox) < _EVENTS_MAX or not isinstance(event, raft.Received):
            self._push(event)

    def run(self) -> None:
        """Step everything that came in; in the host's turn."""
        self._scheduled = False
        if self.paused or self.removed:
            return
        if self._held and not self._host.state.full:
            held, self._held = self._held, []
            self._apply(held)
        if self._inbox:
            events, self._inbox = self._inbox, []
            if self._reading:
                # The lease is judged at the last Tick: it must not be from before a stall.
                self._reading = False
                events.insert(0, raft.Tick(now_ms=self._host.now_ms()))
            self.step(events)

    def saved(self, number: int) -> None:
        """Note that the log holds a save: what waited for it goes."""
        self._durable_save = number
        deferred = self._deferred
        while deferred and deferred[0][0] <= number:
            effect = deferred.popleft()[1]
            if type(effect) is not raft.Send:
                self._deferred_ordered -= 1
            self._execute(effect)
        self._push(raft.Saved(number=number))

    def resume(self, event: raft.Event | None) -> None:
        """End a pause; `event` is stepped before everything that came in meanwhile."""
        self.paused = False
        if event is not None:
            self._inbox.insert(0, event)
        if self._inbox or self._held:
            self.wake()

    def wake(self) -> None:
        """Have `run` called in the next turn."""
        if not self._scheduled:
            self._scheduled = True
            self._host.schedule(self)

    @property
    def holds_entries(self) -> bool:
        """Tell whether committed entries wait for the state to have room."""
        return bool(self._held)

    def fail_all(self, reason: str) -> None:
        """Answer every waiter Unavailable: this replica goes away."""
        self._waiters.fail_all(Unavailable(f"group {self.group}: {reason}"))
        self._progress.unpark_all()

    # --- within

    async def _ask(self, event_of: Callable[[int], raft.Event]) -> Any:
        if self.removed or self._host.stopped:
            raise Unavailable(f"group {self.group}: this replica is stopping", taken=False)
        token = self._host.next_token()
        self._push(event_of(token))
        return await self._waiters.park(token)

    def step(self, events: list[raft.Event]) -> None:
        """Give the machine events and do what it decides. Raises what a state machine raises."""
        assert not self._stepping
        self._stepping = True
        self._lease_known = False
        for event in events:
            if type(event) is raft.Tick:
                self._tick_ms = max(self._tick_ms, event.now_ms)
        try:
            barrier = 0
            for effect in self.machine.step_many(events):
                kind = type(effect)
                if kind is raft.Save:
                    assert isinstance(effect, raft.Save)
                    barrier = self._last_save = effect.number
                    self._host.writer.save(self, effect)
                elif barrier:
                    self._defer(barrier, effect)
                elif kind is raft.Send:
                    assert isinstance(effect, raft.Send)
                    if effect.after_save and self._durable_save < self._last_save:
                        self._defer(self._last_save, effect)
                    else:
                        self._host.send(effect.message)
                elif self._deferred_ordered:
                    self._defer(self._last_save, effect)
                else:
                    self._execute(effect)
        finally:
            self._stepping = False
        if self.doubtful and not self.machine.doubtful:
            self.doubtful = False
            self._host.lift_doubt(self)
        self._notice_role()

    def _defer(self, number: int, effect: raft.Effect) -> None:
        self._deferred.append((number, effect))
        if type(effect) is not raft.Send:
            self._deferred_ordered += 1

    def _execute(self, effect: raft.Effect) -> None:
        match effect:
            case raft.Send():
                self._host.send(effect.message)
            case raft.Apply():
                self._apply(effect.entries)
            case raft.Proposed():
                self._waiters.proposals[effect.index] = (effect.term, effect.token)
            case raft.Dropped():
                self._waiters.refuse(effect.token, self._refusal(effect.leader))
            case raft.ReadReady():
                if effect.index <= self.state.applied:
                    self._waiters.give(effect.token, None)
                else:
                    self._waiters.await_applied(effect.token, effect.index)
            case raft.ReadFailed():
                self._waiters.refuse(effect.token, self._refusal(effect.leader))
            case raft.SendSnapshot():
                self._host.stream(self, effect.peer)
            case raft.RoleChanged() | raft.ConfigChanged():
                pass  # read from the machine when the step is over
            case _:
                raise AssertionError(effect)

    def _apply(self, entries: tuple[raft.Entry, ...] | list[raft.Entry]) -> None:
        if self._held or self._host.state.full:
            self._held += entries
            return
        state = self.state
        waiters = self._waiters
        proposals = waiters.proposals
        for entry in entries:
            index = entry.index
            if index <= state.applied:
                continue
            result = None
            if entry.kind is raft.EntryKind.COMMAND:
                transaction = state.transaction()
                result = self._commands.apply(transaction, index, entry.data)
                transaction.commit()
                state.advance(index, entry.term)
            elif entry.kind is raft.EntryKind.CONFIG:
                state.advance(index, entry.term, decode_config(entry.data))
            else:
                state.advance(index, entry.term)
            if index in proposals:
                term, token = proposals.pop(index)
                if term == entry.term:
                    waiters.give(token, (index, result))
                else:
                    waiters.refuse(token, self._unknown())
        waiters.applied(state.applied)
        self._progress.unpark_all()
        if self._host.state.wants_flush:
            self._host.want_flush()

    def _notice_role(self) -> None:
        machine = self.machine
        now = (machine.role, machine.term, machine.leader)
        leads = now[0] == "leader"
        changed = now != self._told
        if changed:
            was = self._told
            self._told = now
            if self.ready or (was[0] == "leader" and (not leads or was[1] != now[1])):
                self.ready = False
                self._waiters.fail_taken(self._unknown())
        if leads and not self.ready and self.state.term == now[1] and self.state.applied:
            self.ready = changed = True
        if changed:
            self._progress.unpark_all()
            for callback in list(self._watchers):
                callback(self)

    def _not_leader(self, leader: int | None) -> NotLeader:
        return NotLeader(f"group {self.group}: ask node {leader}", leader=leader)

    def _refusal(self, leader: int | None) -> Exception:
        if leader == self._host.node:
            return Unavailable(f"group {self.group}: too much in flight, try again", taken=False)
        return self._not_leader(leader)

    def _unknown(self) -> Unavailable:
        return Unavailable(f"group {self.group}: leadership was lost in flight; outcome unknown")
