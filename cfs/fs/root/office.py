"""A meta node's share of the root group, put together: one object to run, one table of handlers.

Order of a meta node's start: `bootstrap.start_groups` (first node only), the Raft host, the pool,
the server with `handlers`, then `run`. Everything a caller outside needs is an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import trio

from cfs.core.api.root import WorkerStatus
from cfs.fs.root import detector, snapshots, status, sweep
from cfs.fs.root.admin import AdminCommands
from cfs.fs.root.collector import Collector
from cfs.fs.root.detector import Detector
from cfs.fs.root.directory import Membership, NodeDirectory
from cfs.fs.root.explain import Explainer
from cfs.fs.root.fragments import Fragments
from cfs.fs.root.fsck import FsckJob
from cfs.fs.root.insight import Insight
from cfs.fs.root.job_commands import JobCommands
from cfs.fs.root.job_runner import Jobs
from cfs.fs.root.keeper import Keeper
from cfs.fs.root.led import LedRoot
from cfs.fs.root.members import Members
from cfs.fs.root.mover import Mover
from cfs.fs.root.node_commands import NodeCommands
from cfs.fs.root.paths import Paths
from cfs.fs.root.placer import Placer
from cfs.fs.root.ports import Calls, Host
from cfs.fs.root.quota_commands import QuotaCommands
from cfs.fs.root.quota_job import QuotaJob
from cfs.fs.root.quotas import Quotas
from cfs.fs.root.redundancy import Redundancy
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.replicas import Replicas
from cfs.fs.root.rewriter import DataPath, Rewriter
from cfs.fs.root.scrub import ScrubJob
from cfs.fs.root.service import RootService
from cfs.fs.root.snapshot_commands import SnapshotCommands
from cfs.fs.root.snapshots import Snapshots
from cfs.fs.root.status import StatusBuilder
from cfs.fs.root.stripes import Stripes
from cfs.fs.root.sweep import Sweep
from cfs.fs.root.usage import UsageOfAll
from cfs.fs.root.vault import Vault
from cfs.fs.root.view import ClusterView
from cfs.fs.root.workers import Worker
from cfs.net.ports import Entropy, Threads, WallClock
from cfs.net.rpc import Handler


class Shards(status.Shards, sweep.Shards, snapshots.Shards, Protocol):
    """Calls to shard leaders: `cfs.fs.meta.leaders.Leaders`."""


class RootOffice:
    """The root service, the leader's workers and the members' reconciler of one meta node."""

    def __init__(
        self,
        *,
        home: NodeDirectory,
        member: Membership,
        host: Host,
        view: ClusterView,
        calls: Calls,
        shards: Shards,
        clock: WallClock,
        entropy: Entropy,
        threads: Threads,
        limits: detector.Limits | None = None,
        data: DataPath | None = None,
    ) -> None:
        node_id, name = member.node_id, member.name
        self.workers = {
            n: Worker(n, name)
            for n in ("nodes", "placement", "members", "collector", "snapshots", "quotas")
        }
        """More workers of this process may be added; they show in the status while it leads."""
        self.replica = RootReplica(host, view, now_ms=lambda: clock.time_ns() // 1_000_000)
        self.detector = Detector(limits)
        self.vault = Vault(home.master_key(), entropy)
        sweep_of_shards = Sweep(view=view, shards=shards, calls=calls)
        self.collector = Collector(
            replica=self.replica,
            view=view,
            shards=shards,
            calls=calls,
            sweep=sweep_of_shards,
            worker=self.workers["collector"],
        )
        self.jobs = Jobs(
            node=name, replica=self.replica, clock=clock, busy=self.detector.clients_queue
        )
        """Long operations: register kinds before `run`; see `cfs.fs.root.jobs`."""
        insight = self._looking(view, calls, shards, clock)
        fragments = Fragments(view=view, calls=calls, unreferred=sweep_of_shards.unreferred)
        mover = Mover(replica=self.replica, fragments=fragments)
        keeper = self._keeper(mover, clock)
        redundancy = self._redundancy(mover, fragments, keeper, threads)
        if data is not None:
            self._register_rewriter(mover, fragments, shards, data)
        self.snapshots = Snapshots(
            replica=self.replica, view=view, shards=shards, clock=clock,
            worker=self.workers["snapshots"],
        )  # fmt: skip
        quotas = self._limiting(view, shards, clock)
        self._led = LedRoot(
            replica=self.replica, detector=self.detector, collector=self.collector,
            placer=Placer(self.replica, self.workers["placement"], threads), jobs=self.jobs,
            keeper=keeper, snapshots=self.snapshots, quotas=quotas, directory=home,
            threads=threads, worker=self.workers["nodes"],
        )  # fmt: skip
        self._members = Members(
            node_id=node_id, host=host, view=view, worker=self.workers["members"]
        )
        service = RootService(
            replica=self.replica,
            view=view,
            vault=self.vault,
            detector=self.detector,
            status=self._status(node_id, view, shards),
            admin=self._admin(clock, entropy, redundancy, insight),
            clock=clock,
        )
        self.handlers: Mapping[str, Handler] = {
            **service.handlers,
            **self._quota_commands.handlers,
        }

    def _status(self, node_id: int, view: ClusterView, shards: Shards) -> StatusBuilder:
        return StatusBuilder(
            node_id=node_id,
            replica=self.replica,
            view=view,
            detector=self.detector,
            shards=shards,
            workers=self._worker_states,
        )

    def _looking(
        self, view: ClusterView, calls: Calls, shards: Shards, clock: WallClock
    ) -> Insight:
        """Register the jobs that look for what is wrong; give what answers operators."""
        sweep_ = Sweep(view=view, shards=shards, calls=calls)
        scrub = ScrubJob(
            replica=self.replica,
            view=view,
            calls=calls,
            detector=self.detector,
            clock=clock,
            stripes=Stripes(view=view, calls=calls, shards=shards, sweep=sweep_),
            replicas=Replicas(view=view, calls=calls),
        )
        self.jobs.register(scrub.kind)
        paths = Paths(view=view, shards=shards)
        fsck = FsckJob(replica=self.replica, view=view, shards=shards, paths=paths, clock=clock,
                        miscounted=self._miscounted)  # fmt: skip
        self.jobs.register(fsck.kind)
        return Insight(
            replica=self.replica,
            paths=paths,
            explainer=Explainer(view=view, calls=calls, shards=shards, paths=paths),
            usage=UsageOfAll(view=view, calls=calls, paths=paths),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run everything until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.replica.run)
            await nursery.start(self._led.run)
            await nursery.start(self._members.run)
            task_status.started()

    async def hand_over(self) -> None:
        """Give every leadership away, before a planned stop: nobody waits for an election."""
        await self._members.hand_over()

    def _admin(
        self, clock: WallClock, entropy: Entropy, redundancy: Redundancy, insight: Insight
    ) -> AdminCommands:
        return AdminCommands(
            replica=self.replica,
            vault=self.vault,
            clock=clock,
            entropy=entropy,
            collect=self.collector.wake,
            more={
                **JobCommands(self.jobs).table,
                **NodeCommands(self.replica, redundancy, self.jobs).table,
                **insight.table,
                **SnapshotCommands(self.replica, self.snapshots).table,
                **self._quota_commands.table,
            },
        )

    def _keeper(self, mover: Mover, clock: WallClock) -> Keeper:
        return Keeper(
            replica=self.replica,
            jobs=self.jobs,
            mover=mover,
            detector=self.detector,
            clock=clock,
        )

    def _redundancy(
        self, mover: Mover, fragments: Fragments, keeper: Keeper, threads: Threads
    ) -> Redundancy:
        redundancy = Redundancy(
            replica=self.replica,
            mover=mover,
            fragments=fragments,
            detector=self.detector,
            threads=threads,
            usable_disks=keeper.usable_disks,
        )
        for kind in redundancy.kinds:
            self.jobs.register(kind)
        return redundancy

    def _register_rewriter(
        self, mover: Mover, fragments: Fragments, shards: Shards, data: DataPath
    ) -> None:
        rewriter = Rewriter(
            replica=self.replica, mover=mover, fragments=fragments, shards=shards, data=data
        )
        self.jobs.register(rewriter.kind)

    def _limiting(self, view: ClusterView, shards: Shards, clock: WallClock) -> Quotas:
        quotas = Quotas(
            replica=self.replica, view=view, shards=shards, clock=clock,
            hold_still=self.snapshots.hold_still, worker=self.workers["quotas"],
        )  # fmt: skip
        self.jobs.register(QuotaJob(replica=self.replica, shards=shards, worker=quotas).kind)
        self._quota_commands = QuotaCommands(
            replica=self.replica, view=view, jobs=self.jobs, worker=quotas,
            paths=Paths(view=view, shards=shards),
        )  # fmt: skip
        return quotas

    async def _miscounted(self, shard: int) -> list[str]:
        return await self._quota_commands.miscounted(shard)

    def _worker_states(self) -> list[WorkerStatus]:
        return [w.status() for w in self.workers.values()] + self.jobs.worker_states()
