"""The client when replies are lost, leaders change, sessions expire and recalls race."""

from __future__ import annotations

import errno
import os
import random

import pytest
import trio

from cfs.core.api.meta import Commit
from cfs.core.errors import Condemned, FsError, NoSpace, Unavailable
from cfs.core.meta import read
from tests.unit.fs.client.world import World, run


def test_lost_replies_take_effect_once() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        rng = random.Random(3)
        await a.getattr(1)
        for i in range(40):
            if rng.random() < 0.5:
                world.lose.append(lambda method, _: method == "meta.mutate")
            name = b"%d" % (i % 7)
            try:
                await a.mkdir(1, name, 0o755)
            except FsError as error:
                if error.errno != errno.EEXIST:
                    raise
                await a.rmdir(1, name)
        await a.sync()
        entries, _ = read.listing(world.shared.state, 1, 0, 100)
        assert {e.name for e in entries} == {e.name for e in await a.list_directory("/")}
        assert (await a.getattr(1)).nlink == 2 + len(entries)

    run(scenario)


def test_leader_change_keeps_caches_and_dirty_data() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.mkdir(1, b"d", 0o755)
        fh, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        await a.write(fh, 0, b"dirty")
        await b.walk("/d")
        await trio.sleep(0.1)
        world.lead(2)
        await trio.sleep(0.2)
        await a.write(fh, 5, b" more")
        await a.mkdir(1, b"e", 0o755)
        assert (await b.walk("/e")).mode
        assert await b.read_file("/f") == b"dirty more"
        world.lead(None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.rename, 1, b"e", 1, b"g")
            await trio.sleep(1)
            world.lead(1)
        assert (await b.walk("/g")).mode
        with pytest.raises(FsError):
            await b.walk("/e")
        assert (await a.getattr(attr.ino)).size == 10

    run(scenario)


def test_silent_leader_is_left() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        await a.mkdir(1, b"d", 0o755)
        world.silent.add(1)
        world.lead(2)
        start = trio.current_time()
        await a.mkdir(1, b"e", 0o755)
        assert trio.current_time() - start < 10
        assert len(await a.list_directory("/")) == 2

    run(scenario)


def test_no_answer_past_the_deadline() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a", patience_s=20.0)
        await a.getattr(1)
        world.silent |= {1, 2}
        start = trio.current_time()
        for op in (lambda: a.mkdir(1, b"x", 0o755), lambda: a.lookup(1, b"x")):
            with pytest.raises(Exception) as caught:
                await op()
            assert caught.value.errno == errno.ETIMEDOUT
        assert trio.current_time() - start < 50
        world.silent.clear()
        await trio.sleep(30)
        assert await a.mkdir(1, b"y", 0o755)
        # the first was on its way: its number was repeated until answered
        assert (await a.lookup(1, b"x")).mode

    run(scenario)


def test_caches_are_not_trusted_past_the_term() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.mkdir(1, b"d", 0o755)
        assert (await b.walk("/d")).mode
        world.cut.add("b")
        await trio.sleep(1)
        await a.rmdir(1, b"d")  # waits until b's term is over
        got: list[int] = []

        async def ask() -> None:
            try:
                await b.walk("/d")
            except FsError as error:
                got.append(error.errno)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(5)
            assert not got
            world.cut.clear()
        assert got == [errno.ENOENT]

    run(scenario)


def test_expired_with_dirty_data_unchanged_is_committed() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        await a.write(fh, 0, b"x" * 20)
        await a.fsync(fh)
        await a.write(fh, 20, b"y")
        world.cut.add("a")
        assert len(await b.read_file("/f")) == 20  # a is expired, its dirty byte is not there
        world.cut.clear()
        await a.fsync(fh)
        assert await b.read_file("/f") == b"x" * 20 + b"y"

    run(scenario)


def test_expired_with_dirty_data_overtaken_is_lost_loudly() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        fh, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        fh2 = await a.open(attr.ino, os.O_RDWR)
        await a.write(fh, 0, b"x" * 20)
        await a.fsync(fh)
        await a.write(fh, 0, b"y")
        world.cut.add("a")
        await b.write_file("/f", b"other", sync=True)
        world.cut.clear()
        for h in (fh, fh2):
            with pytest.raises(FsError) as caught:
                await a.fsync(h)
            assert caught.value.errno == errno.EIO
            await a.fsync(h)
        assert await a.read(fh, 0, 100) == b"other"
        await a.write(fh, 0, b"O")
        assert await b.read_file("/f") == b"Other"
        assert a.client.buffer.used == 0

    run(scenario)


def test_reply_that_crosses_a_recall_is_not_kept() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.mkdir(1, b"d", 0o755)
        d = await b.walk("/d")
        slow = True
        world.reply_delay = lambda method, _: 0.5 if slow and method == "meta.lookup" else 0
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                with pytest.raises(FsError):
                    await b.lookup(d.ino, b"f")

            nursery.start_soon(late)
            await trio.sleep(0.01)
            slow = False
            await a.mknod(d.ino, b"f", 0o644)  # recalls b while the absence is on its way
        assert (await b.lookup(d.ino, b"f")).mode

    run(scenario)


def test_acquire_that_crosses_a_recall_asks_again() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.write_file("/f", b"0" * 64, sync=True)
        ino = (await b.walk("/f")).ino
        ah, bh = await a.open(ino, os.O_RDWR), await b.open(ino, os.O_RDWR)
        rng = random.Random(1)
        world.reply_delay = lambda _m, _r: rng.random() * 0.02

        async def writer(files, h, at: int) -> None:
            for i in range(1, 20):
                await files.write(h, at, bytes([i]))
                assert (await files.read(h, at, 1)) == bytes([i])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer, a, ah, 0)
            nursery.start_soon(writer, b, bh, 1)
        assert await a.read(ah, 0, 3) == bytes([19, 19]) + b"0"

    run(scenario)


def test_two_clients_recalling_each_other_do_not_wait_in_a_ring() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        made = [await a.write_file(name, b"-" * 10, sync=True) for name in ("/x", "/y")]
        inos = [attr.ino for attr in made]
        ax, ay = [await a.open(i, os.O_RDWR) for i in inos]
        bx, by = [await b.open(i, os.O_RDWR) for i in inos]
        start = trio.current_time()
        for i in range(10):
            await a.write(ax, i, b"a")
            await b.write(by, i, b"b")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.write, ay, 9 - i, b"A")
                nursery.start_soon(b.write, bx, 9 - i, b"B")
                nursery.start_soon(a.setattr, inos[1])
                nursery.start_soon(b.setattr, inos[0])
        assert trio.current_time() - start < 5
        assert await a.read(ax, 0, 10) == await b.read(bx, 0, 10)

    run(scenario)


def test_failed_uploads_keep_the_data() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        data = random.Random(2).randbytes(300_000)
        await a.write(fh, 0, data)
        world.data.fail = [Unavailable("no nodes"), NoSpace("full")]
        await trio.sleep(0.8)
        assert a.client.buffer.used
        assert await a.read(fh, 0, 400_000) == data
        with pytest.raises(NoSpace):
            await a.fsync(fh)
        await a.fsync(fh)
        assert await a.read(fh, 0, 400_000) == data
        await trio.sleep(1.1)  # a refusal is believed for a second
        world.data.fail = [Condemned("again", segments=[b"s" * 16])]
        await a.write(fh, 5, b"zz")
        await a.write(fh, 299_999, data)
        await a.fsync(fh)
        assert a.client.buffer.used == 0
        assert (await a.read(fh, 0, 10))[5:7] == b"zz"

    run(scenario)


def test_commits_never_wait_behind_names() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await b.make_directories("/d")
        d = (await a.walk("/d")).ino
        await b.list_directory("/d")
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        world.hold_recall = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.mknod, d, b"n", 0o644)
            await trio.sleep(0.1)
            start = trio.current_time()
            await a.write(fh, 0, b"x")
            await a.fsync(fh)
            assert trio.current_time() - start < 0.1
            world.hold_recall.set()
            world.hold_recall = None
        assert any(type(r.ops[0]) is Commit for m, _, r in world.log if m == "meta.mutate")

    run(scenario)


def test_evicted_leases_are_given_back() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a", nodes=64, entries=64, writable=16)
        d = await a.mkdir(1, b"d", 0o755)
        for i in range(120):
            await a.write_file(f"/d/{i}", b"x")
        await trio.sleep(10)
        state = world.shared.state
        held = sum(read.write_lease(state, d.ino + i) is not None for i in range(1, 121))
        assert held <= 32
        for i in range(120):
            assert await a.read_file(f"/d/{i}") == b"x"
        await trio.sleep(5)
        led = world.services[1].led(0)
        assert len(led.table.sessions[1].read) <= 80
        assert len(led.table.sessions[1].opened) == 0

    run(scenario)


def test_an_own_change_across_a_leader_change_is_seen_by_its_own_cache() -> None:
    """The server recalls nothing for an own change, so its answer must never just be dropped."""

    async def scenario(world: World) -> None:
        a = await world.client("a")
        await a.mkdir(1, b"d", 0o755)
        await a.list_directory("/")  # complete: absent names are answered from the cache
        for turn, change in enumerate(("make", "move", "remove")):
            world.lead(None)
            async with trio.open_nursery() as nursery:
                if change == "make":
                    nursery.start_soon(a.mkdir, 1, b"new", 0o755)
                elif change == "move":
                    nursery.start_soon(a.rename, 1, b"new", 1, b"moved")
                else:
                    nursery.start_soon(a.rmdir, 1, b"moved")
                await trio.sleep(1)
                world.lead(1 + turn % 2)
            listed = {e.name for e in await a.list_directory("/")}
            stored, _ = read.listing(world.shared.state, 1, 0, 100)
            assert listed == {e.name for e in stored}
            assert (await a.getattr(1)).nlink == 2 + len(stored)

    run(scenario)


def test_an_operation_nobody_waits_for_any_more_is_seen_by_its_own_cache() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        await a.list_directory("/")
        world.lead(None)
        with trio.move_on_after(0.5):
            await a.mkdir(1, b"late", 0o755)
        world.lead(1)
        await trio.sleep(10)
        stored, _ = read.listing(world.shared.state, 1, 0, 100)
        listed = {e.name for e in await a.list_directory("/")}
        assert listed == {e.name for e in stored}

    run(scenario)


def test_nobody_waits_for_a_client_that_said_goodbye() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.list_directory("/")
        await b.list_directory("/")
        await b.write_file("/f", b"x")
        await b.close()
        await trio.sleep(0.1)
        assert await a.read_file("/f") == b"x"
        world.lead(2)
        start = trio.current_time()
        await a.mkdir(1, b"d", 0o755)
        assert trio.current_time() - start < 1, "no grace for a session that has ended"

    run(scenario)
