"""Runs every Raft replica of a metadata node on one log, one state and one event loop.

Decides when machines are stepped and when their effects happen; `group` executes effects. The loop:

1. Messages, proposals and ticks are put into groups' inboxes and the group is scheduled.
2. The pump runs a *turn*, after every task that was ready: it steps each scheduled group once with
   all its events, hands each node's messages to the sender in one batch, and gives what must be
   saved, of all groups, to the log's thread as one batch, if that is idle; else it goes with the
   next one (`log_writer`).
3. When a batch is durable, what waited for it is released and the groups are stepped again.

A flusher moves applied state to LMDB every `FLUSH_S` or when the overlay is large; after it logs
are compacted. Snapshots leave and arrive in tasks of their own; installing one pauses its group.

Stopping: when the log or the state cannot be made durable, `run` raises LogFailed or the store's
error and nothing more is answered: what a failed sync left on the disk is unknown. A state machine
that raises is a bug, and ends `run` likewise, before anything of that command shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import trio

from cfs.core.api.meta import Empty
from cfs.core.api.methods import RaftMessages, SnapshotChunk
from cfs.core.errors import Malformed, NotFound
from cfs.core.machine import StateMachine
from cfs.core.raft import message as raft
from cfs.core.raft.machine import Machine
from cfs.core.raft.settings import Settings
from cfs.fs.meta.doubt import DoubtReport
from cfs.fs.meta.group import Group
from cfs.fs.meta.group_record import meta_key
from cfs.fs.meta.log_writer import LogWriter
from cfs.fs.meta.peers import Sender
from cfs.fs.meta.reconcile import reconcile
from cfs.fs.meta.snapshot import wipe, wipe_orphans
from cfs.fs.meta.state import State
from cfs.fs.meta.transfer import Transfers
from cfs.fs.meta.wal import SEGMENTS_MAX, LogFailed, Replayed, Wal
from cfs.fs.meta.wal_format import Kind, Record
from cfs.net.ports import Threads

__all__ = ["Group", "Host", "LogFailed"]

TICK_S = 0.05
FLUSH_S = 0.3
_MASK = (1 << 64) - 1


class Host:
    """The replicas of node `node`. `machines(group)` makes a group's state machine.

    Takes over what `log` replayed; raises Corrupt when log and state do not belong together.
    `inline_log` writes the log in the loop, at the pace of `threads`: for the simulator.
    """

    def __init__(
        self,
        *,
        node: int,
        log: Wal,
        state: State,
        machines: Callable[[int], StateMachine],
        send: Sender,
        threads: Threads,
        seed: int,
        settings: Settings | None = None,
        inline_log: bool = False,
    ) -> None:
        self.node = node
        self.state = state
        self.settings = settings or Settings()
        self.threads = threads
        self.sender = send
        self.flush_lock = trio.Lock()
        """Held by whoever flushes, installs or removes: one at a time changes LMDB's groups."""
        self.stopped = False
        self.nursery: trio.Nursery | None = None
        self.log = log
        """For its sizes and `torn`; nobody else writes to it."""
        self._machines = machines
        self._seed = seed
        self.writer = LogWriter(log, self._written, inline=threads if inline_log else None)
        self._groups: dict[int, Group] = {}
        self._marked: dict[int, int] = {}
        self._outbox: dict[int, list[bytes]] = {}
        self._scheduled: list[Group] = []
        self._pump: trio.lowlevel.Task | None = None
        self._pump_parked = False
        self._turning = False
        self._token = 0
        self._flush_now = trio.Event()
        self._failure: BaseException | None = None
        self._transfers = Transfers(self)
        self._doubt_report = DoubtReport()
        self._open()
        state.on_damage = self.fail

    @property
    def groups(self) -> Mapping[int, Group]:
        """The replicas of this node by group."""
        return self._groups

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own all tasks until cancelled; then save what is pending and flush the state.

        Raises LogFailed, Corrupt or NoSpace when going on would not be durable.
        """
        used = {group.slot for group in self.state.groups.values()}
        await self.threads.run(wipe_orphans, self.state.store, used)
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                self.writer.start(nursery)
                nursery.start_soon(self._pumping)
                nursery.start_soon(self._ticking)
                nursery.start_soon(self._flushing)
                task_status.started()
        finally:
            self.nursery = None
            self.stopped = True
            for group in self._groups.values():
                group.fail_all("the node is stopping")
            self._transfers.close()
            self.writer.stop()
            if self._failure is None:
                with trio.CancelScope(shield=True):
                    self.writer.write_rest()
                    await self.flush()
        if self._failure is not None:
            raise self._failure

    def create(self, group: int, voters: tuple[int, ...]) -> Group:
        """Begin a replica, durably; blocks the loop for one sync. No voters: it waits for a leader.

        A group that is here already is returned as it is.
        """
        if (existing := self._groups.get(group)) is not None:
            return existing
        config = raft.Config(voters=tuple(sorted(voters)))
        snapshot = raft.SnapshotMeta(index=0, term=0, config=config)
        try:
            self.writer.write_now([Record(Kind.RESET, group, snapshot)])
        except LogFailed as error:
            self.fail(error)
            raise
        self.state.create(group, config)
        return self.begin(group, Replayed(snapshot=snapshot))

    async def remove(self, group: int) -> None:
        """Forget a replica and its state, durably on return."""
        replica = self._groups.get(group)
        if replica is None:
            return
        async with self.flush_lock:
            if self._groups.pop(group, None) is None:
                return
            replica.removed = True
            replica.ready = False
            replica.fail_all("this replica was removed")
            self._marked.pop(group, None)
            with trio.CancelScope(shield=True):
                await self.writer.write_through(Record(Kind.REMOVE, group, None))
            slot = self.state.groups.pop(group).slot
            self.state.reserved.add(slot)
            store = self.state.store
            await self.threads.run(lambda: store.write([(meta_key(group), None)], sync=True))
        await self.threads.run(wipe, store, slot)
        self.state.reserved.discard(slot)

    def on_raft_messages(self, context: Any, request: RaftMessages, payload: Any) -> Empty:
        """Take in a peer's messages. Raises Malformed."""
        del context, payload
        if self.nursery is None:
            return Empty()
        for data in request.messages:
            try:
                message = raft.decode(data)
            except msgspec.MsgspecError as error:
                raise Malformed(f"no raft message: {error}") from error
            if message.sender != request.sender:
                raise Malformed(f"node {request.sender} sent a message of node {message.sender}")
            if (group := self._groups.get(message.group)) is not None:
                group.hear(raft.Received(message=message))
        return Empty()

    async def on_snapshot_chunk(self, context: Any, request: SnapshotChunk, payload: Any) -> Empty:
        """Take in a piece; the answer to the last one means installed, durably."""
        del context
        group = self._groups.get(request.group)
        if group is None or self.nursery is None:
            raise NotFound(f"group {request.group} has no replica on node {self.node}")
        await self._transfers.receive(group, request, payload)
        return Empty()

    # --- for groups and transfers

    def schedule(self, group: Group) -> None:
        """Have `group.run` called in the next turn."""
        self._scheduled.append(group)
        if not self._turning:
            self._wake_pump()

    def now_ms(self) -> int:
        """Monotonic time as machines see it."""
        return int(trio.current_time() * 1000)

    def next_token(self) -> int:
        """Give the number of a new question to a machine."""
        self._token += 1
        return self._token

    def send(self, message: raft.AnyMessage) -> None:
        """Put a message into this turn's batch."""
        data = raft.encode(message)
        batch = self._outbox.get(message.receiver)
        if batch is None:
            self._outbox[message.receiver] = [data]
        else:
            batch.append(data)

    def lift_doubt(self, group: Group) -> None:
        """Note that a replica that lost its tail has caught up."""
        self.writer.add(Record(Kind.DOUBT, group.group, False))

    def reset_log(self, group: Group, meta: raft.SnapshotMeta) -> None:
        """Restart a group's log after a snapshot; ordered before whatever it saves next."""
        self.writer.add(Record(Kind.RESET, group.group, meta))
        self._marked[group.group] = meta.index

    def stream(self, group: Group, peer: int) -> None:
        """Send a snapshot, in a task."""
        if self.nursery is not None:
            self.nursery.start_soon(self._transfers.send, group, peer)

    def want_flush(self) -> None:
        """Flush without waiting for the interval."""
        self._flush_now.set()

    def step_now(self, group: Group, events: list[raft.Event]) -> None:
        """Step a group outside a turn, for an answer that must not wait."""
        try:
            group.step(events)
            self._let_go()
        except Exception as bug:  # noqa: BLE001 - `run` raises it
            self.fail(bug)

    def fail(self, error: BaseException) -> None:
        """Stop the node: `run` raises `error`."""
        if self._failure is None:
            self._failure = error
        self.stopped = True
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    async def flush(self) -> None:
        """Make everything applied so far durable in LMDB."""
        async with self.flush_lock:
            await self.flush_locked()

    async def flush_locked(self) -> None:
        """Do `flush` for who holds the lock."""
        if self.state.begin_flush():
            await self.threads.run(self.state.commit_flush)
            self.state.end_flush()

    # --- the loop

    async def _pumping(self) -> None:
        self._pump = trio.lowlevel.current_task()
        while True:
            if self._scheduled:
                await trio.lowlevel.checkpoint()
            else:
                self._pump_parked = True
                await trio.lowlevel.wait_task_rescheduled(self._unpark)
            self._turn()

    def _unpark(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._pump_parked = False
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake_pump(self) -> None:
        if self._pump_parked:
            self._pump_parked = False
            assert self._pump is not None
            trio.lowlevel.reschedule(self._pump)

    def _turn(self, saves: Mapping[Group, int] | None = None) -> None:
        """Release what waited for `saves`, step every scheduled group, let go what that gave."""
        if self.stopped:
            return
        self._turning = True
        try:
            if saves is not None:
                for group, number in saves.items():
                    if not group.removed:
                        group.saved(number)
            scheduled, self._scheduled = self._scheduled, []
            for group in scheduled:
                group.run()
            self._let_go()
        except Exception as bug:  # noqa: BLE001 - `run` raises it
            self.fail(bug)
        finally:
            self._turning = False
        if self._scheduled:
            self._wake_pump()

    def _let_go(self) -> None:
        if self._outbox:
            outbox, self._outbox = self._outbox, {}
            for node, messages in outbox.items():
                self.sender.send(node, messages)
        self.writer.submit()

    def _written(self, saves: Mapping[Group, int], error: LogFailed | None) -> None:
        """Go on after a batch; trio calls it in the loop, so nothing may be raised."""
        if error is not None:
            self.fail(error)
        else:
            self._turn(saves)

    async def _ticking(self) -> None:
        while True:
            now_ms = self.now_ms()
            for group in self._groups.values():
                group.hear(raft.Tick(now_ms=now_ms))
            await trio.sleep(TICK_S)

    async def _flushing(self) -> None:
        while True:
            with trio.move_on_after(FLUSH_S):
                await self._flush_now.wait()
            self._flush_now = trio.Event()
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - `run` raises it
                self.fail(error)
                return
            pressed = self.log.segment_count > SEGMENTS_MAX
            for group in self._groups.values():
                self._compact(group, pressed=pressed)
                if group.holds_entries:
                    group.wake()
            self._doubt_report.check(self._groups.values(), trio.current_time())
            self.writer.submit()

    def _compact(self, group: Group, *, pressed: bool) -> None:
        """Let go of log that LMDB covers. `pressed`: more than the machine, so old segments go."""
        machine, flushed = group.machine, group.state.flushed
        if group.paused:
            return
        if machine.log_bytes > self.settings.log_bytes_max // 2:
            group.hear(raft.Compact(index=flushed.index))
        mark = flushed if pressed else machine.base
        if mark.index > self._marked[group.group]:
            self._marked[group.group] = mark.index
            self.writer.add(Record(Kind.MARK, group.group, mark))

    # --- opening

    def _open(self) -> None:
        for number, replayed in reconcile(self.log, self.state).items():
            self.begin(number, replayed)

    def begin(self, number: int, replayed: Replayed) -> Group:
        """Begin a replica of `state.groups`, in place of what was there; see `rebuild`."""
        state = self.state.groups[number]
        machine = Machine(
            group=number,
            node=self.node,
            state=replayed.state,
            snapshot=replayed.snapshot,
            entries=replayed.entries,
            applied=state.applied,
            settings=self.settings,
            seed=(self._seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + self.node)
            & _MASK,
            doubtful=replayed.doubtful,
        )
        group = Group(self, machine, self._machines(number), state)
        self._groups[number] = group
        self._marked[number] = replayed.snapshot.index
        if replayed.doubtful:
            self._doubt_report.opened(group, self.log.torn)
        if self.nursery is not None:
            group.hear(raft.Tick(now_ms=self.now_ms()))
        return group
