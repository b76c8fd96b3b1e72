"""What outlives a request: a cross-shard operation is finished, but no longer than its term."""

from __future__ import annotations

import stat

import trio
import trio.testing

from cfs.core.api import meta
from cfs.core.meta import commands, read
from cfs.fs.meta.reaper import RESCAN_S
from tests.unit.fs.meta.test_service import Peer, World, create, run


def hold_finishes(world):
    """Have no shard answer the end of a transaction; give events: one was asked, answer."""
    asked, answer = trio.Event(), trio.Event()

    def held(group):
        plain = group.propose

        async def propose(entry):
            batch = commands.decode_batch(entry)
            if any(isinstance(c, commands.TxnFinish) for c in batch.commands):
                asked.set()
                await answer.wait()
            return await plain(entry)

        group.propose = propose

    for group in world.groups.values():
        held(group)
    return asked, answer


async def make_directories(world, peer):
    """Make directories at the top: most are another shard's."""
    for number in range(8):
        await world.mutate(peer, 1, 0, create(1, b"d%d" % number, stat.S_IFDIR | 0o755))


def test_a_node_that_stops_does_not_wait_for_the_transactions_it_drives():
    async def main():
        world = World()
        async with trio.open_nursery() as nursery:
            await nursery.start(world.service.run)
            await trio.testing.wait_all_tasks_blocked()
            peer = Peer("a")
            await world.open(peer, 1)
            asked, _ = hold_finishes(world)
            nursery.start_soon(make_directories, world, peer)
            with trio.fail_after(5):
                await asked.wait()
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_decided_operation_is_finished_though_nobody_waits_for_it():
    async def test(world, a, b):
        asked, answer = hold_finishes(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_directories, world, a)
            await asked.wait()
            nursery.cancel_scope.cancel()
        answer.set()
        await trio.sleep(1)
        listed = [await world.lookup(b, 2, 1, b"d%d" % n) for n in range(8)]
        assert any(reply.entry for reply in listed)

    run(test)


def test_an_inode_goes_though_the_request_that_removed_it_was_given_up():
    async def test(world, a, _b):
        state = world.groups[1].state
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f", stat.S_IFREG | 0o644))
        await world.mutate(a, 1, 0, meta.Link(ino=made.ino, parent=1, name=b"g"))
        plain = world.groups[1].propose

        async def propose(entry):
            answer = await plain(entry)
            await trio.sleep(1)
            return answer

        world.groups[1].propose = propose
        with trio.move_on_after(0.5):
            both = [meta.Unlink(parent=1, name=name) for name in (b"f", b"g")]
            await world.mutate(a, 1, 0, *both)
        world.groups[1].propose = plain
        assert read.orphans(state, 0, 10) == (made.ino,)
        await trio.sleep(3 * RESCAN_S)
        assert not read.orphans(state, 0, 10)

    run(test, limit_s=120)
