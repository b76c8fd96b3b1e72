"""This node's replica of the root group: proposing to it, reading it, the map it has applied.

A node may hold no replica (more than five meta nodes): then every use raises NotLeader and the
view learns maps from others.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from cfs.core.api.cluster import ClusterMap
from cfs.core.errors import NotLeader, Unavailable
from cfs.core.ids import ROOT_GROUP
from cfs.core.kv import Reader
from cfs.core.root import commands, records
from cfs.core.root.commands import AnyCommand
from cfs.core.root.map import read_map
from cfs.core.root.nodes import degraded_since
from cfs.core.root.records import ClusterRecord, NodeRecord
from cfs.fs.root.ports import Group, Host
from cfs.fs.root.view import ClusterView

POLL_S = 0.2


class RootReplica:
    """The root group as this node has it."""

    def __init__(
        self, host: Host, view: ClusterView, *, now_ms: Callable[[], int] = lambda: 0
    ) -> None:
        self._now_ms = now_ms
        self._host = host
        self._view = view
        self._seen_index = -1

    @property
    def group(self) -> Group | None:
        """The replica, if this node holds one."""
        group: Group | None = self._host.groups.get(ROOT_GROUP)
        return group

    @property
    def leads(self) -> bool:
        """This node leads the root group and may act for it."""
        group = self.group
        return group is not None and group.is_leader and group.ready

    @property
    def leader(self) -> int | None:
        """Who leads, as far as this node knows."""
        group = self.group
        leader = group.leader if group is not None else None
        return leader if leader is not None else self._view.root_leader

    def require(self, *, made: bool = True) -> Group:
        """Give the replica; raises NotLeader unless it leads, Unavailable when it cannot act yet.

        `made`: the cluster must have been made; only the command that makes it does without.
        """
        group = self.group
        if group is None or not group.is_leader:
            raise NotLeader("this node does not lead the root group", leader=self.leader)
        if not group.ready:
            raise Unavailable("the root leader has only just been elected")
        if made and group.state.get(records.CLUSTER_KEY) is None:
            raise Unavailable("the cluster is being made")
        return group

    @property
    def state(self) -> Reader:
        """The applied state. Raises NotLeader where there is no replica."""
        group = self.group
        if group is None:
            raise NotLeader("this node holds no replica of the root group", leader=self.leader)
        return group.state

    async def read(self) -> Reader:
        """Give the state once it is linearizable. Raises NotLeader, Unavailable."""
        group = self.require()
        await group.read_barrier()
        return group.state

    async def propose(self, command: AnyCommand) -> int:
        """Have the group apply a command; give its number.

        Raises the refusal, NotLeader, or Unavailable (the outcome is unknown). The map that
        follows from it is in the view on return.
        """
        group = self.require(made=not isinstance(command, commands.CreateCluster))
        if getattr(command, "now_ms", None) == 0:
            command = msgspec.structs.replace(command, now_ms=self._now_ms())
        _index, result = await group.propose(commands.encode(command))
        self.sync()
        assert isinstance(result, commands.Result)
        return result.unwrap()

    def cluster(self) -> ClusterRecord:
        """Read the cluster's record. Raises Unavailable before it is there."""
        record = records.get(self.state, ClusterRecord, records.CLUSTER_KEY)
        if record is None:
            raise Unavailable("the cluster is being made")
        return record

    def degraded(self) -> int:
        """Give the epoch since which segments may have another form than the profile's; or 0."""
        return degraded_since(self.state)

    def nodes(self) -> list[NodeRecord]:
        """Read every node."""
        return records.get_all(self.state, NodeRecord, records.NODE_PREFIX)

    # --- the map

    def sync(self) -> None:
        """Offer the view what was applied, if it is newer. One small read when nothing is."""
        group = self.group
        if group is None or group.applied == self._seen_index:
            return
        self._seen_index = group.applied
        leader = group.leader
        newer: ClusterMap | None = None
        if records.get_counters(group.state).epoch > self._view.epoch:
            newer = read_map(group.state)
        self._view.offer(newer, leader)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the view as new as the applied state; for ever."""
        task_status.started()
        while True:
            self.sync()
            await trio.sleep(POLL_S)

    async def until_led(self) -> int:
        """Wait until this node leads and is ready; give the term."""
        while not self.leads:  # noqa: ASYNC110 - three fields of another's object
            await trio.sleep(POLL_S / 2)
        group = self.group
        assert group is not None
        return group.term

    async def until_lost(self, term: int, then: Callable[[], None]) -> None:
        """Call `then` once this node no longer leads `term`."""
        while self.leads and (group := self.group) is not None and group.term == term:  # noqa: ASYNC110 - likewise
            await trio.sleep(POLL_S / 2)
        then()
