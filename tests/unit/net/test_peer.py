"""One connection: calls both ways, errors, deadlines, cancellation, backpressure, silence."""

import pytest
import trio
import trio.testing
from networld import HOST, World, getxattr, memory_make, running, statfs, tls_make, until

from cfs.core.api import meta
from cfs.core.api.store import GetFragment, PutFragment
from cfs.core.errors import CfsError, DeadlineExceeded, Malformed, NotFound, Unavailable
from cfs.net import calls, hello, outbox
from cfs.net.frame import PAYLOAD_BYTES_MAX, Kind, encode
from cfs.net.memory import MemoryConnection

PUT = PutFragment(segment=b"s", index=0, data=1, parity=1, segment_length=1)


@pytest.fixture(params=[memory_make, tls_make], ids=["memory", "tls"])
def make(request):
    return request.param()


def play(make, story, *, clock=None, **options):
    async def main():
        world = World()
        with trio.fail_after(60):
            async with running(make, world, **options) as (server, pool):
                await story(world, server, pool)

    trio.run(main, clock=clock)


def virtual():
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 32_768, 131_072, 1 << 20, 16 << 20])
def test_payloads_go_and_come_unchanged(make, size):
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]

    async def story(_world, _server, pool):
        reply, back = await pool.call(1, "meta.statfs", statfs(), payload, timeout_s=20)
        assert reply.logical_bytes == size
        assert back == payload

    play(make, story)


def test_many_at_once_each_get_their_own(make):
    async def story(_world, _server, pool):
        async def one(n):
            payload = bytes([n % 251]) * (n * 97 % 60_000)
            reply, back = await pool.call(1, "meta.statfs", statfs(n), payload, timeout_s=20)
            assert reply.inodes == n
            assert back == payload

        async with trio.open_nursery() as nursery:
            for n in range(200):
                nursery.start_soon(one, n)

    play(make, story)


def test_the_server_calls_back_on_the_same_connection(make):
    async def story(_world, server, pool):
        request = meta.ListXattr(shard=1, session=9, ino=1)
        reply, _ = await pool.call(1, "meta.listxattr", request, timeout_s=5)
        assert reply.at == 77
        assert len(server.peers) == 1

    play(make, story)


def test_errors_cross_the_wire(make):
    async def story(_world, _server, pool):
        request = meta.Lookup(shard=1, session=1, parent=1, name=b"n")
        with pytest.raises(NotFound, match="no such name") as caught:
            await pool.call(1, "meta.lookup", request, timeout_s=5)
        assert caught.value.detail == {"name": b"n"}

    play(make, story)


def test_a_bug_in_a_handler_fails_only_that_call(make):
    async def story(_world, server, pool):
        with pytest.raises(CfsError, match="failed at the server"):
            await pool.call(1, "store.get", GetFragment(segment=b"", index=0), timeout_s=5)
        assert server.counters.get("handler_bug") == 1
        await pool.call(1, "store.put", PUT, timeout_s=5)

    play(make, story)


def test_what_is_not_served_here_is_retryable(make):
    async def story(_world, _server, pool):
        with pytest.raises(Unavailable, match="not served"):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    class Bare(World):
        def handlers(self):
            return {}

    async def main():
        world = Bare()
        async with running(make, world) as (server, pool):
            await story(world, server, pool)

    trio.run(main)


def test_an_oversized_request_costs_the_caller_only(make):
    async def story(_world, _server, pool):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        with pytest.raises(Malformed):
            await pool.call(1, "meta.statfs", statfs(), bytes(PAYLOAD_BYTES_MAX + 1), timeout_s=5)
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        assert pool.peer(1).pending_count == 0

    play(make, story)


def test_the_deadline_travels_and_ends_both_sides():
    async def story(world, _server, pool):
        began = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await pool.call(1, "meta.getxattr", getxattr(5), timeout_s=3)
        assert trio.current_time() == pytest.approx(began + 3, abs=0.01)
        await trio.testing.wait_all_tasks_blocked()
        ((ino, deadline),) = world.started
        assert ino == 5
        assert deadline == pytest.approx(began + 3, abs=0.01)
        assert world.cancelled == [5]
        await pool.call(1, "meta.statfs", statfs(), timeout_s=1)

    play(memory_make(), story, clock=virtual())


def test_a_shorter_deadline_is_not_kept_waiting_by_a_longer_one():
    async def story(_world, _server, pool):
        ends = {}

        async def one(timeout_s):
            with pytest.raises(DeadlineExceeded):
                await pool.call(1, "meta.getxattr", getxattr(1), timeout_s=timeout_s)
            ends[timeout_s] = trio.current_time()

        await pool.call(1, "meta.statfs", statfs(), timeout_s=1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for timeout_s in (9.0, 0.05, 0.2, 4.0):
                nursery.start_soon(one, timeout_s)
        for timeout_s, end in ends.items():
            assert end - began == pytest.approx(timeout_s, abs=0.01)

    play(memory_make(), story, clock=virtual())


def test_cancelling_a_call_cancels_the_handler(make):
    async def story(world, _server, pool):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: pool.call(1, "meta.getxattr", getxattr(3), timeout_s=50))
            await until(lambda: world.started)
            nursery.cancel_scope.cancel()
        await until(lambda: world.cancelled)
        assert world.cancelled == [3]
        assert pool.peer(1).pending_count == 0
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    play(make, story)


def test_closing_fails_calls_and_cancels_handlers(make):
    async def story(world, server, pool):
        async def one():
            with pytest.raises(Unavailable):
                await pool.call(1, "meta.getxattr", getxattr(4), timeout_s=50)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await until(lambda: world.started)
            for peer in list(server.peers):
                peer.close("the test says so")
        await until(lambda: world.cancelled == [4] and world.disconnects == [1])

    play(make, story)


def test_epochs_travel_with_every_frame(make):
    async def story(world, _server, pool):
        world.client_epoch = 9
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        assert world.heard["server"][-1] == 9
        world.client_epoch, world.server_epoch = 9, 12
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        assert world.heard["client"][-1] == 12
        heard = len(world.heard["client"])
        world.client_epoch = 12
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        assert len(world.heard["client"]) == heard

    play(make, story)


def test_posts_never_wait_and_are_bounded(monkeypatch):
    monkeypatch.setattr(outbox, "QUEUE_BYTES_MAX", 1 << 20)

    async def story(_world, server, pool):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        (server_side,) = server.peers
        server_side._connection.cut = True  # it reads nothing from now on
        peer = pool.peer(1)
        while not peer._outbox.full:
            peer.post("meta.statfs", statfs(), bytes(100_000))
        with pytest.raises(Unavailable, match="full"):
            peer.post("meta.statfs", statfs())
        assert peer._outbox.bytes_queued < (1 << 20) + 200_000

    play(memory_make(), story, clock=virtual())


def test_callers_wait_for_room_and_go_on(make, monkeypatch):
    monkeypatch.setattr(calls, "CALLS_BYTES_MAX", 1 << 20)

    async def story(_world, _server, pool):
        most = 0

        async def one():
            nonlocal most
            await pool.call(1, "meta.statfs", statfs(), bytes(300_000), timeout_s=30)
            most = max(most, pool.peer(1)._calls._bytes)

        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(one)
        assert most <= 1 << 20
        assert pool.peer(1)._calls._bytes == 0

    play(make, story)


def test_full_queues_both_ways_do_not_wait_for_one_another(make, monkeypatch):
    monkeypatch.setattr(outbox, "QUEUE_BYTES_MAX", 1 << 20)

    async def story(_world, _server, pool):
        async def one():
            payload = bytes(900_000)
            _, back = await pool.call(1, "meta.statfs", statfs(), payload, timeout_s=8)
            assert len(back) == len(payload)

        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        peer = pool.peer(1)
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(one)
            with trio.move_on_after(0.01):
                while True:
                    await peer._outbox.wait_room()
                    peer.post("meta.statfs", statfs(), bytes(1 << 20))
                    await trio.lowlevel.checkpoint()

    play(make, story)


def test_no_room_before_the_deadline_is_a_deadline(monkeypatch):
    monkeypatch.setattr(calls, "CALLS_BYTES_MAX", 1000)

    async def story(world, _server, pool):
        async def first():
            await pool.call(1, "meta.getxattr", getxattr(1), bytes(900), timeout_s=50)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.sleep(0.1)
            with pytest.raises(DeadlineExceeded, match="no room"):
                await pool.call(1, "meta.getxattr", getxattr(2), bytes(900), timeout_s=1)
            world.release.set()

    play(memory_make(), story, clock=virtual())


def test_a_dead_peer_is_noticed_within_two_seconds():
    async def story(_world, server, pool):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        await trio.sleep(8)
        (server_side,) = server.peers
        server_side._connection.cut = True
        began = trio.current_time()
        with pytest.raises(Unavailable, match="silent"):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=60)
        assert trio.current_time() - began <= 2.1
        assert pool.counters.get("connection_silent") == 1

    play(memory_make(), story, clock=virtual())


def test_a_slow_handler_is_not_a_dead_peer():
    async def story(world, _server, pool):
        async def release():
            await trio.sleep(40)
            world.release.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            reply, _ = await pool.call(1, "meta.getxattr", getxattr(6), timeout_s=60)
        assert reply.at == 6

    play(memory_make(), story, clock=virtual())


def test_an_idle_connection_to_a_dead_peer_ends():
    async def story(world, server, pool):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        (server_side,) = server.peers
        pool.peer(1)._connection.cut = True  # the server hears nothing any more
        await trio.sleep(21)
        assert not server_side.alive
        assert server.counters.get("connection_silent") == 1

    play(memory_make(), story, clock=virtual())


def test_a_reader_that_stopped_ends_the_connection(monkeypatch):
    monkeypatch.setattr(outbox, "QUEUE_BYTES_MAX", 1 << 20)

    async def main():
        make, world = memory_make(), World()
        async with running(make, world) as (server, pool):
            greedy = await make("client", "greedy").connect(HOST, server.port)
            await greedy.send([encode(Kind.HELLO, hello.OURS)])
            asked = encode(Kind.REQUEST, statfs(), method=27, request=1, payload_bytes=100_000)
            began = trio.current_time()
            with pytest.raises(Unavailable):
                await greedy.send([asked, bytes(100_000)] * 100)
            assert 9 < trio.current_time() - began < 12
            assert server.counters.get("connection_stalled") == 1
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    trio.run(main, clock=virtual())


def test_a_slow_link_is_not_a_dead_peer(monkeypatch):
    original = MemoryConnection.send

    async def slow(self, parts):
        for part in parts:
            await original(self, [part])
            await trio.sleep(len(part) / 500_000)

    async def story(_world, _server, pool):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        monkeypatch.setattr(MemoryConnection, "send", slow)
        began = trio.current_time()
        await pool.call(1, "meta.statfs", statfs(), bytes(8 << 20), timeout_s=500)
        assert trio.current_time() - began > 30

    play(memory_make(), story, clock=virtual())


def test_answers_of_one_read_leave_in_one_send():
    async def story(_world, server, pool):
        await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
        (server_side,) = server.peers
        sends = []
        original = server_side._outbox._send_now
        server_side._outbox._send_now = lambda part: sends.append(1) or original(part)
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(lambda n=n: pool.call(1, "meta.statfs", statfs(n), timeout_s=5))
        assert len(sends) < 15

    play(memory_make(), story)
