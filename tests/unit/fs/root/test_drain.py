"""A drain waits a bounded time for nodes that were heard of a moment ago, and says for whom."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from cfs.core.api.cluster import Node, NodeState, Profile, Role
from cfs.core.errors import Refused
from cfs.core.root import commands
from cfs.core.root.records import NodeRecord
from cfs.fs.root.jobs import JobContext
from cfs.fs.root.redundancy import DOWN_WAIT_S, Redundancy


class Cluster:
    """Storage nodes 1 to 4 without data; the profile needs three."""

    def __init__(self) -> None:
        self.states = dict.fromkeys((1, 2, 3, 4), NodeState.IN)
        self.resting = dict.fromkeys((1, 2, 3, 4), NodeState.IN)
        self.silent_s = dict.fromkeys((1, 2, 3, 4), 0.0)
        self.redundancy = Redundancy(
            replica=cast("Any", self),
            mover=cast("Any", self),
            fragments=cast("Any", None),
            detector=cast("Any", SimpleNamespace(silent_s=lambda _now, n: self.silent_s[n])),
            threads=cast("Any", SimpleNamespace(run=_run)),
            usable_disks=lambda _node: (),
        )
        self.context = cast("JobContext", SimpleNamespace(message="", done=0, total=0))

    def nodes(self) -> list[NodeRecord]:
        return [
            NodeRecord(
                node=Node(
                    node_id=n, name=f"s{n}", role=Role.STORAGE, host="h", port=n, domain=f"d{n}",
                    state=state,
                ),
                resting=self.resting[n],
            )
            for n, state in self.states.items()
        ]  # fmt: skip

    def cluster(self) -> Any:
        return SimpleNamespace(profile=Profile(2, 1))

    def lists(self) -> list[Any]:
        return []

    def open_moves(self) -> set[int]:
        return set()

    async def settle(self, _context: JobContext) -> None:
        await trio.lowlevel.checkpoint()

    async def propose(self, command: commands.SetStates) -> None:
        await trio.lowlevel.checkpoint()
        for change in command.changes:
            assert self.states[change.node_id] == change.old
            self.states[change.node_id] = self.resting[change.node_id] = NodeState(change.new)

    def down(self, node: int, silent_s: float) -> None:
        self.states[node] = NodeState.DOWN
        self.silent_s[node] = silent_s

    async def drain(self, name: str) -> Any:
        job = cast("Any", SimpleNamespace(spec={"node": name}))
        return await self.redundancy.drain(job, self.context)


async def _run(call: Any, *arguments: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return call(*arguments)


def test_a_drain_is_refused_when_another_node_is_down_for_long_and_names_it() -> None:
    cluster = Cluster()

    async def main() -> None:
        cluster.redundancy.check_drain({"node": "s4"})
        cluster.down(2, DOWN_WAIT_S + 1)
        with pytest.raises(Refused, match=r"2 failure domains are .*down: s2: start that, or add"):
            cluster.redundancy.check_drain({"node": "s4"})
        with pytest.raises(Refused, match="s2 is down"):
            cluster.redundancy.check_drain({"node": "s2"})

    trio.run(main)


@pytest.mark.parametrize("name", ["s4", "s2"])
def test_a_drain_waits_for_a_node_that_was_there_a_moment_ago(name: str) -> None:
    cluster = Cluster()
    cluster.down(2, 4)

    async def main() -> None:
        cluster.redundancy.check_drain({"node": name})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.drain, name)
            await trio.sleep(10.2)
            assert "50 s more" in cluster.context.message
            assert "s2 (for 4 s)" in cluster.context.message
            assert NodeState.DRAINING not in cluster.states.values()
            cluster.states[2] = NodeState.IN
        assert cluster.states[int(name[1:])] == NodeState.DRAINING
        assert trio.current_time() < DOWN_WAIT_S / 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_wait_of_a_drain_ends() -> None:
    cluster = Cluster()
    cluster.down(2, 4)

    async def main() -> None:
        with pytest.raises(Refused, match="down: s2"):
            await cluster.drain("s4")
        assert DOWN_WAIT_S <= trio.current_time() < DOWN_WAIT_S + 2
        assert cluster.states[4] == NodeState.IN

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_rebalance_keeps_the_share_of_a_node_that_is_down_for_a_moment() -> None:
    cluster = Cluster()
    lists = [SimpleNamespace(members=m) for m in itertools.combinations((1, 2, 3, 4), 3)]
    cluster.lists = lambda: lists  # type: ignore[method-assign]
    cluster.down(2, 4)

    async def main() -> None:
        moves, _ = await cluster.redundancy.plan_rebalance()
        assert moves == []

    trio.run(main)
