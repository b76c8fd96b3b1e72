"""Large files on their way while they are written: order, failures, who waits."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import trio

from cfs.core.errors import CfsError, Condemned, FsError, NoSpace, Unavailable
from cfs.fs.client.landing import Kept
from cfs.fs.client.stream import STREAM_BYTES_MIN
from tests.unit.fs.client.world import World, run

PIECE = 256 << 10


async def _write(files: Any, fh: int, data: bytes, *, landed: bool) -> None:
    """Write as a gateway does, copied or where it landed."""
    landing = files.client.landing
    for at in range(0, len(data), PIECE):
        piece = data[at : at + PIECE]
        landing.room[: len(piece)] = piece
        held: Kept | None = landing.keep(len(piece)) if landed else None
        await files.write(fh, at, piece if held is None else held)
        await trio.sleep(0.001)


@pytest.mark.parametrize("landed", [True, False])
def test_commits_are_prefixes_while_it_is_written(*, landed: bool) -> None:
    data = random.Random(1).randbytes(20 << 20)

    async def scenario(world: World) -> None:
        a, b = await world.client("a", flush_at=4 << 20), await world.client("b")
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        sizes = []

        async def look() -> None:
            while True:
                await trio.sleep(0.01)
                file = next(iter(a.client.writeback.files.values()))
                if file.stream is not None:
                    sizes.append(file.base_size)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await _write(a, fh, data, landed=landed)
            assert await a.read(fh, 19 << 20, 1 << 20) == data[19 << 20 :]
            await a.fsync(fh)
            nursery.cancel_scope.cancel()
        assert a.client.buffer.used == 0
        assert sizes == sorted(sizes)
        assert len(set(sizes)) > 2, "it was committed on the way"
        assert await b.read_file("/f") == data

    run(scenario)


@pytest.mark.parametrize("error", [Unavailable("x"), NoSpace("x"), Condemned("x", segments=[b"s"])])
def test_what_fails_on_the_way_is_dirty_again(error: CfsError) -> None:
    data = random.Random(2).randbytes(12 << 20)

    async def scenario(world: World) -> None:
        a, b = await world.client("a", flush_at=4 << 20), await world.client("b")
        fh, _ = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        await a.write(fh, 0, data[: 6 << 20])
        world.data.fail.append(error)
        await trio.sleep(2.0 if isinstance(error, NoSpace) else 0.05)
        await a.write(fh, 6 << 20, data[6 << 20 :])
        await a.write(fh, 100, b"over")
        model = data[:100] + b"over" + data[104:]
        assert await a.read(fh, 0, 1 << 20) == model[: 1 << 20]
        while True:
            try:
                await a.fsync(fh)
                break
            except (Unavailable, NoSpace):
                await trio.sleep(0.1)
        assert not world.data.fail
        assert a.client.buffer.used == 0
        assert await b.read_file("/f") == model

    run(scenario)


def test_it_makes_way_for_a_truncation_and_goes_on() -> None:
    data = random.Random(3).randbytes(16 << 20)

    async def scenario(world: World) -> None:
        a, b = await world.client("a", flush_at=4 << 20), await world.client("b")
        fh, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: _write(a, fh, data, landed=True))
            await trio.sleep(0.03)
            with trio.fail_after(5):
                assert (await a.setattr(attr.ino, size=3)).size >= 3
        await a.fsync(fh)
        found = await b.read_file("/f")
        assert len(found) == len(data)
        assert found[:3] == data[:3]
        first = next(at for at in range(3, len(found), PIECE) if any(found[at : at + 64]))
        assert found[3:first].count(0) >= (first - 3) * 0.9
        start = -(-first // PIECE) * PIECE
        assert found[start:] == data[start:]
        with pytest.raises(FsError):
            await a.write(fh, 1 << 62, b"x")
        assert STREAM_BYTES_MIN <= 4 << 20

    run(scenario)
