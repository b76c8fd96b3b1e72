"""Circles of locks through several shards, and what does not make one."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from cfs.core.api import meta
from cfs.core.api.locking import LockEdge, LockGraph
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.fs.meta.lock_graph import Circles
from tests.unit.fs.meta.test_service import Peer, World, create, run


def edge(owner: int, *holders: int) -> LockEdge:
    """An owner of session 1, its wait named like it."""
    return LockEdge(session=1, owner=owner, ticket=owner, holders=tuple((1, h) for h in holders))


async def renew(world: World, a: Peer, b: Peer) -> None:
    while True:
        for peer, session in ((a, 1), (b, 2)):
            await world.ask(peer, "meta.renew", meta.Renew(session=session, shards=(0, 1, 2, 3)))
        await trio.sleep(1)


def test_a_circle_counts_when_all_of_it_was_there_at_one_moment() -> None:
    async def main() -> None:
        circles = Circles()

        def say(shard: int, *edges: LockEdge) -> tuple[tuple[int, int], ...]:
            return circles.report(LockGraph(shard=shard, edges=edges)).victims

        assert say(1, edge(1, 2), edge(5, 1)) == ()
        await trio.sleep(0.5)
        assert say(2, edge(2, 3), edge(3, 9)) == ()
        await trio.sleep(0.5)
        assert say(1, edge(1, 2)) == ()
        assert say(3, edge(3, 1)) == ()
        await trio.sleep(0.5)
        assert say(2, edge(2, 3)) == ()
        assert say(3, edge(3, 1)) == ((1, 3),), "only the shard of the largest wait hears of it"
        await trio.sleep(0.5)
        assert say(1, edge(1, 2)) == ()
        assert say(3, edge(4, 1)) == ()
        await trio.sleep(3)
        assert say(2, edge(2, 3)) == (), "old reports count no more"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_edges_seen_apart_make_no_circle() -> None:
    async def main() -> None:
        circles = Circles()
        for _ in range(2):
            assert not circles.report(LockGraph(shard=1, edges=(edge(1, 2),))).victims
            await trio.sleep(0.1)
        await trio.sleep(1)
        for _ in range(2):
            assert not circles.report(LockGraph(shard=2, edges=(edge(2, 1),))).victims
            await trio.sleep(0.1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_circle_through_two_shards_is_broken_in_seconds() -> None:
    async def scenario(world: World, a: Peer, b: Peer) -> None:
        inos = []
        for n in range(20):
            name = b"d%d" % n
            directory = (await world.mutate(a, 1, 0, create(ROOT_INO, name, 0o040755)))[0].ino
            shard = directory >> 47
            if shard not in [i >> 47 for i in inos]:
                inos.append((await world.mutate(a, 1, shard, create(directory, b"f")))[0].ino)
        x, y = inos[:2]
        await world.mutate(a, 1, x >> 47, meta.Lock(ino=x, owner=1, kind=1))
        await world.mutate(b, 2, y >> 47, meta.Lock(ino=y, owner=2, kind=1))
        ended: dict[int, tuple[float, int]] = {}

        async def wait(peer: Peer, session: int, ino: int) -> None:
            request = meta.LockWait(
                shard=ino >> 47, session=session, ticket=7, ino=ino, owner=session, kind=1
            )
            while True:
                try:
                    reply = await world.ask(peer, "meta.lockwait", request)
                except FsError as error:
                    ended[session] = (trio.current_time(), error.errno)
                    return
                assert not reply.granted

        start = trio.current_time()
        with trio.move_on_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, a, 1, y)
                nursery.start_soon(wait, b, 2, x)
                nursery.start_soon(renew, world, a, b)
        assert list(ended) == [2], "one of the two"
        at, number = ended[2]
        assert number == errno.EDEADLK
        assert at - start < 5

    run(scenario)


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfs.fs.meta.lock_queue.WAITERS_MAX", 2)

    async def scenario(world: World, a: Peer, b: Peer) -> None:
        ino = (await world.mutate(a, 1, 0, create(ROOT_INO, b"f")))[0].ino
        await world.mutate(a, 1, 0, meta.Lock(ino=ino, owner=1, kind=1))

        async def ask(ticket: int) -> meta.LockWaitReply:
            request = meta.LockWait(
                shard=0, session=2, ticket=ticket, ino=ino, owner=9, kind=0, start=ticket
            )
            return await world.ask(b, "meta.lockwait", request)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(renew, world, a, b)
            for ticket in (1, 2):
                assert not (await ask(ticket)).granted
            with pytest.raises(FsError) as caught:
                await ask(3)
            assert caught.value.errno == errno.ENOLCK
            await trio.sleep(1.5)
            assert not (await ask(3)).granted, "the first gave its place up by not asking again"
            nursery.cancel_scope.cancel()

    run(scenario)
