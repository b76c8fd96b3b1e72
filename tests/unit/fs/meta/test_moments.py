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
from cfs.fs.meta.plan import NOREPLACE
from cfs.fs.meta.transact import Transactions, _Space
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


def once_while_planned(world, name, meanwhile):
    """Do something once, after `name` was looked up for a plan and before the rest is read."""
    plain = world.service.handlers["meta.lookup"]
    done = []

    async def lookup(context, request, payload):
        answer = plain(context, request, payload)
        answer = await answer if inspect.isawaitable(answer) else answer
        if request.name == name and not done:
            done.append(True)
            await meanwhile()
        return answer

    world.service.transactions.leaders.serve({"meta.lookup": lookup})
    return done


def delegated(world, peer, session, directory, *ops):
    """Give a function that has `directory` delegated and works there ahead: no latch is taken."""

    async def work():
        shard = shard_of(Ino(directory))
        await world.mutate(peer, session, shard, meta.Acquire(ino=directory))
        first = world.seqs[session, shard]
        world.seqs[session, shard] = first + len(ops)
        request = meta.Mutate(
            shard=shard, session=session, first_seq=first, acked=1, ops=ops, chained=True
        )
        reply = await world.ask(peer, "meta.mutate", request)
        assert not any(result.error for result in reply.results)

    return work


def test_a_name_that_was_replaced_meanwhile_is_not_absent():
    async def test(world, a, b):
        homes = await directories(world, a)
        one, two = homes[1], homes[2]
        await world.mutate(a, 1, 1, create(one, b"old"))
        (new, _) = await world.mutate(a, 1, 1, create(one, b"new"))

        async def replace():
            await world.mutate(b, 2, 1, rename(one, b"new", one, b"old"))
            await trio.sleep(1)  # the inode that was there is reclaimed

        replaced = once_while_planned(world, b"old", replace)
        await world.mutate(a, 1, 2, rename(one, b"old", two, b"moved"))
        assert replaced
        assert (await world.lookup(a, 1, two, b"moved")).entry.ino == new.ino
        with pytest.raises(FsError) as error:
            await world.mutate(a, 1, 2, rename(one, b"old", two, b"again"))
        assert error.value.errno == errno.ENOENT

    run(test)


@pytest.mark.parametrize(
    ("mode", "says"), [(stat.S_IFDIR | 0o755, errno.EISDIR), (stat.S_IFREG | 0o644, 0)]
)
def test_a_rename_does_not_tell_of_what_came_to_its_target_meanwhile(mode, says):
    async def test(world, a, b):
        homes = await directories(world, a)
        one, two = homes[1], homes[2]
        (file, _) = await world.mutate(a, 1, 1, create(one, b"f"))
        plain = Transactions._begin
        met = []

        async def begin(self, *args):
            if not met:
                met.append(True)  # planned: nothing is there
                await delegated(world, b, 2, two, create(two, b"x", mode))()
            return await plain(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Transactions, "_begin", begin)
            if says:
                with pytest.raises(FsError) as error:
                    await world.mutate(a, 1, 2, rename(one, b"f", two, b"x"))
                assert error.value.errno == says
            else:
                await world.mutate(a, 1, 2, rename(one, b"f", two, b"x"))
                assert (await world.lookup(a, 1, two, b"x")).entry.ino == file.ino
        assert met

    run(test)


def test_a_rename_that_must_not_replace_tells_of_what_came_to_its_target():
    async def test(world, a, b):
        homes = await directories(world, a)
        one, two = homes[1], homes[2]
        await world.mutate(a, 1, 1, create(one, b"f"))
        came = once_while_planned(
            world, b"f", delegated(world, b, 2, two, create(two, b"x", stat.S_IFDIR | 0o755))
        )
        move = meta.Rename(parent=one, name=b"f", new_parent=two, new_name=b"x", flags=NOREPLACE)
        with pytest.raises(FsError) as error:
            await world.mutate(a, 1, 2, move)
        assert came
        assert error.value.errno == errno.EEXIST

    run(test)


def test_an_ancestor_that_was_removed_meanwhile_is_not_missed_by_who_left_it():
    async def test(world, a, b):
        homes = await directories(world, a)
        one, two, three = homes[1], homes[2], homes[3]
        (upper, _) = await world.mutate(a, 1, 1, create(one, b"upper", stat.S_IFDIR | 0o755))
        (deep, _) = await world.mutate(a, 1, 1, create(upper.ino, b"deep", stat.S_IFDIR | 0o755))
        await world.mutate(a, 1, 3, create(three, b"moved", stat.S_IFDIR | 0o755))
        plain = _Space.attr
        left = []

        async def attr(self, ino):
            found = await plain(self, ino)
            if ino == deep.ino and not left:
                left.append(True)
                await world.mutate(b, 2, 2, rename(upper.ino, b"deep", two, b"deep"))
                await world.mutate(b, 2, 1, meta.Rmdir(parent=one, name=b"upper"))
                await trio.sleep(1)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Space, "attr", attr)
            await world.mutate(a, 1, 1, rename(three, b"moved", deep.ino, b"moved"))
        assert left

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
