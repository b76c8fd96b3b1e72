"""The pool: on demand, shared, failing fast, back again."""

import pytest
import trio
import trio.testing
from networld import HOST, World, getxattr, memory_make, running, statfs, tls_make, until

from cfs.core.api.store import PutFragment
from cfs.core.errors import DeadlineExceeded, Refused, Unavailable

PUT = PutFragment(segment=b"s", index=0, data=1, parity=1, segment_length=1)


@pytest.fixture(params=[memory_make, tls_make], ids=["memory", "tls"])
def make(request):
    return request.param()


def virtual():
    return trio.testing.MockClock(autojump_threshold=0)


class Counting:
    """A transport that counts attempts, and may be told to fail or hang."""

    def __init__(self, inner):
        self.inner = inner
        self.attempts = 0
        self.down = False
        self.hangs = False

    async def connect(self, host, port):
        self.attempts += 1
        if self.hangs:
            await trio.sleep_forever()
        if self.down:
            raise Unavailable("down")
        return await self.inner.connect(host, port)

    async def listen(self, host, port):
        return await self.inner.listen(host, port)


def play(make, story, *, clock=None, **options):
    async def main():
        world = World()
        transport = Counting(make("client", "c1"))
        with trio.fail_after(60):
            async with running(make, world, transport=transport, **options) as (server, pool):
                await story(world, server, pool, transport)

    trio.run(main, clock=clock)


def test_many_callers_share_one_connection_made_on_demand(make):
    async def story(world, server, pool, transport):
        assert transport.attempts == 0
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(lambda: pool.call(1, "meta.statfs", statfs(), timeout_s=5))
        assert transport.attempts == 1
        assert len(server.peers) == 1
        assert world.connects == [1]

    play(make, story)


def test_bulk_has_a_connection_of_its_own(make):
    async def story(world, server, pool, _transport):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        await pool.call(1, "store.put", PUT, bytes(1 << 20), timeout_s=5)
        assert len(server.peers) == 2
        assert world.connects == [1]

    play(make, story)


def test_a_lost_connection_is_made_again(make):
    async def story(world, server, pool, _transport):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        for peer in list(server.peers):
            peer.close("lost")
        await until(lambda: pool.peer(1) is None)
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        assert world.connects == [1, 1]
        assert world.disconnects == [1]

    play(make, story)


def test_a_dead_node_fails_fast_and_is_tried_with_growing_pauses():
    async def story(_world, _server, pool, transport):
        transport.down = True
        began = trio.current_time()
        while trio.current_time() - began < 10:
            with pytest.raises(Unavailable):
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
            await trio.sleep(0.01)
        assert 10 <= transport.attempts <= 15  # at 0, .05, .15, .35, .75, 1.55, then every second
        transport.down = False
        await trio.sleep(1)
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    play(memory_make(), story, clock=virtual())


def test_a_node_that_moved_is_tried_at_once():
    port = {}

    async def story(_world, server, pool, _transport):
        port[1] = 1
        with pytest.raises(Unavailable):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        port[1] = server.port
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    play(memory_make(), story, resolve=lambda node: (HOST, port[node]))


def test_a_hanging_connect_ends_with_the_callers_deadline_or_its_own():
    async def story(_world, _server, pool, transport):
        transport.hangs = True
        with pytest.raises(DeadlineExceeded):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=1)
        with pytest.raises(Unavailable, match="did not answer"):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=30)
        assert transport.attempts == 1

    play(memory_make(), story, clock=virtual())


def test_a_known_dead_node_does_not_hold_callers_while_it_is_tried_again():
    async def story(_world, _server, pool, transport):
        transport.hangs = True
        with pytest.raises(Unavailable):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=30)
        for _ in range(50):
            began = trio.current_time()
            with pytest.raises(Unavailable):
                await pool.call(1, "meta.statfs", statfs(), timeout_s=30)
            assert trio.current_time() - began <= 0.11
            await trio.sleep(0.05)
        assert transport.attempts >= 2
        transport.hangs = False
        await trio.sleep(3)
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    play(memory_make(), story, clock=virtual())


def test_unknown_nodes_are_unavailable(make):
    async def story(_world, _server, pool, _transport):
        with pytest.raises(Unavailable, match="not in the cluster map"):
            await pool.call(99, "meta.statfs", statfs(), timeout_s=1)
        with pytest.raises(Unavailable):
            pool.post(99, "meta.statfs", statfs())

    play(make, story)


def test_posts_wait_for_the_connection_they_ask_for(make):
    async def story(world, _server, pool, _transport):
        for n in range(10):
            pool.post(1, "meta.getxattr", getxattr(n))
        await until(lambda: len(world.started) == 10)
        assert sorted(ino for ino, _ in world.started) == list(range(10))
        pool.post(1, "meta.getxattr", getxattr(10))
        await until(lambda: len(world.started) == 11)

    play(make, story)


def test_an_address_may_be_called_without_a_map(make):
    async def story(world, server, pool, _transport):
        reply, payload = await pool.call_address(
            HOST, server.port, "meta.statfs", statfs(5), b"abc", timeout_s=5
        )
        assert (reply.inodes, payload) == (5, b"abc")
        await until(lambda: not server.peers)
        assert world.connects == []
        with pytest.raises(Unavailable):
            await pool.call_address(HOST, 1, "meta.statfs", statfs(), timeout_s=5)
        with pytest.raises(DeadlineExceeded):
            await pool.call_address(HOST, server.port, "meta.getxattr", getxattr(1), timeout_s=0.05)

    play(make, story)


def test_another_node_at_the_address_is_not_taken_for_the_one_meant(make):
    async def story(_world, _server, pool, _transport):
        with pytest.raises(Unavailable, match="is m1, not m2"):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    play(make, story, name_of=lambda _node: "m2")


def test_a_revoked_server_is_not_spoken_to(make):
    async def story(_world, server, pool, _transport):
        with pytest.raises(Unavailable, match="revoked"):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        with pytest.raises(Refused, match="revoked"):
            await pool.call_address(HOST, server.port, "meta.statfs", statfs(), timeout_s=5)

    play(make, story, refused=lambda _serial: True)


def test_disconnect_closes_both(make):
    async def story(_world, server, pool, _transport):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        await pool.call(1, "store.put", PUT, timeout_s=5)
        pool.disconnect(1, "it is out")
        assert pool.peer(1) is None
        await until(lambda: not server.peers)

    play(make, story)
