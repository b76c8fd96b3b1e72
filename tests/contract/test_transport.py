"""The transport port: one suite for TLS on loopback and its twin in memory."""

import time

import pytest
import trio
import trio.testing

from cfs.core.errors import Refused, Unavailable
from cfs.net.certificates import Authority, make_request, new_key
from cfs.net.identity import Identity
from cfs.net.memory import MemoryNetwork, MemoryTransport
from cfs.net.tls import TlsTransport

HOST = "127.0.0.1"
NOW_S = int(time.time())
AUTHORITY = Authority.create(bytes(range(16)), now_s=NOW_S)


def identity(role, name):
    key = new_key()
    certificate = AUTHORITY.issue(make_request(key), role=role, name=name, now_s=NOW_S)
    return Identity(key, certificate, AUTHORITY.bundle)


def memory_factory():
    network = MemoryNetwork()
    serials = iter(range(1, 100))

    def make(role, name):
        return MemoryTransport(network, role=role, name=name, serial=next(serials))

    return make


def tls_factory():
    return lambda role, name: TlsTransport(identity(role, name))


@pytest.fixture(params=[memory_factory, tls_factory], ids=["memory", "tls"])
def make(request):
    return request.param()


def with_pair(make, story):
    """Run `story(client, server)` on the two ends of one connection."""

    async def main():
        listener = await make("meta", "m1").listen(HOST, 0)
        ended = trio.Event()
        ends = {}

        async def handler(connection):
            ends["server"] = connection
            arrived.set()
            await ended.wait()

        arrived = trio.Event()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.serve, handler)
                client = await make("client", "laptop/7 ä").connect(HOST, listener.port)
                await arrived.wait()
                try:
                    await story(client, ends["server"])
                finally:
                    ended.set()
                    client.close()
                    nursery.cancel_scope.cancel()

    trio.run(main)


async def read_exactly(connection, count):
    data = bytearray()
    buffer = memoryview(bytearray(50_000))
    while len(data) < count:
        got = await connection.receive_into(buffer[: count - len(data)])
        assert got, "ended early"
        data += buffer[:got]
    return bytes(data)


def test_each_end_knows_the_other(make):
    async def story(client, server):
        assert (client.peer_role, client.peer_name) == ("meta", "m1")
        assert (server.peer_role, server.peer_name) == ("client", "laptop/7 ä")
        assert client.peer_serial
        assert server.peer_serial
        assert client.peer_serial != server.peer_serial

    with_pair(make, story)


def test_parts_arrive_in_order_both_ways_at_once(make):
    parts = [bytes([n % 251]) * size for n, size in enumerate((1, 0, 16_384, 70_000, 3, 1 << 21))]
    whole = b"".join(parts)

    async def story(client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, parts)
            nursery.start_soon(server.send, [memoryview(whole), bytearray(b"end")])
            assert await read_exactly(server, len(whole)) == whole
            assert await read_exactly(client, len(whole) + 3) == whole + b"end"

    with_pair(make, story)


def test_sender_waits_for_a_reader_that_does_not_read(make):
    async def story(client, server):
        sent = 0
        with trio.move_on_after(0.2):
            for _ in range(1000):
                await client.send([bytes(100_000)])
                sent += 1
        assert sent < 1000
        del server

    with_pair(make, story)


def test_send_now_takes_what_fits_and_the_rest_follows(make):
    whole = bytes(range(256)) * 80_000

    async def story(client, server):
        sent = client.send_now(whole)
        assert 0 < sent < len(whole)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, [memoryview(whole)[sent:]])
            assert await read_exactly(server, len(whole)) == whole

    with_pair(make, story)


def test_reader_sees_the_end(make):
    async def story(client, server):
        await client.send([b"last"])
        client.close()
        assert await read_exactly(server, 4) == b"last"
        assert await server.receive_into(memoryview(bytearray(10))) == 0

    with_pair(make, story)


def test_close_wakes_the_own_reader(make):
    async def story(client, server):
        async def read():
            with pytest.raises(Unavailable):
                await client.receive_into(memoryview(bytearray(10)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            client.close()
        with pytest.raises(Unavailable):
            await client.send([b"late"])
        client.close()
        del server

    with_pair(make, story)


def test_sending_to_one_who_left_fails(make):
    async def story(client, server):
        server.close()
        with pytest.raises(Unavailable):
            await client.send([bytes(100_000)] * 1000)

    with_pair(make, story)


def test_nobody_listens(make):
    async def main():
        listener = await make("meta", "m1").listen(HOST, 0)
        port = listener.port
        with trio.move_on_after(0.01):
            await listener.serve(lambda _c: None)
        with pytest.raises(Unavailable, match=str(port)):
            await make("client", "c").connect(HOST, port)

    trio.run(main)


def test_port_in_use_is_named(make):
    async def main():
        listener = await make("meta", "m1").listen(HOST, 0)
        with pytest.raises(Unavailable, match=str(listener.port)):
            await make("meta", "m2").listen(HOST, listener.port)
        with trio.move_on_after(0.01):
            await listener.serve(lambda _c: None)

    trio.run(main)


def test_only_nodes_serve(make):
    async def main():
        listener = await make("client", "impostor").listen(HOST, 0)

        async def handler(_connection):
            pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve, handler)
            with pytest.raises(Refused):
                await make("client", "c").connect(HOST, listener.port)
            nursery.cancel_scope.cancel()

    trio.run(main)
