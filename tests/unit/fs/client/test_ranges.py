"""Holes, copies and unnamed files through the client, against a plain byte array."""

from __future__ import annotations

import errno
import os
import random

import pytest
import trio

from cfs.core.api.meta import CopyRange, ExtentKind
from cfs.core.errors import FsError
from cfs.core.meta import commands, read
from cfs.core.meta.commands import Condemn
from cfs.fs.client.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from tests.unit.fs.client.world import World, run

UNIT = 4096


async def refused(number: int, call) -> None:
    with pytest.raises(FsError) as caught:
        await call
    assert caught.value.errno == number


def test_fallocate_does_what_its_modes_say() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        fh, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        await a.write(fh, 0, b"x" * 100)
        await a.fallocate(fh, KEEP_SIZE, 0, 500)
        assert (await a.getattr(attr.ino)).size == 100
        await a.fallocate(fh, 0, 50, 150)
        await a.fallocate(fh, 0, 0, 20)
        assert (await b.getattr(attr.ino)).size == 200
        await a.fallocate(fh, PUNCH_HOLE | KEEP_SIZE, 10, 10)
        await a.fallocate(fh, PUNCH_HOLE | KEEP_SIZE, 190, 100)
        await a.fallocate(fh, ZERO_RANGE | KEEP_SIZE, 90, 1000)
        want = b"x" * 10 + bytes(10) + b"x" * 70 + bytes(110)
        assert await b.read_file("/f") == want
        assert await a.read(fh, 0, 1000) == want
        before = await a.getattr(attr.ino)
        await a.fallocate(fh, ZERO_RANGE, 80, 220)
        after = await b.getattr(attr.ino)
        assert after.size == 300
        assert after.mtime_ns > before.mtime_ns
        assert after.allocated < before.allocated
        assert await b.read_file("/f") == want[:80] + bytes(220)
        await refused(errno.EOPNOTSUPP, a.fallocate(fh, PUNCH_HOLE, 0, 1))
        await refused(errno.EOPNOTSUPP, a.fallocate(fh, 0x08, 0, UNIT))
        await refused(errno.EINVAL, a.fallocate(fh, 0, 0, 0))
        await refused(errno.EFBIG, a.fallocate(fh, 0, (1 << 63) - 2, 10))
        fb = await b.open(attr.ino, os.O_RDONLY)
        await refused(errno.EBADF, b.fallocate(fb, 0, 0, 10))

    run(scenario)


def test_seeking_finds_data_and_holes_unwritten_ones_too() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a", layout=UNIT)
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        await refused(errno.ENXIO, a.lseek(fh, 0, os.SEEK_DATA))
        await a.write(fh, 100, b"y" * 50)
        await a.fsync(fh)
        await a.write(fh, 150, b"y" * 10)
        await a.write(fh, 300, b"y")
        await a.setattr((a.handle(fh)).file.ino, size=400)
        await a.write(fh, 310, b"y")
        for offset, data, hole in (
            (0, 100, 0), (99, 100, 99), (100, 100, 160), (155, 155, 160), (160, 300, 160),
            (300, 300, 301), (301, 310, 301), (311, None, 311),
        ):  # fmt: skip
            assert await a.lseek(fh, offset, os.SEEK_HOLE) == hole
            if data is None:
                await refused(errno.ENXIO, a.lseek(fh, offset, os.SEEK_DATA))
            else:
                assert await a.lseek(fh, offset, os.SEEK_DATA) == data
        await a.write(fh, 399, b"y")
        assert await a.lseek(fh, 399, os.SEEK_HOLE) == 400
        await refused(errno.ENXIO, a.lseek(fh, 400, os.SEEK_HOLE))
        await refused(errno.ENXIO, a.lseek(fh, -1, os.SEEK_DATA))
        await refused(errno.EINVAL, a.lseek(fh, 0, os.SEEK_SET))

    run(scenario)


@pytest.mark.parametrize("troubled", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_ranges_behave_as_byte_arrays_on_two_clients(seed: int, *, troubled: bool) -> None:
    async def scenario(world: World) -> None:
        rng = random.Random(seed)
        clients = [await world.client(n, inline=64, layout=300) for n in ("a", "b")]
        want = {}
        for name in (b"f", b"g"):
            _, attr = await clients[0].create_file(1, name, 0o644, os.O_RDWR)
            want[attr.ino] = bytearray()
        handles = {
            (n, ino): await c.open(ino, os.O_RDWR) for n, c in enumerate(clients) for ino in want
        }
        copied = 0
        for _ in range(150):
            n, ino = rng.randrange(2), rng.choice(list(want))
            files, fh, model = clients[n], handles[n, ino], want[ino]
            if troubled and rng.random() < 0.3:
                world.lose.append(lambda method, _: method in {"meta.mutate", "meta.layout"})
            if troubled and rng.random() < 0.05:
                world.lead(rng.choice([1, 2]))
            at, length = rng.randrange(900), rng.choice([1, 40, 100, 400])
            match rng.randrange(7):
                case 0 | 1:
                    data = rng.randbytes(length)
                    await files.write(fh, at, data)
                    model.extend(bytes(max(0, at + length - len(model))))
                    model[at : at + length] = data
                case 2:
                    mode = rng.choice(
                        [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, 0]
                    )
                    await files.fallocate(fh, mode, at, length)
                    if not mode & KEEP_SIZE:
                        model.extend(bytes(max(0, at + length - len(model))))
                    stop = min(at + length, len(model))
                    if mode and at < stop:
                        model[at:stop] = bytes(stop - at)
                case 3 | 4:
                    source = rng.choice(list(want))
                    start = rng.randrange(900)
                    if source == ino and abs(start - at) < length:
                        continue
                    count = await files.copy_file_range(handles[n, source], start, fh, at, length)
                    piece = bytes(want[source][start : start + length])
                    assert count == len(piece)
                    if piece:
                        model.extend(bytes(max(0, at + count - len(model))))
                        model[at : at + count] = piece
                    copied += count
                case 5:
                    size = rng.randrange(1200)
                    await files.setattr(ino, size=size)
                    model[size:] = bytes(max(0, size - len(model)))
                case _:
                    await files.fsync(fh)
            reader = rng.randrange(2)
            got = await clients[reader].read(handles[reader, ino], 0, 5000)
            assert got == model
            assert (await clients[1 - reader].getattr(ino)).size == len(model)
            offset = rng.randrange(max(1, len(model)))
            if offset < len(model):
                hole = await files.lseek(fh, offset, os.SEEK_HOLE)
                assert offset <= hole <= len(model)
                if hole < len(model):
                    assert model[hole] == 0
        shared = [
            r
            for m, _, r in world.log
            if m == "meta.mutate"
            for r in r.ops
            if isinstance(r, CopyRange)
        ]
        assert copied > 1000
        assert len(shared) > 5

    run(scenario, 1)


def test_a_copy_shares_chunks_and_falls_back_when_they_are_being_collected() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        data = random.Random(1).randbytes(300_000)
        fh, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        out, copy = await a.create_file(1, b"g", 0o644, os.O_RDWR)
        await a.write(fh, 0, data)
        await a.write(out, 10, b"dirty")
        assert await a.copy_file_range(fh, 1000, out, 5, 1 << 40) == 299_000
        state = world.shared.state
        chunks = len(world.data.chunks)
        found, _ = read.layout(state, copy.ino, 0, 1 << 40, 1 << 20)
        assert found[0].length == 5
        assert all(e.kind is ExtentKind.CHUNK for e in found[1:])
        assert await a.read(out, 0, 1 << 20) == bytes(5) + data[1000:]
        segment = found[1].segment
        assert read.references(state, segment) == 2
        batch = commands.Batch(1, (Condemn(round=1, segments=(segment,)),))
        await world.groups[1].propose(commands.encode_batch(batch))
        again, other = await a.create_file(1, b"h", 0o644, os.O_RDWR)
        assert await a.copy_file_range(out, 0, again, 0, 299_005) == 299_005
        await a.fsync(again)
        assert len(world.data.chunks) > chunks, "bytes were written anew"
        assert await a.read(again, 0, 1 << 20) == bytes(5) + data[1000:]
        assert (await a.getattr(other.ino)).size == 299_005
        read_only = await a.open(attr.ino, os.O_RDONLY)
        await refused(errno.EBADF, a.copy_file_range(out, 0, read_only, 0, 10))
        await refused(errno.EINVAL, a.copy_file_range(out, 0, out, 10, 20))
        await refused(errno.EINVAL, a.copy_file_range(out, 0, fh, 10, 20, 1))
        assert await a.copy_file_range(out, 1 << 30, fh, 0, 20) == 0

    run(scenario)


def test_a_file_without_a_name_lives_while_it_is_open_and_may_get_one() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        fh, attr = await a.create_unnamed(1, 0o600, os.O_RDWR)
        assert attr.nlink == 0
        await a.write(fh, 0, b"hidden")
        await trio.sleep(10)
        world.lead(2)
        await trio.sleep(40)
        assert await a.read(fh, 0, 100) == b"hidden"
        assert await b.list_directory("/") == []
        named = await a.link(attr.ino, 1, b"shown")
        assert named.nlink == 1
        assert await b.read_file("/shown") == b"hidden"
        await a.release(fh)
        await trio.sleep(40)
        assert await b.read_file("/shown") == b"hidden"
        await b.unlink(1, b"shown")
        gone, other = await a.create_unnamed(1, 0o600, os.O_RDWR | os.O_EXCL)
        await refused(errno.ENOENT, a.link(other.ino, 1, b"never"))
        await a.release(gone)
        await trio.sleep(40)
        assert read.orphans(world.shared.state, 0, 10) == ()
        assert read.totals(world.shared.state).inodes == 1

    run(scenario)


def test_a_copy_of_many_extents_goes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfs.core.meta.copying.TILES_MAX", 8)

    async def scenario(world: World) -> None:
        a = await world.client("a")
        data = random.Random(1).randbytes(40 * 65_536)
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        out, _ = await a.create_file(1, b"g", 0o644, os.O_RDWR)
        await a.write(fh, 0, data)
        await a.fsync(fh)
        chunks = len(world.data.chunks)
        assert await a.copy_file_range(fh, 0, out, 0, len(data)) == len(data)
        assert await a.read(out, 0, 1 << 30) == data
        assert len(world.data.chunks) == chunks

    run(scenario, 1)
