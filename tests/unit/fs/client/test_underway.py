"""An own change is in effect before it is answered: others see it then, and so must its client."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial
from typing import Any

import pytest
import trio

from cfs.core.errors import CfsError, FsError
from tests.unit.fs.client.world import World, run

ROOT = 1
REGULAR = stat.S_IFREG | 0o644
SLOW_S = 0.5


async def seen(files: Any) -> dict[str, Any]:
    """Tell all that a client sees: names, absences, listings, attributes by number."""
    out: dict[str, Any] = {}
    directories = {"/": ROOT}
    for name in (b"d", b"e"):
        try:
            directories[name.decode()] = (await files.lookup(ROOT, name)).ino
        except FsError:
            out[name.decode()] = None
    for path, ino in directories.items():
        out[path] = await _figures(files, ino)
        for name in (b"f", b"g", b"h", b"new"):
            try:
                attr = await files.lookup(ino, name)
                out[f"{path} {name.decode()}"] = attr.ino, attr.nlink, attr.mode
            except FsError as error:
                out[f"{path} {name.decode()}"] = error.errno
        handle = await files.opendir(ino)
        listed: list[Any] = []
        while page := await files.readdir(handle, listed[-1].cookie if listed else 0):
            listed += page
        out[f"{path} listed"] = sorted(e.name for e in listed)
        await files.releasedir(handle)
    return out


async def _figures(files: Any, ino: int) -> tuple[int, int, int]:
    attr = await files.getattr(ino)
    return attr.nlink, attr.size, attr.mtime_ns


async def prepared(world: World) -> tuple[Any, Any, dict[str, int]]:
    """Make two clients that share a tree; give the inodes."""
    a = await world.client("a", delegate=False)
    b = await world.client("b", delegate=False)
    inos = {}
    for name in (b"d", b"e"):
        inos[name.decode()] = (await a.mkdir(ROOT, name, 0o755)).ino
    for name in (b"f", b"g", b"h"):
        inos[name.decode()] = (await a.mknod(ROOT, name, REGULAR)).ino
    await a.sync()
    assert await seen(a) == await seen(b)
    return a, b, inos


CHANGES = {
    "create": lambda f, _: f.mknod(ROOT, b"new", REGULAR),
    "mkdir": lambda f, _: f.mkdir(ROOT, b"new", 0o755),
    "link": lambda f, i: f.link(i["f"], i["d"], b"new"),
    "unlink": lambda f, _: f.unlink(ROOT, b"f"),
    "rmdir": lambda f, _: f.rmdir(ROOT, b"d"),
    "rename": lambda f, i: f.rename(ROOT, b"f", i["d"], b"new"),
    "replace": lambda f, _: f.rename(ROOT, b"f", ROOT, b"g"),
    "exchange": lambda f, _: f.rename(ROOT, b"f", ROOT, b"g", 2),
    "mode": lambda f, i: f.setattr(i["f"], mode=0o600),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_effect_is_seen_before_it_is_answered(change: str) -> None:
    async def scenario(world: World) -> None:
        a, b, inos = await prepared(world)
        await seen(a)
        world.reply_delay = lambda method, _: SLOW_S if method == "meta.mutate" else 0
        answered = trio.Event()

        async def changed() -> None:
            await CHANGES[change](a, inos)
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(changed)
            await trio.sleep(SLOW_S / 2)
            there = await seen(b)
            assert await seen(a) == there
            assert not answered.is_set()
            await answered.wait()
            world.reply_delay = None
            assert await seen(a) == there
        assert not a.client.queue.underway.inos
        assert not a.client.queue.underway.names

    run(scenario, seeds=1)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_whose_caller_gave_up_is_seen_all_the_same(change: str) -> None:
    async def scenario(world: World) -> None:
        a, b, inos = await prepared(world)
        await seen(a)
        world.reply_delay = lambda method, _: SLOW_S if method == "meta.mutate" else 0
        with trio.move_on_after(SLOW_S / 3):
            await CHANGES[change](a, inos)
        there = await seen(b)
        assert await seen(a) == there
        assert a.client.queue.underway.inos
        world.reply_delay = None
        await trio.sleep(SLOW_S)
        assert not a.client.queue.underway.inos
        assert await seen(a) == there

    run(scenario, seeds=1)


@pytest.mark.parametrize("change", CHANGES)
def test_an_answer_that_crossed_an_own_change_is_not_kept(change: str) -> None:
    """What was looked up before a change, and is told after it, is of before it."""

    async def scenario(world: World) -> None:
        _, b, inos = await prepared(world)
        c = await world.client("c", delegate=False)
        await c.getattr(inos["e"])  # the session is open, the rest is not known
        world.reply_delay = lambda method, _: 0 if method == "meta.mutate" else SLOW_S

        async def looks(parent: int, name: bytes) -> None:
            with contextlib.suppress(CfsError):
                await c.lookup(parent, name)

        async with trio.open_nursery() as nursery:
            for parent in (ROOT, inos["d"]):
                for name in (b"f", b"g", b"new"):
                    nursery.start_soon(looks, parent, name)
            for ino in inos.values():
                nursery.start_soon(c.getattr, ino)
            await trio.sleep(0.01)
            world.reply_delay = None
            await CHANGES[change](c, inos)
        assert await seen(c) == await seen(b)

    run(scenario, seeds=2)


def test_a_kernel_loses_attributes_before_a_change_that_may_cross_shards_is_sent() -> None:
    async def scenario(world: World) -> None:
        a, _, inos = await prepared(world)
        told: list[int] = []

        class Kernel:
            async def invalidate(self, ino: int) -> None:
                pass

            async def drop_attributes(self, ino: int) -> None:
                assert world.calls("meta.mutate", "a") == before
                told.append(ino)
                assert not a.trust_left_s(ino)

        a.attach(Kernel())
        before = world.calls("meta.mutate", "a")
        await a.unlink(ROOT, b"f")
        assert not told
        before = world.calls("meta.mutate", "a")
        await a.mkdir(inos["d"], b"below", 0o755)
        assert told == [inos["d"]]
        await a.getattr(inos["d"])
        assert a.trust_left_s(inos["d"]) > 0

    run(scenario, seeds=1)


async def refuse_making_while_removed(world: World, files: Any, ino: int, name: bytes) -> None:
    """Remove a directory of the root; nothing is made in it while that is on its way."""
    world.reply_delay = lambda method, r: (
        SLOW_S if method == "meta.mutate" and type(r.ops[0]).__name__ == "Rmdir" else 0
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.rmdir, ROOT, name)
        await trio.sleep(SLOW_S / 2)
        with pytest.raises(FsError) as refused:
            await files.mknod(ino, b"lost", REGULAR)
        assert refused.value.errno == errno.ENOENT


def test_nothing_is_made_ahead_in_a_directory_that_is_being_removed() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(ROOT)
        d = (await a.mkdir(ROOT, b"d", 0o755)).ino
        for _ in range(3):
            await a.mknod(d, b"x", REGULAR)
            await a.unlink(d, b"x")
        await a.sync()
        assert a.client.delegations.here(d) is not None
        await b.mkdir(ROOT, b"other", 0o755)  # the root is nobody's own
        await refuse_making_while_removed(world, a, d, b"d")
        await a.sync()

    run(scenario, seeds=1)


def test_a_size_is_not_shown_before_a_recall_can_no_longer_take_it_back() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        fh, attr = await a.create_file(ROOT, b"f", 0o644, os.O_RDWR)
        await a.sync()
        await a.write(fh, 0, b"x" * 100)
        slow = {"Commit"}
        world.reply_delay = lambda method, r: (
            SLOW_S if method == "meta.mutate" and type(r.ops[0]).__name__ in slow else 0
        )
        sizes: list[tuple[str, int]] = []

        async def look(files: Any, name: str) -> None:
            sizes.append((name, (await files.getattr(attr.ino)).size))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(a.setattr, attr.ino, size=50))
            await trio.sleep(SLOW_S / 4)
            await look(a, "a")
            nursery.start_soon(look, b, "b")
        assert sizes[0] == ("a", 100)
        await look(a, "a")
        await look(b, "b")
        assert sizes[-2:] == [("a", 50), ("b", 50)]
        await a.release(fh)

    run(scenario, seeds=1)


def test_what_is_being_cut_does_not_show_again_below_what_is_written_beyond() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a", delegate=False)
        fh, attr = await a.create_file(ROOT, b"f", 0o644, os.O_RDWR)
        await a.write(fh, 0, b"x" * 200)
        await a.fsync(fh)
        world.call_delay = lambda method, r: (
            SLOW_S if method == "meta.mutate" and type(r.ops[0]).__name__ == "SetAttr" else 0
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(a.setattr, attr.ino, size=50))
            await trio.sleep(SLOW_S / 4)
            await a.write(fh, 100, b"y" * 10)
            seen = [await a.read(fh, 0, 1000)]
        seen.append(await a.read(fh, 0, 1000))
        assert seen == 2 * [b"x" * 50 + bytes(50) + b"y" * 10]
        await a.release(fh)

    run(scenario, seeds=1)


def test_nothing_is_made_ahead_while_a_name_that_others_changed_is_being_removed() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a", delegate_pause_s=0), await world.client("b")
        d = (await a.mkdir(ROOT, b"d", 0o755)).ino
        for _ in range(3):
            await a.mknod(d, b"x", REGULAR)
            await a.unlink(d, b"x")
        await a.sync()
        await b.rename(ROOT, b"d", ROOT, b"moved")  # `a` does not know the new name
        for _ in range(8):
            await a.mknod(d, b"x", REGULAR)
            await a.unlink(d, b"x")
            await a.sync()
        assert a.client.delegations.here(d) is not None
        await refuse_making_while_removed(world, a, d, b"moved")
        assert not a.client.queue.underway.ends
        await a.sync()

    run(scenario, seeds=1)
