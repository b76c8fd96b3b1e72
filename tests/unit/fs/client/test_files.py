"""`Files` against the real metadata service, on virtual time."""

from __future__ import annotations

import errno
import os
import random
import stat

import pytest
import trio

from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from tests.unit.fs.client.world import World, run


async def expect(number: int, waiting) -> None:
    with pytest.raises(FsError) as caught:
        await waiting
    assert caught.value.errno == number


def test_names() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        d = await a.mkdir(1, b"d", 0o755)
        await expect(errno.EEXIST, a.mkdir(1, b"d", 0o755))
        f = await a.mknod(d.ino, b"f", 0o644)
        assert (await a.lookup(d.ino, b"f")).ino == f.ino
        await expect(errno.ENOENT, a.lookup(d.ino, b"g"))
        s = await a.symlink(1, b"s", b"d/f")
        assert await a.readlink(s.ino) == b"d/f"
        assert (await a.walk("/s")).ino == f.ino
        assert (await a.walk("/s", follow=False)).ino == s.ino
        linked = await a.link(f.ino, 1, b"f2")
        assert linked.nlink == 2
        await a.rename(d.ino, b"f", 1, b"f3")
        await expect(errno.ENOENT, a.lookup(d.ino, b"f"))
        assert (await a.lookup(1, b"f3")).ino == f.ino
        await a.rename(1, b"f2", 1, b"f3")  # the same inode: nothing happens
        assert (await a.lookup(1, b"f2")).ino == f.ino
        await a.rename(1, b"s", 1, b"f3", 2)
        assert (await a.lookup(1, b"f3")).ino == s.ino
        await a.unlink(1, b"s")
        assert (await a.getattr(f.ino)).nlink == 1
        await a.rmdir(1, b"d")
        await expect(errno.ENOENT, a.lookup(1, b"d"))
        assert (await a.lookup(1, b"..")).ino == 1
        names = sorted(e.name for e in await a.list_directory("/"))
        assert names == [b"f2", b"f3"]

    run(scenario)


def test_cached_answers_cost_no_calls() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        d = await a.mkdir(1, b"d", 0o755)
        for i in range(50):
            await a.mknod(d.ino, b"%03d" % i, 0o644)
        bd = await b.walk("/d")
        assert len(await b.list_directory("/d")) == 50
        before = len(world.log)
        for i in range(50):
            attr = await b.lookup(bd.ino, b"%03d" % i)
            await b.getattr(attr.ino)
        await expect(errno.ENOENT, b.lookup(bd.ino, b"nope"))
        assert len(await b.list_directory("/d")) == 50
        assert [c for c in world.log[before:] if c[0] != "meta.renew"] == []
        await a.unlink(d.ino, b"007")
        await expect(errno.ENOENT, b.lookup(bd.ino, b"007"))
        assert len(await b.list_directory("/d")) == 49

    run(scenario)


def test_write_read_other_client() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        for size in (0, 1, 5000, 16_384, 16_385, 3_000_000):
            data = random.Random(size).randbytes(size)
            await a.write_file("/f", data)
            assert await a.read_file("/f") == data
            assert await b.read_file("/f") == data
            assert (await b.walk("/f")).size == size
            assert (await a.walk("/f")).size == size
        await b.write_file("/f", b"short")
        assert await a.read_file("/f") == b"short"

    run(scenario)


def test_random_writes_against_a_bytearray() -> None:
    async def scenario(world: World) -> None:
        rng = random.Random(5)
        a, b = await world.client("a"), await world.client("b")
        fh, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        bh = await b.open(attr.ino, os.O_RDWR)
        model = bytearray()
        for _ in range(400):
            files, h = rng.choice([(a, fh), (a, fh), (b, bh)])
            kind = rng.random()
            if kind < 0.5:
                offset = rng.randrange(200_000)
                data = rng.randbytes(rng.choice([1, 100, 4096, 70_000]))
                if len(model) < offset:
                    model.extend(bytes(offset - len(model)))
                model[offset : offset + len(data)] = data
                assert await files.write(h, offset, data) == len(data)
            elif kind < 0.8:
                offset, length = rng.randrange(250_000), rng.randrange(100_000)
                assert await files.read(h, offset, length) == model[offset : offset + length]
            elif kind < 0.86:
                size = rng.randrange(250_000)
                model[size:] = b""
                model.extend(bytes(size - len(model)))
                await files.setattr(attr.ino, size=size)
            elif kind < 0.93:
                await files.fsync(h)
            else:
                await trio.sleep(rng.random())
            assert (await files.getattr(attr.ino)).size == len(model)
        assert await b.read(bh, 0, 1 << 20) == model
        assert a.client.buffer.used + b.client.buffer.used < 1 << 20
        await a.sync()
        await b.sync()
        assert a.client.buffer.used == b.client.buffer.used == 0

    run(scenario)


def test_append_by_two_clients() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        fh, attr = await a.create_file(1, b"log", 0o644, os.O_WRONLY | os.O_APPEND)
        bh = await b.open(attr.ino, os.O_WRONLY | os.O_APPEND)

        async def append(files, h, mark: bytes) -> None:
            for i in range(30):
                await files.write(h, 0, mark + b"%04d\n" % i)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, a, fh, b"a")
            nursery.start_soon(append, b, bh, b"b")
        lines = (await a.read_file("/log")).splitlines()
        assert len(lines) == 60
        assert [x for x in lines if x[:1] == b"a"] == [b"a%04d" % i for i in range(30)]
        assert [x for x in lines if x[:1] == b"b"] == [b"b%04d" % i for i in range(30)]

    run(scenario)


def test_append_by_two_clients_that_open_each_time() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        flags = os.O_WRONLY | os.O_APPEND
        rng = random.Random(7)

        async def append(files, mark: bytes) -> None:
            for i in range(30):
                fh, _ = await files.create_file(1, b"log", 0o644, flags)
                await files.write(fh, 0, mark + b"%04d\n" % i)
                await files.release(fh)
                await trio.sleep(rng.choice([0, 0, 0.001, 0.01, 0.6]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, a, b"a")
            nursery.start_soon(append, b, b"b")
        lines = (await a.read_file("/log")).splitlines()
        assert len(lines) == len(set(lines)) == 60
        assert await b.read_file("/log") == await a.read_file("/log")

    run(scenario, seeds=10)


def test_unlinked_open_file_lives() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.write_file("/f", b"x" * 20_000, sync=True)
        attr = await b.walk("/f")
        bh = await b.open(attr.ino, os.O_RDWR)
        ah = await a.open(attr.ino, os.O_RDWR)
        await a.unlink(1, b"f")
        await trio.sleep(5)
        assert await b.read(bh, 0, 10) == b"x" * 10
        await a.write(ah, 0, b"yy")
        await a.fsync(ah)
        assert await b.read(bh, 0, 3) == b"yyx"
        assert (await b.getattr(attr.ino)).nlink == 0
        await a.release(ah)
        await b.release(bh)
        await trio.sleep(10)
        await expect(errno.ENOENT, b.client.pin(attr.ino, trio.current_time() + 5))

    run(scenario)


def test_rename_commits_first() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        fh, attr = await a.create_file(1, b"tmp", 0o644, os.O_WRONLY)
        await a.write(fh, 0, b"content")
        assert a.client.buffer.used
        await a.rename(1, b"tmp", 1, b"final")
        assert a.client.buffer.used == 0
        kinds = [type(op).__name__ for m, _, r in world.log if m == "meta.mutate" for op in r.ops]
        assert kinds.index("Commit") < kinds.index("Rename")
        await a.write(fh, 7, b"!")
        await a.setattr(attr.ino, mode=0o600, mtime_ns=5)
        got = await a.getattr(attr.ino)
        assert (stat.S_IMODE(got.mode), got.mtime_ns, got.size) == (0o600, 5, 8)
        await trio.sleep(2)
        assert (await a.getattr(attr.ino)).mtime_ns == 5

    run(scenario)


def test_commits_gather() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        for i in range(60):
            await a.write_file(f"/{i}", b"small %d" % i)
        await trio.sleep(2)
        assert a.client.buffer.used == 0
        mutates = [r for m, _, r in world.log if m == "meta.mutate"]
        commits = [r for r in mutates if type(r.ops[0]).__name__ == "Commit"]
        assert sum(len(r.ops) for r in commits) == 60
        assert len(commits) < 20

    run(scenario)


def test_xattrs() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        f = await a.mknod(1, b"f", 0o644)
        before = len(world.log)
        await expect(errno.ENODATA, a.getxattr(f.ino, b"security.capability"))
        assert len(world.log) == before
        await a.setxattr(f.ino, b"user.x", b"1")
        assert await b.getxattr(f.ino, b"user.x") == b"1"
        await a.setxattr(f.ino, b"user.x", b"2", 2)
        await expect(errno.EEXIST, a.setxattr(f.ino, b"user.x", b"2", 1))
        assert await b.getxattr(f.ino, b"user.x") == b"2"
        await b.removexattr(f.ino, b"user.x")
        await expect(errno.ENODATA, a.getxattr(f.ino, b"user.x"))

    run(scenario)


def test_full_cluster_refuses_writes() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_WRONLY)
        await a.write(fh, 0, b"x" * 100_000)
        world.free = 0
        await trio.sleep(3.1)
        await expect(errno.ENOSPC, a.write(fh, 100_000, b"x"))
        world.free = 1 << 34
        await trio.sleep(1.1)
        await a.write(fh, 100_000, b"x")
        await a.fsync(fh)
        assert (await a.statfs()).free > 0

    run(scenario)


def test_writers_wait_for_room() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a", dirty=1 << 20, flush_at=1 << 18)
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        peak = 0
        for i in range(160):
            await a.write(fh, i * 65_536, bytes([i]) * 65_536)
            peak = max(peak, a.client.buffer.used)
        assert peak <= (1 << 20) + 4096
        for i in range(160):
            assert await a.read(fh, i * 65_536, 65_536) == bytes([i]) * 65_536
        await a.fsync(fh)
        assert a.client.buffer.used == 0

    run(scenario)


def test_a_lease_taken_anew_is_not_the_one_that_was_pushed_out() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a", nodes=8), await world.client("b")
        d = await b.mkdir(1, b"d", 0o755)
        for i in range(40):
            await b.mknod(d.ino, b"%02d" % i, 0o644)
        handle = await a.opendir(d.ino)
        await a.readdir(handle, 0, 1)
        before = a.lease_epoch(d.ino)
        assert before is not None
        for i in range(40):  # pushes the directory out, which gives its lease back
            await a.getattr((await b.lookup(d.ino, b"%02d" % i)).ino)
        assert a.lease_epoch(d.ino) is None
        await a.readdir(handle, 0, 1)
        assert a.lease_epoch(d.ino) not in {before, None}

    run(scenario)


def test_files_read_in_the_order_of_a_listing_are_asked_for_many_at_once():
    async def scenario(world: World) -> None:
        writer = await world.client("a")
        top = (await writer.mkdir(ROOT_INO, b"d", 0o755)).ino
        content = {}
        for number in range(100):
            data = bytes([number]) * (0 if number % 10 == 9 else 300 * number)
            handle, attr = await writer.create_file(top, b"f%d" % number, 0o644, os.O_RDWR)
            await writer.write(handle, 0, data)
            await writer.release(handle)
            content[attr.ino] = data
            if number % 7 == 0:
                await writer.link(attr.ino, top, b"other%d" % number)
        await writer.sync()
        reader = await world.client("b")
        listing = await reader.opendir(top)
        order = [entry.ino for entry in await reader.readdir(listing, 0)]

        async def read(ino: int) -> bytes:
            handle = await reader.open(ino, os.O_RDONLY)
            try:
                return await reader.read(handle, 0, 1 << 20)
            finally:
                await reader.release(handle)

        for place, ino in enumerate(order):
            assert await read(ino) == content[ino]
            if place == 50:  # what was learnt ahead of a file that changes is not told
                changed = order[52]
                handle = await writer.open(changed, os.O_WRONLY | os.O_TRUNC)
                await writer.write(handle, 0, b"new")
                await writer.release(handle)
                content[changed] = b"new"
        assert world.calls("meta.layouts", "b") <= 8
        assert world.calls("meta.layout", "b") <= 12

    run(scenario)
