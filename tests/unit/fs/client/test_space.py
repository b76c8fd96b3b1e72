"""What fits, and what a client believes while nobody knows."""

import pytest
import trio

from cfs.core.api import root
from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role
from cfs.core.api.store import StoreStat
from cfs.core.errors import DeadlineExceeded
from cfs.fs.client.buffer import Buffer
from cfs.fs.client.limits import Limits
from cfs.fs.client.space import Space

MIB = 1 << 20
LIMITS = Limits(space_margin=0, patience_s=2)


class Root:
    """Answers `root.status` with the free bytes of each storage node; None: not heard of."""

    def __init__(self, free, states=None):
        self.free = free
        self.states = states or {}

    async def ask(self, _group, _method, _request, *, deadline):
        ids = range(1, len(self.free) + 1)
        nodes = tuple(
            Node(
                node_id=n, name=f"s{n}", role=Role.STORAGE, host="", port=0, domain=f"d{n}",
                state=self.states.get(n, NodeState.IN),
            )
            for n in ids
        )  # fmt: skip
        known = ClusterMap(
            epoch=1, cluster_id=b"", name="t", site=0, shard_count=1,
            profile=Profile(data=2, parity=1), key_version=1, nodes=nodes, groups=(),
            placement=(tuple(ids),),
        )  # fmt: skip
        return root.Status(
            map=known, leader=1, nodes=tuple(map(self._node, nodes)), logical_bytes=0, inodes=0,
            inline_bytes=0, health="ok",
        )  # fmt: skip

    def _node(self, node):
        free = self.free[node.node_id - 1]
        stat = StoreStat(capacity=1 << 40, free=free or 0, full=free == 0)
        beat = root.Heartbeat(node_id=node.node_id, epoch=1, started_ms=0, store=stat)
        return root.NodeStatus(
            node_id=node.node_id, name=node.name, role="storage", address="", state=node.state,
            seen_ms_ago=None if free is None else 100, heartbeat=None if free is None else beat,
        )  # fmt: skip


def run(main):
    async def bounded():
        with trio.fail_after(30):
            await main()

    trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("free", "fits"),
    [
        ((300, 300, 300), 600),  # all coded
        ((0, 300, 300), 300),  # one is full: two copies
        ((100, 300, 300), 200 + 200),  # coded until it is full, then copies
        ((0, 0, 300), 0),  # one domain cannot hold what must survive its loss
        ((0, 100, 300), 100),
        ((0, 0, 0), 0),
    ],
)
def test_what_fits(free, fits):
    async def main():
        space = Space(Root([f * MIB for f in free]), Buffer(1 << 40), LIMITS)
        assert await space.check(fits * MIB) or not fits
        assert not await space.check(fits * MIB + 1)

    run(main)


def test_a_node_that_is_down_has_no_room():
    async def main():
        asked = Root([300 * MIB] * 3, {1: NodeState.DOWN})
        space = Space(asked, Buffer(1 << 40), LIMITS)
        assert await space.check(300 * MIB)
        assert not await space.check(300 * MIB + 1)

    run(main)


def test_nodes_that_are_down_do_not_make_a_cluster_full():
    async def main():
        asked = Root([300 * MIB] * 3)
        space = Space(asked, Buffer(1 << 40), LIMITS)
        assert await space.check(300 * MIB)
        asked.states = {1: NodeState.DOWN, 2: NodeState.DOWN}
        await trio.sleep(20)
        assert await space.check(300 * MIB), "what is written now waits in the buffer"
        fresh = Space(asked, Buffer(1 << 40), LIMITS)
        with pytest.raises(DeadlineExceeded):
            await fresh.check(1)

    run(main)


def test_nothing_known_is_not_nothing_free():
    async def main():
        asked = Root([None, 300 * MIB, 300 * MIB])
        space = Space(asked, Buffer(1 << 40), LIMITS)
        with pytest.raises(DeadlineExceeded):
            await space.check(1)
        asked.free = [300 * MIB] * 3
        assert await space.check(1)
        asked.free = [None] * 3  # another root leader took over
        await trio.sleep(20)
        assert await space.check(1)

    run(main)


def test_what_was_stored_since_the_figures_were_made_counts():
    async def main():
        asked = Root([300 * MIB] * 3)
        space = Space(asked, Buffer(1 << 40), LIMITS)
        assert await space.check(600 * MIB)
        space.stored(500 * MIB)
        assert not await space.check(200 * MIB)
        assert await space.check(100 * MIB)
        for _ in range(5000):
            space.stored(1)
        assert len(space._stored) <= 1024
        await trio.sleep(2)  # what the figures say by then includes it
        assert await space.check(600 * MIB)

    run(main)
