"""What the root leader runs while it leads, one term at a time.

Detection, placement, collection, jobs, snapshots, quotas.

The first thing a new cluster's leader does is make the cluster: it proposes the genesis command
that `bootstrap` left in the node's directory, and then removes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from cfs.core.errors import CfsError, Retryable
from cfs.core.root import commands, records
from cfs.core.root.nodes import read_settings
from cfs.fs.root.collector import Collector
from cfs.fs.root.detector import Detector
from cfs.fs.root.directory import NodeDirectory
from cfs.fs.root.job_runner import Jobs
from cfs.fs.root.keeper import Keeper
from cfs.fs.root.placer import Placer
from cfs.fs.root.quotas import Quotas
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.snapshots import Snapshots
from cfs.fs.root.workers import Worker
from cfs.net.ports import Threads

_LOG = structlog.get_logger()

LOOK_S = 0.5
RETRY_S = 0.2


class LedRoot:
    """Follows leadership of the root group and runs its workers."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        detector: Detector,
        placer: Placer,
        collector: Collector,
        jobs: Jobs,
        keeper: Keeper,
        snapshots: Snapshots,
        quotas: Quotas,
        directory: NodeDirectory,
        threads: Threads,
        worker: Worker,
    ) -> None:
        self._replica = replica
        self._detector = detector
        self._placer = placer
        self._collector = collector
        self._jobs = jobs
        self._keeper = keeper
        self._snapshots = snapshots
        self._quotas = quotas
        self._directory = directory
        self._threads = threads
        self._worker = worker

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lead whenever elected; for ever."""
        task_status.started()
        while True:
            term = await self._replica.until_led()
            _LOG.info("root_led", term=term)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._replica.until_lost, term, nursery.cancel_scope.cancel)
                nursery.start_soon(self._lead)
            _LOG.info("root_left", term=term)
            self._worker.state = "idle"

    async def _lead(self) -> None:
        await self._make_cluster()
        await self._guarded(self._tell)
        self._detector.begin(trio.current_time())
        self._placer.begin()
        self._keeper.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_nodes)
            nursery.start_soon(self._collector.run)
            nursery.start_soon(self._jobs.run)
            nursery.start_soon(self._snapshots.run)
            nursery.start_soon(self._quotas.run)

    async def _tell(self) -> None:
        name = self._directory.membership().name
        await self._replica.propose(commands.NoteEvent(kind="leader", text=f"{name} leads the root"
                                                       " group"))  # fmt: skip

    async def _make_cluster(self) -> None:
        genesis = await self._threads.run(self._directory.genesis)
        while genesis is not None:
            command = commands.decode(genesis)
            try:
                await self._replica.propose(command)
            except CfsError as error:
                self._worker.last_error = f"the cluster is not made yet: {error}"
                await trio.sleep(RETRY_S)
                continue
            await self._threads.run(self._directory.remove_genesis)
            self._worker.last_error = ""
            _LOG.info("cluster_made")
            return
        while records.get_counters(self._replica.state).next_node == 1:
            self._worker.last_error = "the root group holds no cluster, and here is no genesis"
            await trio.sleep(RETRY_S)

    async def _watch_nodes(self) -> None:
        self._worker.state = "watching"
        while True:
            await self._guarded(self._look)
            await self._guarded(self._placer.look)
            await self._guarded(self._keeper.look)
            await trio.sleep(LOOK_S)

    async def _look(self) -> None:
        domains_needed = self._replica.cluster().profile.total
        known = read_settings(self._replica.state)
        self._detector.patience(grace_s=known.grace_s, share_max=known.share_max)
        now = trio.current_time()
        changes = self._detector.look(now, self._replica.nodes(), domains_needed)
        for change in changes:
            _LOG.info("node_state", node=change.node_id, old=change.old, new=change.new)
            await self._replica.propose(commands.SetStates(changes=(change,)))

    async def _guarded(self, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await action()
        except Retryable as error:
            _LOG.debug("root_worker_again", error=str(error))  # at the next look
        except CfsError as error:
            self._worker.last_error = str(error)
            _LOG.warning("root_worker_failed", error=str(error))
