"""A client under quotas: EDQUOT at the write, what was accepted is committed, charges come back."""

import errno
import os

import pytest
import trio
from world import run

from cfs.core.api.quota import USER, Domain, MakeRoomReply
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.core.meta import commands, quota
from cfs.core.meta.quota_commands import Cap

MIB = 1 << 20
ALICE = Domain(USER, 0)


class NoMore:
    """A root leader that has nothing to share out."""

    asked = 0

    async def call(self, group, method, request, *, timeout_s):
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return MakeRoomReply(made=False)


async def limit(world, size, inodes=-1, version=1):
    cap = Cap(domain=ALICE, bytes=size, inodes=inodes)
    command = commands.SetCaps(term=1, caps=(cap,), version=version)
    batch = commands.Batch(world.clock.time_ns(), (command,))
    leader = next(g for g in world.groups.values() if g.is_leader)
    await leader.propose(commands.encode_batch(batch))


def used(world):
    return quota.usage(world.shared.state, ALICE)


def test_a_write_that_does_not_fit_is_refused_and_what_was_accepted_is_kept():
    async def scenario(world):
        for service in world.services.values():
            service.transactions.leaders = NoMore()
        await limit(world, 20 * MIB)
        files = await world.client("a")
        fh, attr = await files.create_file(ROOT_INO, b"f", 0o644, os.O_RDWR)
        kept = 0

        async def fill():
            nonlocal kept
            while kept < 40 * MIB:
                kept += await files.write(fh, kept, bytes(MIB))

        with pytest.raises(FsError) as error:
            await fill()
        assert error.value.errno == errno.EDQUOT
        assert 19 * MIB <= kept <= 20 * MIB
        await files.fsync(fh)
        assert (await files.getattr(attr.ino)).size == kept
        assert used(world).bytes == kept + 1
        await files.release(fh)
        await trio.sleep(5)
        assert used(world).held == 0
        await files.setattr(attr.ino, size=0)
        fh = await files.open(attr.ino, os.O_WRONLY)
        assert await files.write(fh, 0, bytes(MIB)) == MIB
        await files.fsync(fh)

    run(scenario)


def test_names_are_refused_at_once_and_charges_do_not_outlive_the_lease():
    async def scenario(world):
        for service in world.services.values():
            service.transactions.leaders = NoMore()
        a, b = await world.client("a"), await world.client("b")
        await a.mkdir(ROOT_INO, b"before", 0o755)
        await a.sync()
        await limit(world, 100 * MIB, inodes=4)
        fh, attr = await a.create_file(ROOT_INO, b"f", 0o644, os.O_RDWR)
        await a.write(fh, 0, b"x")
        assert used(world).held > MIB
        assert (await b.getattr(attr.ino)).size == 1
        await b.setattr(attr.ino, size=5)
        assert used(world).held == 0, "the lease went, the charge with it"
        await a.create_file(ROOT_INO, b"g", 0o644, os.O_RDWR)
        for again in (a, b):
            with pytest.raises(FsError) as error:
                await again.create_file(ROOT_INO, b"h", 0o644, os.O_RDWR)
            assert error.value.errno == errno.EDQUOT

    run(scenario)


def test_four_writers_of_two_clients_fill_a_quota_and_keep_all_they_were_promised():
    async def scenario(world):
        for service in world.services.values():
            service.transactions.leaders = NoMore()
        limit_bytes = 30 * MIB
        await limit(world, limit_bytes)
        clients = [await world.client(name) for name in ("a", "b")]
        kept = {}

        async def writer(number):
            files = clients[number % 2]
            for name in range(100):
                path = b"w%d.%d" % (number, name)
                try:
                    fh, attr = await files.create_file(ROOT_INO, path, 0o644, os.O_WRONLY)
                    kept[attr.ino] = 0
                    for _ in range(24):
                        kept[attr.ino] += await files.write(fh, kept[attr.ino], bytes(100_000))
                    await files.release(fh)
                except FsError as error:
                    if error.errno != errno.EDQUOT:
                        raise
                    return
            raise AssertionError("never refused")

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(writer, number)
        for files in clients:
            await files.sync()
        sizes = {ino: (await clients[0].getattr(ino)).size for ino in kept}
        assert sizes == kept, "nothing accepted is lost"
        total = sum(kept.values())
        assert limit_bytes - 8 * MIB <= total <= limit_bytes
        await trio.sleep(5)
        entries = (await clients[0].getattr(ROOT_INO)).size
        assert (used(world).bytes, used(world).held) == (total + entries, 0)
        victim = max(kept, key=lambda ino: kept[ino])
        await clients[1].setattr(victim, size=0)
        await clients[1].sync()
        assert used(world).bytes == total + entries - kept[victim]

    run(scenario)


def test_what_is_truncated_and_written_again_stays_within_its_charge():
    async def scenario(world):
        for service in world.services.values():
            service.transactions.leaders = NoMore()
        await limit(world, 4 * MIB)
        files = await world.client("a")
        fh, attr = await files.create_file(ROOT_INO, b"f", 0o644, os.O_RDWR)
        for size in (3 * MIB, 1 * MIB, 3 * MIB):
            await files.setattr(attr.ino, size=0)
            assert await files.write(fh, 0, bytes(size)) == size
            await files.write(fh, size, b"more")
            with pytest.raises(FsError) as error:
                await files.write(fh, 5 * MIB, b"x")
            assert error.value.errno == errno.EDQUOT
            await files.fsync(fh)
            assert (await files.getattr(attr.ino)).size == size + 4
        with pytest.raises(FsError) as error:
            await files.setattr(attr.ino, size=5 * MIB)
        assert error.value.errno == errno.EDQUOT
        assert (await files.getattr(attr.ino)).size == 3 * MIB + 4
        await limit(world, -1, version=2)
        await files.write(fh, 5 * MIB, b"x")
        await files.fsync(fh)

    run(scenario)
