"""What callers may do is the same ahead of the shard as at it, and nothing done ahead is lost."""

from __future__ import annotations

import errno
import functools
import os
import random
import stat
from typing import Any

import pytest

from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.core.meta import acl
from cfs.fs.client.files import Files
from tests.unit.fs.client.world import World, run

CALLERS = (None, Caller(1, 1), Caller(2, 1), Caller(2, 2, (1,)), Caller(3, 3), Caller(0, 0))
MODES = (0o777, 0o770, 0o1777, 0o755, 0o700, 0o2775, 0o3777, 0o666, 0o640, 0o750, 0o6755)
NAMES = (b"a", b"b", b"c")
LISTS = tuple(
    acl.to_xattr(acl.Acl(owner=7, group=group, other=other, mask=mask, users=users, groups=groups))
    for group, other, mask, users, groups in (
        (5, 0, 7, ((2, 7),), ()),
        (7, 7, 5, ((3, 0),), ((1, 2),)),
        (0, 5, 3, (), ((3, 7),)),
    )
)


class Walk:
    """One history of operations by many callers, the same for every client it is played to."""

    def __init__(self, seed: int, files: Files) -> None:
        self.rng = random.Random(seed)
        self.files = files
        self.directories: list[int] = []

    async def begin(self) -> None:
        for name in NAMES:
            made = await self.files.mkdir(ROOT_INO, name, 0o777, uid=1, gid=1)
            self.directories.append(made.ino)

    async def step(self) -> Any:
        """Do something; give what it came to."""
        rng, files = self.rng, self.files
        caller = rng.choice(CALLERS)
        uid, gid = (caller.uid, caller.gid) if caller else (0, 0)
        index, other = rng.randrange(len(NAMES)), rng.randrange(len(NAMES))
        parent, to = self.directories[index], self.directories[other]
        name, new = rng.choice(NAMES), rng.choice(NAMES)
        mode, kind = rng.choice(MODES), rng.randrange(12)
        flags, times = rng.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)), rng.choice((5, 7))
        now, value = rng.random() < 0.5, rng.choice(LISTS)
        try:
            match kind:
                case 0 | 1:
                    made = {"uid": uid, "gid": gid, "umask": 0o022, "caller": caller}
                    return _shown(await self._make(kind, parent, name, mode, made))
                case 2:
                    return await files.unlink(parent, name, caller=caller)
                case 3:
                    return await files.rmdir(parent, name, caller=caller)
                case 4:
                    return await files.rename(parent, name, to, new, caller=caller)
                case 5:
                    there = await files.lookup(parent, name)
                    return _shown(await files.link(there.ino, to, new, caller=caller))
                case 6:
                    return _shown(await files.lookup(parent, name, caller=caller))
                case 7:
                    there = await files.lookup(parent, name)
                    await files.release(await files.open(there.ino, flags, caller=caller))
                    return None
            target = parent if rng.random() < 0.4 else (await files.lookup(parent, name)).ino
            return await self._set(kind, target, mode, times, value, caller, now=now)
        except FsError as error:
            return errno.errorcode[error.errno]

    async def _make(self, kind: int, parent: int, name: bytes, mode: int, made: Any) -> Attr:
        if kind:
            return await self.files.mkdir(parent, name, mode, **made)
        return await self.files.mknod(parent, name, mode, **made)

    async def _set(
        self, kind: int, ino: int, mode: int, times: int, value: bytes, caller: Caller | None, *,
        now: bool,
    ) -> Any:  # fmt: skip
        files = self.files
        match kind:
            case 8:
                return _shown(await files.setattr(ino, mode=mode, caller=caller))
            case 9:
                return _shown(
                    await files.setattr(ino, atime_ns=times, mtime_ns=times, now=now, caller=caller)
                )
            case 10:
                return _shown(await files.setattr(ino, gid=mode & 3, caller=caller))
            case _:
                name = acl.DEFAULT if now else acl.ACCESS
                return await files.setxattr(ino, name, value, caller=caller)


def _shown(attr: Attr) -> tuple[Any, ...]:
    return attr.mode, attr.uid, attr.gid, attr.nlink, attr.acl, attr.default_acl


@pytest.mark.parametrize("seed", range(10))
def test_ahead_of_the_shard_and_at_it_the_same_is_refused(seed: int) -> None:
    said: list[list[Any]] = []

    async def play(world: World, *, delegate: bool) -> None:
        files = await world.client("a", delegate=delegate)
        walk = Walk(seed, files)
        await walk.begin()
        outcomes = [await walk.step() for _ in range(300)]
        await files.sync()
        assert not files.client.delegations.failed
        assert "EIO" not in outcomes
        if delegate:
            other = await world.client("b")
            for directory in walk.directories:  # what was shown is what is stored
                mine, theirs = await files.getattr(directory), await other.getattr(directory)
                assert _shown(mine) == _shown(theirs)
        said.append(outcomes)

    run(functools.partial(play, delegate=True))
    run(functools.partial(play, delegate=False))
    assert said[0] == said[1], [
        (index, *pair) for index, pair in enumerate(zip(*said, strict=True)) if pair[0] != pair[1]
    ][:5]
    refusals = {outcome for outcome in said[0] if isinstance(outcome, str)}
    assert {"EACCES", "EPERM", "ENOENT"} <= refusals


def test_the_bytes_of_a_refused_truncation_stay() -> None:
    async def scenario(world: World) -> None:
        files = await world.client("a")
        fh, attr = await files.create_file(ROOT_INO, b"f", 0o644, os.O_RDWR, uid=1, gid=1)
        await files.write(fh, 0, b"not committed yet")
        with pytest.raises(FsError) as refused:
            await files.setattr(attr.ino, size=0, caller=Caller(2, 2))
        assert refused.value.errno == errno.EACCES
        assert await files.read(fh, 0, 100) == b"not committed yet"
        with pytest.raises(FsError) as refused:
            await files.open(attr.ino, os.O_RDWR | os.O_TRUNC, caller=Caller(2, 2))
        assert refused.value.errno == errno.EACCES
        assert await files.read(fh, 0, 100) == b"not committed yet"
        await files.open(attr.ino, os.O_RDWR | os.O_TRUNC, caller=Caller(1, 1))
        assert await files.read(fh, 0, 100) == b""

    run(scenario)


def test_numbers_that_nothing_can_have_never_reach_a_lane() -> None:
    async def scenario(world: World) -> None:
        files = await world.client("a")
        made = await files.mknod(ROOT_INO, b"f", stat.S_IFREG | 0o644)
        for change in ({"mtime_ns": 1 << 70}, {"atime_ns": -(1 << 64)}, {"uid": 1 << 40}):
            with pytest.raises(FsError) as refused:
                await files.setattr(made.ino, **change)  # type: ignore[arg-type]
            assert refused.value.errno == errno.EINVAL
        assert (await files.setattr(made.ino, mtime_ns=(1 << 63) - 1)).mtime_ns == (1 << 63) - 1

    run(scenario)
