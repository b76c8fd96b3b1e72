"""Freezing shards: what clients hold back comes in, nothing passes, and it ends by itself."""

from __future__ import annotations

import pytest
import trio

from cfs.core.api import meta
from cfs.core.api.snapshots import Stage, TakePart
from cfs.core.errors import Refused
from cfs.core.meta import history, read
from cfs.fs.meta.freezer import FREEZE_S_MAX
from tests.unit.fs.meta.test_service import SHARDS, create, run


async def stage(world, peer, epoch, what):
    async with trio.open_nursery() as nursery:
        for shard in range(SHARDS):
            part = TakePart(shard=shard, epoch=epoch, stage=what)
            nursery.start_soon(world.ask, peer, "meta.snapshot", part)


def test_nothing_passes_while_shards_are_frozen_and_all_passes_after():
    async def test(world, a, b):
        await world.mutate(a, 1, 0, create(1, b"before"))
        await stage(world, b, 1, Stage.FREEZE)
        done = []

        async def late():
            await world.mutate(a, 1, 0, create(1, b"late"))
            done.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            await trio.sleep(1)
            assert (await world.lookup(b, 2, 1, b"before")).entry
            assert (await world.lookup(b, 2, 1, b"late")).entry is None
            await stage(world, b, 1, Stage.MARK)
            await trio.sleep(1)
            assert not done
            await stage(world, b, 1, Stage.THAW)
        assert done
        past = history.past(world.groups[1].state, 1)
        assert read.lookup(past, 1, b"before")
        assert read.lookup(past, 1, b"late") is None

    run(test)


def test_what_a_writer_holds_back_is_committed_before_a_shard_stops():
    async def test(world, a, b):
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f", lease=meta.Lease.WRITE))

        async def give_back(request):
            assert [h.ino for h in request.leases] == [made.ino]
            await trio.sleep(2)
            hole = meta.Extent(offset=0, length=7)
            await world.mutate(a, 1, 0, meta.Commit(ino=made.ino, extents=(hole,)))
            await world.mutate(a, 1, 0, meta.Release(inos=(made.ino,)))

        a.on_recall = give_back
        with trio.move_on_after(5):
            await stage(world, b, 1, Stage.FREEZE)
        await stage(world, b, 1, Stage.MARK)
        await stage(world, b, 1, Stage.THAW)
        assert read.attr(history.past(world.groups[1].state, 1), made.ino).size == 7

    run(test)


def test_a_freeze_ends_by_itself_and_a_mark_is_refused_then():
    async def test(world, a, b):
        await stage(world, b, 1, Stage.FREEZE)
        started = trio.current_time()
        await world.mutate(a, 1, 0, create(1, b"f"))
        assert FREEZE_S_MAX - 1 < trio.current_time() - started < FREEZE_S_MAX + 1
        with pytest.raises(Refused):
            await world.ask(b, "meta.snapshot", TakePart(shard=0, epoch=1, stage=Stage.MARK))

    run(test)


def test_a_writer_that_does_not_commit_makes_the_freeze_fail_and_keeps_its_lease():
    async def test(world, a, b):
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f", lease=meta.Lease.WRITE))

        async def never(_request):
            await trio.sleep_forever()

        async def renew():
            while True:
                await trio.sleep(1)
                await world.ask(a, "meta.renew", meta.Renew(session=1, shards=(0,)))

        a.on_recall = never
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renew)
            with pytest.raises(Refused):
                await world.ask(b, "meta.snapshot", TakePart(shard=0, epoch=1, stage=Stage.FREEZE))
            nursery.cancel_scope.cancel()
        assert read.write_lease(world.groups[1].state, made.ino) == 1
        assert read.session(world.groups[1].state, 1).open

    run(test)


def test_a_newer_snapshot_takes_the_place_of_one_that_was_given_up():
    async def test(world, _a, b):
        await stage(world, b, 1, Stage.FREEZE)
        await stage(world, b, 2, Stage.FREEZE)
        with pytest.raises(Refused):
            await world.ask(b, "meta.snapshot", TakePart(shard=0, epoch=1, stage=Stage.MARK))
        await stage(world, b, 1, Stage.THAW)
        await stage(world, b, 2, Stage.MARK)
        await stage(world, b, 2, Stage.THAW)

    run(test)
