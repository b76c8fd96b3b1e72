"""Peers that send what no correct peer sends: closed by name, counted, and others never notice."""

import random
import socket
import ssl

import pytest
import trio
import trio.testing
from networld import (
    AUTHORITY,
    HOST,
    NOW_S,
    World,
    identity,
    memory_make,
    running,
    statfs,
    tls_make,
    until,
)  # fmt: skip

from cfs.core.api import meta
from cfs.core.api.methods import BY_NAME
from cfs.core.errors import CfsError, Refused, Unavailable
from cfs.net import hello, tls
from cfs.net.certificates import Authority
from cfs.net.frame import HEADER_BYTES, Kind, encode
from cfs.net.tls import TlsTransport

HELLO = bytes(encode(Kind.HELLO, hello.OURS))
STATFS = BY_NAME["meta.statfs"].number


def request(**fields):
    return bytes(encode(Kind.REQUEST, statfs(), **{"method": STATFS, "request": 1, **fields}))


def resealed(frame, at, value):
    """Change a header field and make the checksum right again."""
    from crc32c import crc32c  # noqa: PLC0415

    frame = bytearray(frame)
    frame[at : at + len(value)] = value
    frame[36:40] = crc32c(bytes(frame[:36])).to_bytes(4, "big")
    return bytes(frame)


RANDOM = random.Random(7).randbytes(500)

CASES = {
    "random bytes": (RANDOM, "magic"),
    "random bytes after hello": (HELLO + RANDOM, "magic"),
    "other version": (b"CFS\x02" + bytes(60), "version"),
    "damaged header": (HELLO + request()[:30] + b"\xff" + request()[31:], "checksum"),
    "no hello": (request(), "hello"),
    "huge hello": (bytes(encode(Kind.HELLO, bytes(5000))), "hello"),
    "undecodable hello": (bytes(encode(Kind.HELLO, "text")), "hello"),
    "two hellos": (HELLO + HELLO, "hello"),
    "future protocol": (
        bytes(encode(Kind.HELLO, hello.Hello(protocol_min=8, protocol_max=9))),
        "protocol",
    ),
    "future format": (bytes(encode(Kind.HELLO, hello.Hello(format_min=8, format_max=9))), "format"),
    "unknown kind": (HELLO + resealed(request(), 4, b"\x63"), "kind"),
    "unknown flag": (HELLO + resealed(request(), 5, b"\x01"), "kind"),
    "unknown method": (HELLO + request(method=999), "method"),
    "oversized message": (HELLO + resealed(request(), 16, b"\xff\xff\xff\xff"), "oversized"),
    "oversized payload": (HELLO + resealed(request(), 20, b"\x01\x00\x00\x01"), "oversized"),
    "wrong role": (HELLO + request(method=BY_NAME["meta.internal"].number), "role"),
    "wrong role, large": (
        HELLO + request(method=BY_NAME["meta.internal"].number, payload_bytes=16 << 20),
        "role",
    ),
    "undecodable request": (
        HELLO + bytes(encode(Kind.REQUEST, "text", method=STATFS, request=1)),
        "undecodable",
    ),
    "undecodable error": (HELLO + bytes(encode(Kind.ERROR, 3, request=1)), "undecodable"),
    "truncated": (HELLO + request()[:-1], "truncated"),
    "truncated header": (HELLO + request()[: HEADER_BYTES - 1], "truncated"),
}


@pytest.fixture(params=[memory_make, tls_make], ids=["memory", "tls"])
def make(request):
    return request.param()


@pytest.mark.parametrize("name", CASES)
def test_closed_by_name_and_counted(make, name):
    sent, reason = CASES[name]

    async def main():
        world = World()
        with trio.fail_after(10):
            async with running(make, world) as (server, pool):
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
                bad = await make("client", "bad").connect(HOST, server.port)
                await bad.send([sent])
                if reason == "truncated":
                    await bad.receive_into(memoryview(bytearray(1000)))  # the server's hello
                    bad.close()
                else:
                    await read_to_end(bad)
                await until(lambda: server.counters.get(f"connection_{reason}"))
                assert server.counters.get(f"connection_{reason}") == 1
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
                assert len(world.connects) == 1
                await until(lambda: len(server.peers) == 1)

    trio.run(main)


async def read_to_end(connection):
    buffer = memoryview(bytearray(1 << 16))
    try:
        while await connection.receive_into(buffer):
            pass
    except CfsError:
        pass  # reset, rather than ended: closed all the same


@pytest.mark.parametrize("seed", range(20))
def test_any_damage_to_a_stream_ends_at_most_that_connection(seed):
    chance = random.Random(seed)
    stream = bytearray(HELLO + request(payload_bytes=100) + bytes(100) + request(request=2))
    for _ in range(chance.randint(1, 5)):
        stream[chance.randrange(len(stream))] = chance.randrange(256)
    if chance.random() < 0.5:
        del stream[chance.randrange(len(stream)) :]

    async def main():
        make, world = memory_make(), World()
        async with running(make, world) as (server, pool):
            bad = await make("client", "bad").connect(HOST, server.port)
            await bad.send([stream])
            await trio.testing.wait_all_tasks_blocked()
            bad.close()
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
            await trio.testing.wait_all_tasks_blocked()
            assert len(server.peers) == 1

    trio.run(main)


def test_the_caller_learns_that_it_may_not(make):
    async def main():
        world = World()
        async with running(make, world) as (_server, pool):
            with pytest.raises(Refused, match="may not call"):
                await pool.call(1, "meta.internal", meta.Empty(), timeout_s=5)

    trio.run(main)


def test_a_revoked_serial_is_refused_at_once_and_when_it_connects(make):
    async def main():
        world = World()
        with trio.fail_after(10):
            async with running(make, world) as (server, pool):
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
                (peer,) = server.peers
                world.refused.add(peer.serial)
                with pytest.raises(Refused, match="revoked"):
                    await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
                with pytest.raises(Unavailable):
                    await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
                assert server.counters.get("connection_revoked") == 2

    trio.run(main)


def test_idle_connections_of_a_revoked_serial_are_closed(make):
    async def main():
        world = World()
        async with running(make, world) as (server, pool):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
            (peer,) = server.peers
            server.close_refused()
            assert peer.alive
            world.refused.add(peer.serial)
            server.close_refused()
            assert not peer.alive

    trio.run(main)


def test_one_who_says_no_hello_is_closed_in_time():
    async def main():
        make, world = memory_make(), World()
        async with running(make, world) as (server, _pool):
            mute = await make("client", "mute").connect(HOST, server.port)
            await trio.sleep(5.1)
            await read_to_end(mute)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


OTHER = Authority.create(bytes(16), now_s=NOW_S)
SAME_ID = Authority.create(bytes(range(16)), now_s=NOW_S)
OLD_S = NOW_S - 10 * 86_400


@pytest.mark.parametrize(
    "who",
    [
        lambda: identity("client", "x", OTHER)._replace(ca_bundle=AUTHORITY.bundle),
        lambda: identity("client", "x", SAME_ID)._replace(ca_bundle=AUTHORITY.bundle),
        lambda: identity("client", "x", now_s=OLD_S, valid_s=86_400),
        lambda: identity("client", "x", now_s=NOW_S + 86_400),
    ],
    ids=["other cluster", "impostor of the cluster", "expired", "not yet valid"],
)
def test_bad_certificates_are_refused(who):
    async def main():
        make, world = tls_make(), World()
        with trio.fail_after(10):
            async with running(make, world) as (server, pool):
                transport = server._listener._transport
                bad_pool_call = await _try(TlsTransport(who()), server.port)
                assert isinstance(bad_pool_call, CfsError)
                await until(lambda: transport.counters.get("handshake_refused"))
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)

    trio.run(main)


async def _try(transport, port):
    """Give the error that connecting and reading end in."""
    try:
        connection = await transport.connect(HOST, port)
        assert await connection.receive_into(memoryview(bytearray(100))) == 0
    except CfsError as error:
        return error
    return Unavailable("ended")


def test_two_clusters_under_one_authority_do_not_mix():
    both = identity("client", "x", OTHER)._replace(ca_bundle=AUTHORITY.bundle + OTHER.bundle)

    async def main():
        listener = await TlsTransport(
            identity("meta", "m")._replace(ca_bundle=AUTHORITY.bundle + OTHER.bundle)
        ).listen(HOST, 0)

        async def handler(_connection):
            raise AssertionError("nobody of another cluster gets here")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve, handler)
            with pytest.raises(Refused, match="belongs to cluster"):
                await TlsTransport(both).connect(HOST, listener.port)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_without_certificate_or_with_old_tls_nobody_gets_in():
    async def main():
        make, world = tls_make(), World()
        with trio.fail_after(10):
            async with running(make, world) as (server, pool):
                for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                    context.maximum_version = version
                    assert await trio.to_thread.run_sync(_blocking_try, context, server.port)
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
                assert not [p for p in server.peers if p.name != "c1"]

    trio.run(main)


def _blocking_try(context, port):
    """Tell whether the server refused."""
    try:
        with (
            socket.create_connection((HOST, port), timeout=5) as sock,
            context.wrap_socket(sock) as secured,
        ):
            return not secured.recv(1)
    except OSError:
        return True


def test_hanging_and_garbage_handshakes_cost_nothing(monkeypatch):
    monkeypatch.setattr(tls, "HANDSHAKE_LIMIT_S", 0.2)
    monkeypatch.setattr(tls, "HANDSHAKES_MAX", 4)

    async def main():
        make, world = tls_make(), World()
        with trio.fail_after(10):
            async with running(make, world) as (server, pool):
                counters = server._listener._transport.counters
                hanging = [socket.create_connection((HOST, server.port)) for _ in range(10)]
                hanging[-1].send(b"GET / HTTP/1.0\r\n\r\n" * 50)
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
                await until(lambda: counters.get("handshake_timeout") >= 9)
                assert counters.get("handshake_failed") == 1
                assert counters.get("handshake_crowded") >= 4
                assert not server._listener._handshakes
                for sock in hanging:
                    sock.close()

    trio.run(main)
