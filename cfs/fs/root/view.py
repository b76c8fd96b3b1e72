"""The cluster map as this process knows it: the newest it has seen, never an older one.

Three ways bring a newer map: a peer's epoch in any frame (`on_epoch`) or a caller that needs one
(`refresh`) makes this view ask the meta nodes; a meta node that holds the root group offers what
it applied (`offer`). The last known map is kept in the node's directory, so that a process finds
the meta nodes without a root leader.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from cfs.core.api import root
from cfs.core.api.cluster import ClusterMap, Node, Role
from cfs.core.errors import CfsError, DeadlineExceeded, Unavailable
from cfs.fs.root.ports import Calls
from cfs.net.ports import Threads

_LOG = structlog.get_logger()

ASK_S = 2.0
"""How long one meta node may take to give the map."""
PAUSE_S = 0.1
HOLD_TRIES = 10
PAUSE_S_MAX = 2.0


class ClusterView:
    """The newest map; `run` keeps it so."""

    def __init__(
        self,
        known: ClusterMap,
        *,
        node_id: int = 0,
        save: Callable[[ClusterMap], None] | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._map = known
        self._nodes: dict[int, Node] = {}
        self._revoked: frozenset[int] = frozenset()
        self._node_id = node_id
        self._save = save
        self._threads = threads
        self._calls: Calls | None = None
        self._wanted = 0
        self._kept = known.epoch
        self._wake = trio.Event()
        self._asking: trio.Event | None = None
        self._turn = node_id
        self._keeping = trio.Lock()
        self._watchers: list[Callable[[ClusterMap], None]] = []
        self.root_leader: int | None = None
        """Who leads the root group, as last heard; a hint."""
        self._index()

    # --- reading

    @property
    def map(self) -> ClusterMap:
        """The newest map seen."""
        return self._map

    @property
    def epoch(self) -> int:
        """Its epoch."""
        return self._map.epoch

    def node(self, node_id: int) -> Node | None:
        """Find a node."""
        return self._nodes.get(node_id)

    def resolve(self, node_id: int) -> tuple[str, int] | None:
        """Give a node's address, for the pool."""
        node = self._nodes.get(node_id)
        return None if node is None else (node.host, node.port)

    def name_of(self, node_id: int) -> str | None:
        """Give the name a node's certificate must show."""
        node = self._nodes.get(node_id)
        return None if node is None else node.name

    def refused(self, serial: int) -> bool:
        """Tell whether a certificate is revoked."""
        return serial in self._revoked

    def meta_nodes(self) -> list[int]:
        """Give the meta nodes, those that hold the root group first."""
        voters = [g.voters for g in self._map.groups if g.group == 0]
        first = list(voters[0]) if voters else []
        rest = [n.node_id for n in self._map.nodes if n.role == Role.META]
        return first + [n for n in rest if n not in first]

    def watch(self, callback: Callable[[ClusterMap], None]) -> None:
        """Call `callback` with every newer map, at once after it is adopted; it must not block."""
        self._watchers.append(callback)

    # --- becoming newer

    def attach(self, calls: Calls) -> None:
        """Use this pool from now on (the pool needs the view first)."""
        self._calls = calls

    def on_epoch(self, epoch: int) -> None:
        """Hear of an epoch; a newer one makes `run` refresh."""
        if epoch > self._map.epoch and epoch > self._wanted:
            self._wanted = epoch
            self._wake.set()

    def offer(self, known: ClusterMap | None, leader: int | None = None) -> bool:
        """Adopt a map if it is newer; tell whether it was."""
        if leader is not None:
            self.root_leader = leader
        if known is None or known.epoch <= self._map.epoch:
            return False
        if known.cluster_id != self._map.cluster_id:
            _LOG.error("map_foreign", cluster=known.name)
            return False
        self._map = known
        self._index()
        self._wake.set()
        for callback in self._watchers:
            callback(known)
        return True

    async def refresh(self) -> None:
        """Ask the meta nodes, one after another, until one answers.

        Calls at the same time share one question. Raises Unavailable when none answers. While it
        waits, a newer map may arrive another way.
        """
        if self._asking is not None:
            await self._asking.wait()
            return
        self._asking = trio.Event()
        try:
            await self._ask()
        finally:
            self._asking.set()
            self._asking = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Refresh when a newer epoch was heard of, and keep newer maps on disk; for ever."""
        task_status.started()
        self._kept = 0  # `run` writes what it starts with: the file may be damaged or gone
        pause_s = PAUSE_S
        while True:
            self._wake = trio.Event()
            if self._wanted > self._map.epoch:
                try:
                    await self.refresh()
                except CfsError as error:
                    _LOG.debug("map_refresh_failed", error=str(error))
            await self._keep()
            if self._wanted > self._map.epoch:
                with trio.move_on_after(pause_s):
                    await self._wake.wait()
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
            else:
                pause_s = PAUSE_S
                await self._wake.wait()

    async def settle(self) -> None:
        """Fetch the map if a newer epoch was heard of, and keep it on disk.

        For short commands that do not `run` the view: without it they would know only the nodes of
        the day they enrolled. What fails is left for the next one.
        """
        with trio.move_on_after(ASK_S):
            try:
                if self._wanted > self._map.epoch:
                    await self.refresh()
                await self._keep()
            except CfsError as error:
                _LOG.debug("map_refresh_failed", error=str(error))

    async def hold(self, epoch: int) -> None:
        """Have a map of at least this epoch, on disk. Raises Unavailable when that cannot be."""
        self.on_epoch(epoch)
        for _ in range(HOLD_TRIES):
            if self._map.epoch >= epoch:
                break
            await self.refresh()
            if self._map.epoch < epoch:  # whoever answered has not applied it yet
                await trio.sleep(PAUSE_S)
        await self._keep()
        if self._map.epoch < epoch or (self._save is not None and self._kept < epoch):
            raise Unavailable(f"the cluster map of epoch {epoch} is not here yet: ask again")

    async def _keep(self) -> None:
        async with self._keeping:
            newest = self._map
            if self._save is None or self._kept >= newest.epoch:
                return
            try:
                if self._threads is None:
                    self._save(newest)
                else:
                    await self._threads.run(self._save, newest)
            except OSError as error:
                _LOG.warning("map_not_saved", error=str(error))
            else:
                self._kept = newest.epoch

    async def _ask(self) -> None:
        if self._calls is None:
            raise Unavailable("this process has no connections yet")
        nodes = [n for n in self.meta_nodes() if n != self._node_id]
        if not nodes:
            return
        self._turn += 1
        failure: CfsError | None = None
        answered = False
        for offset in range(len(nodes)):
            node = nodes[(self._turn + offset) % len(nodes)]
            request = root.GetMap(have_epoch=self._map.epoch)
            try:
                reply, _ = await self._calls.call(node, "root.map", request, timeout_s=ASK_S)
            except (Unavailable, DeadlineExceeded) as error:
                failure = error
                continue
            self.offer(reply.map, reply.root_leader)
            answered = True
            if self._wanted <= self._map.epoch:
                return
        if not answered and failure is not None:
            raise Unavailable(f"no meta node gave the cluster map: {failure}")

    def _index(self) -> None:
        self._nodes = {n.node_id: n for n in self._map.nodes}
        self._revoked = frozenset(self._map.revoked)
