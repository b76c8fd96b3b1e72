"""Takes, schedules and deletes snapshots, and sets the trash; a worker of the root leader.

Taking one: the root group gives it an epoch; every shard is frozen (`cfs.fs.meta.freezer`); when
all are, nothing changes anywhere, and every shard marks; all thaw; the root group calls it ready.
Whatever fails on the way, the snapshot is given up: shards are told to drop the epoch, which also
keeps a late mark out. One that was being taken when the leader changed is given up by the next.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
import trio

from cfs.core.api.snapshots import Snapshot, Stage, TakePart
from cfs.core.errors import CfsError, NotFound, Retryable
from cfs.core.ids import ROOT_INO, ShardId, group_of
from cfs.core.meta import commands as shard_commands
from cfs.core.root import commands, snapshots
from cfs.core.root.records import ScheduleRecord, SnapshotPhase
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.view import ClusterView
from cfs.fs.root.workers import Worker
from cfs.net.ports import WallClock
from cfs.net.tasks import run_all

_LOG = structlog.get_logger()

ATTEMPTS = 3
STAGE_S = 20.0
"""Longer than a shard stays frozen: its own refusal is clearer than a deadline here."""
THAW_S = 3.0
DROP_S = 15.0
LOOK_S = 5.0
RETRY_S = 1.0
SHARDS_AT_ONCE = 64


class Shards(Protocol):
    """What is needed of `cfs.fs.meta.leaders.Leaders`."""

    async def call(self, group: int, method: str, request: Any, *, timeout_s: float) -> Any:
        """Call the leader of a group until it answers."""
        ...

    async def command(
        self, group: int, command: shard_commands.Command, *, timeout_s: float
    ) -> Any:
        """Have the leader of a group apply a command."""
        ...


class Snapshots:
    """The snapshots' worker."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        view: ClusterView,
        shards: Shards,
        clock: WallClock,
        worker: Worker,
    ) -> None:
        self._replica = replica
        self._view = view
        self._shards = shards
        self._clock = clock
        self._worker = worker
        self._wake = trio.Event()
        self._taking = trio.Lock()
        self._mine: set[int] = set()

    async def take(self, name: str, *, scope: int, path: str, schedule: str = "") -> Snapshot:
        """Take a snapshot; it can be looked at on return. Raises Refused, Retryable."""
        snapshots.check_name(name)
        async with self._taking:
            for attempt in range(ATTEMPTS):
                begin = commands.BeginSnapshot(
                    name=name, scope=scope, path=path, schedule=schedule, now_ms=self._now_ms()
                )
                epoch = await self._replica.propose(begin)
                self._mine.add(epoch)
                started = trio.current_time()
                try:
                    await self._attempt(epoch)
                    settled = commands.SettleSnapshot(epoch=epoch, ready=True)
                    await self._replica.propose(settled)
                except CfsError as error:
                    _LOG.info("snapshot_failed", name=name, epoch=epoch, error=str(error))
                    await self._replica.propose(commands.SettleSnapshot(epoch=epoch, ready=False))
                    self._wake.set()
                    if attempt + 1 == ATTEMPTS:
                        raise
                else:
                    stalled_ms = round((trio.current_time() - started) * 1000)
                    _LOG.info("snapshot_taken", name=name, epoch=epoch, stalled_ms=stalled_ms)
                    return self.find(name)
                finally:
                    self._mine.discard(epoch)
                await trio.sleep(RETRY_S)
        raise AssertionError

    async def delete(self, name: str) -> None:
        """Delete a snapshot: it is out of sight on return. Raises NotFound."""
        found = self.find(name)
        await self._replica.propose(commands.DeleteSnapshot(epoch=found.epoch))
        self._wake.set()

    async def tell_trash(self) -> None:
        """Tell every shard how long what is removed stays, if one may not know."""
        record = snapshots.trash(self._replica.state)
        if record.told:
            return
        await self._everywhere(
            lambda shard: self._shards.command(
                group_of(shard), shard_commands.SetTrash(keep_s=record.keep_s), timeout_s=DROP_S
            )
        )
        await self._replica.propose(commands.KeepTrash(keep_s=record.keep_s, told=True))

    def find(self, name: str) -> Snapshot:
        """Give a snapshot by its name. Raises NotFound."""
        for one in snapshots.ready(self._replica.state):
            if one.name == name:
                return one
        raise NotFound(f"there is no snapshot {name!r}; see cfs snapshot list")

    async def run(self) -> None:
        """Take what is due, delete what is not kept, until cancelled."""
        while True:
            self._wake = trio.Event()
            pause_s = LOOK_S
            try:
                await self._pass()
                self._worker.last_error = ""
            except CfsError as error:
                self._worker.last_error = str(error)
                if not isinstance(error, Retryable):
                    _LOG.warning("snapshots_failed", error=str(error))
                pause_s = RETRY_S
            self._worker.state = "idle"
            with trio.move_on_after(pause_s):
                await self._wake.wait()

    async def _pass(self) -> None:
        state = self._replica.state
        await self.tell_trash()
        for record in snapshots.read_snapshots(state):
            epoch = record.snapshot.epoch
            if record.phase == SnapshotPhase.TAKING and epoch not in self._mine:
                await self._replica.propose(commands.SettleSnapshot(epoch=epoch, ready=False))
        for old in snapshots.expired(state):
            await self._replica.propose(commands.DeleteSnapshot(epoch=old.epoch))
        for record in snapshots.read_snapshots(state):
            if record.phase == SnapshotPhase.DELETING:
                self._worker.state = "deleting"
                self._worker.progress = record.snapshot.name
                await self._drop(record.snapshot.epoch)
        for one, period in snapshots.due(state, self._now_ms()):
            self._worker.state = "taking"
            await self._take_due(one, period)

    async def _take_due(self, one: ScheduleRecord, period: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now_ms() // 1000))
        place = "" if one.scope == ROOT_INO else f"-{one.scope:x}"
        self._worker.progress = name = f"{period}{place}-{stamp}"
        await self.take(
            name, scope=one.scope, path=one.path, schedule=snapshots.tag(period, one.scope)
        )

    async def _drop(self, epoch: int) -> None:
        await self._everywhere(
            lambda shard: self._shards.command(
                group_of(shard), shard_commands.DropSnapshot(epoch=epoch), timeout_s=DROP_S
            )
        )
        await self._replica.propose(commands.ForgetSnapshot(epoch=epoch))

    async def _attempt(self, epoch: int) -> None:
        try:
            await self._stage(epoch, Stage.FREEZE, STAGE_S)
            await self._stage(epoch, Stage.MARK, STAGE_S)
        finally:
            await self._thaw(epoch)

    async def hold_still(self, epoch: int, act: Callable[[], Awaitable[None]]) -> None:
        """Do something while every shard is held still; `epoch` is no snapshot's.

        Raises what it raises, and Refused, Retryable when shards do not come to rest.
        """
        async with self._taking:
            try:
                await self._stage(epoch, Stage.FREEZE, STAGE_S)
                await act()
            finally:
                await self._thaw(epoch)

    async def _thaw(self, epoch: int) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self._stage(epoch, Stage.THAW, THAW_S)
            except CfsError as error:  # they thaw by themselves
                _LOG.info("thaw_failed", epoch=epoch, error=str(error))

    async def _stage(self, epoch: int, stage: Stage, timeout_s: float) -> None:
        await self._everywhere(
            lambda shard: self._shards.call(
                group_of(shard),
                "meta.snapshot",
                TakePart(shard=shard, epoch=epoch, stage=stage),
                timeout_s=timeout_s,
            )
        )

    async def _everywhere(self, ask: Any) -> None:
        """Ask every shard. Raises the first failure, when all have ended."""
        shards = map(ShardId, range(self._view.map.shard_count))
        await run_all(ask, shards, at_once=SHARDS_AT_ONCE)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000
