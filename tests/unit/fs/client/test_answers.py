"""Answers that show nothing: a transaction whose driver is gone took effect all the same."""

import stat

import msgspec
import pytest
import trio

from cfs.core.api import meta
from cfs.core.errors import FsError
from cfs.core.meta import read
from tests.unit.fs.client.world import run

ROOT = 1


def without_attributes(world):
    """Have answers to changes of names come without attributes, as such a driver leaves them."""
    plain = world.serve

    async def serve(node, method, request, peer):
        answer = await plain(node, method, request, peer)
        if method == "meta.mutate":
            results = tuple(
                msgspec.structs.replace(r, attrs=(), ino=r.attrs[0].ino if r.attrs else r.ino)
                if isinstance(op, meta.Create | meta.Link | meta.Unlink | meta.Rmdir | meta.Rename)
                else r
                for op, r in zip(request.ops, answer.results, strict=True)
            )
            return msgspec.structs.replace(answer, results=results)
        return answer

    world.serve = serve


def test_changes_without_attributes_show_what_is_there():
    async def scenario(world):
        files = await world.client("a", delegate=False)
        held = await files.mknod(ROOT, b"f", stat.S_IFREG | 0o644)
        without_attributes(world)
        made = await files.mkdir(ROOT, b"d", 0o755)
        assert (await files.lookup(ROOT, b"d")).ino == made.ino
        assert (await files.getattr(ROOT)).nlink == 3
        linked = await files.link(held.ino, made.ino, b"again")
        assert linked.nlink == 2
        assert (await files.lookup(made.ino, b"again")).ino == held.ino
        await files.rename(ROOT, b"f", made.ino, b"moved")
        assert await _names(files) == {b"d"}
        assert (await files.lookup(made.ino, b"moved")).ino == held.ino
        await files.unlink(made.ino, b"again")
        await files.unlink(made.ino, b"moved")
        with pytest.raises(FsError):
            await files.lookup(made.ino, b"moved")
        await files.rmdir(ROOT, b"d")
        assert await _names(files) == set()

    run(scenario)


async def _names(files):
    return {e.name for e in await files.list_directory(b"/")}


def test_a_removed_directory_is_reclaimed_under_the_same_leader():
    async def scenario(world):
        files = await world.client("a", delegate=False)
        await files.mkdir(ROOT, b"d", 0o755)
        await files.rmdir(ROOT, b"d")
        with trio.fail_after(20):
            while read.orphans(world.shared.state, 0, 1):  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.1)

    run(scenario)
