"""An operation across shards is refused only for what was so at one moment."""

from __future__ import annotations

import errno
import inspect
import stat

import pytest
import trio

from cfs.core.api import meta
from cfs.core.errors import FsError
from cfs.core.ids import Ino, shard_of
from tests.unit.fs.meta.test_outliving import hold_finishes
from tests.unit.fs.meta.test_service import create, run


async def directories(world, peer):
    """Make a directory in every shard; give them by shard."""
    found = {}
    for number in range(12):
        name = b"dir%d" % number
        attrs = await world.mutate(peer, 1, 0, create(1, name, stat.S_IFDIR | 0o755))
        found.setdefault(shard_of(Ino(attrs[0].ino)), attrs[0].ino)
    return found


def rename(parent, name, new_parent, new_name):
    return meta.Rename(parent=parent, name=name, new_parent=new_parent, new_name=new_name)


def test_a_name_that_was_replaced_meanwhile_is_not_absent():
    async def test(world, a, b):
        homes = await directories(world, a)
        one, two = homes[1], homes[2]
        await world.mutate(a, 1, 1, create(one, b"old"))
        (new, _) = await world.mutate(a, 1, 1, create(one, b"new"))
        plain = world.service.handlers["meta.lookup"]
        replaced = []

        async def lookup(context, request, payload):
            answer = plain(context, request, payload)
            answer = await answer if inspect.isawaitable(answer) else answer
            if request.name == b"old" and not replaced:
                replaced.append(True)
                await world.mutate(b, 2, 1, rename(one, b"new", one, b"old"))
                await trio.sleep(1)  # the inode that was there is reclaimed
            return answer

        world.service.transactions.leaders.serve({"meta.lookup": lookup})
        await world.mutate(a, 1, 2, rename(one, b"old", two, b"moved"))
        assert replaced
        assert (await world.lookup(a, 1, two, b"moved")).entry.ino == new.ino
        with pytest.raises(FsError) as error:
            await world.mutate(a, 1, 2, rename(one, b"old", two, b"again"))
        assert error.value.errno == errno.ENOENT

    run(test)


def test_a_name_that_a_transaction_holds_is_waited_for_when_another_is_planned():
    async def test(world, a, b):
        homes = await directories(world, a)
        one, two, three = homes[1], homes[2], homes[3]
        (made, _) = await world.mutate(a, 1, 3, create(three, b"f"))
        await world.mutate(a, 1, 1, meta.Link(ino=made.ino, parent=one, name=b"l"))
        asked, answer = hold_finishes(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.mutate, a, 1, 2, rename(one, b"l", two, b"moved"))
            await asked.wait()
            errors = []

            async def remove():
                try:
                    await world.mutate(b, 2, 1, meta.Rmdir(parent=one, name=b"l"))
                except FsError as error:
                    errors.append(error.errno)

            nursery.start_soon(remove)
            await trio.sleep(0.2)
            assert not errors  # it was a file there: that it is moved is decided
            answer.set()
        assert errors == [errno.ENOENT]

    run(test)
