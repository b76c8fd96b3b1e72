"""A session that another process goes on with: open files, nameless ones, locks, numbering."""

from __future__ import annotations

import errno
import os

import pytest

from cfs.core.errors import FsError
from cfs.fs.client.files import Files
from cfs.fs.client.handover import Handed
from cfs.fs.client.limits import Limits
from tests.unit.fs.client.world import Peer, Pool, SlowKernel, View, World, run


async def take(world: World, handed: Handed) -> Files:
    peer = Peer(world, "a")
    files = Files(
        pool=Pool(world, peer), view=View(world.map), uploader=world.data, fetcher=world.data,
        clock=world.clock, name="a", limits=Limits(),
    )  # fmt: skip
    peer.files = files
    files.attach(SlowKernel())
    await files.start(world.nursery, session=handed.session)
    files.take_over(handed)
    return files


def test_files_and_locks_go_along() -> None:
    async def scenario(world: World) -> None:
        old = await world.client("a")
        fh, attr = await old.create_file(1, b"f", 0o644, os.O_RDWR)
        nameless, gone = await old.create_file(1, b"g", 0o644, os.O_RDWR)
        await old.write(fh, 0, b"not committed yet")
        await old.write(nameless, 0, b"kept")
        await old.unlink(1, b"g")
        await old.setlk(attr.ino, 7, 0, 9, 1, 42, wait=False, fh=fh)
        directory = await old.opendir(1)
        handed = await old.hand_over(old.client.deadline())
        mutations = world.calls("meta.mutate")
        new = await take(world, handed)
        assert await new.read(fh, 0, 100) == b"not committed yet"
        assert await new.read(nameless, 0, 100) == b"kept"
        assert (await new.getattr(gone.ino)).nlink == 0
        assert world.calls("meta.mutate") == mutations
        assert [entry.name for entry in await new.readdir(directory, 0)] == [b"f"]
        other = await world.client("b")
        with pytest.raises(FsError) as refused:
            await other.setlk(attr.ino, 7, 5, 5, 1, 43, wait=False)
        assert refused.value.errno == errno.EAGAIN
        await new.flush(fh, 7)
        await other.setlk(attr.ino, 7, 5, 5, 1, 43, wait=False)
        await new.write(fh, 0, b"NOT")
        await new.fsync(fh)
        assert await other.read(await other.open(attr.ino, os.O_RDONLY), 0, 3) == b"NOT"
        made, _ = await new.create_file(1, b"h", 0o644, os.O_RDWR)
        assert made > max(fh, nameless, directory)

    run(scenario)


def test_nothing_is_numbered_while_a_session_is_held() -> None:
    async def scenario(world: World) -> None:
        files = await world.client("a")
        fh, attr = await files.create_file(1, b"f", 0o644, os.O_RDWR)
        handed = await files.hand_over(files.client.deadline())
        mutations = world.calls("meta.mutate")
        world.nursery.start_soon(files.mkdir, 1, b"d", 0o755)
        with pytest.raises(FsError):
            await (await world.client("b")).lookup(1, b"d")
        assert world.calls("meta.mutate", "a") == mutations
        files.keep_on()  # nobody has taken it
        await files.write(fh, 0, b"on")
        await files.fsync(fh)
        other = await world.client("c")
        assert await other.read(await other.open(attr.ino, os.O_RDONLY), 0, 9) == b"on"
        for _ in range(1000):
            if any(entry.name == b"d" for entry in await listed(other)):
                break
        else:
            pytest.fail("what was put off is never carried out")
        assert handed.session == files.client.session.id

    run(scenario)


async def listed(files: Files) -> list:
    return await files.readdir(await files.opendir(1), 0)
