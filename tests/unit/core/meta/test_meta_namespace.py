"""POSIX details of names that chance would seldom meet."""

from __future__ import annotations

import errno
import stat

import msgspec
import pytest

from cfs.core.api.meta import Attr, Create, Lease, Link, OpResult, Rename, Rmdir, SetAttr, Unlink
from cfs.core.errors import FsError, from_wire
from cfs.core.ids import ROOT_INO, ShardId, SiteId, make_ino
from cfs.core.meta import entries, keys, links, read, records
from cfs.core.meta.commands import ClientOp
from cfs.core.meta.conflict import touched
from tests.model.shard_world import DIR, LNK, REG, SESSION, World, check

FAR = make_ino(SiteId(0), ShardId(1), 77)


def make(
    world: World, name: bytes, mode: int = REG | 0o644, parent: int = ROOT_INO, **more
) -> Attr:
    return world.op(Create(parent=parent, name=name, mode=mode, uid=1, gid=1, **more))[0]


def refusal(world: World, op: ClientOp) -> FsError:
    result: OpResult = world.ops(op)[0]
    assert result.error is not None, op
    error = from_wire(result.error)
    assert isinstance(error, FsError)
    check(world)
    return error


def test_the_root_is_inode_one() -> None:
    root = read.attr(World().kvs[0], ROOT_INO)
    assert (root.mode, root.nlink, root.parent, root.size) == (DIR | 0o755, 2, ROOT_INO, 0)


@pytest.mark.parametrize(
    ("op", "number"),
    [
        (Create(parent=1, name=b"x" * 256, mode=REG, uid=0, gid=0), errno.ENAMETOOLONG),
        (Create(parent=1, name=b"", mode=REG, uid=0, gid=0), errno.EINVAL),
        (Create(parent=1, name=b"a/b", mode=REG, uid=0, gid=0), errno.EINVAL),
        (Create(parent=1, name=b"..", mode=REG, uid=0, gid=0), errno.EEXIST),
        (Create(parent=1, name=b"n", mode=0o644, uid=0, gid=0), errno.EINVAL),
        (Create(parent=1, name=b"n", mode=REG, uid=-1, gid=0), errno.EINVAL),
        (Create(parent=1, name=b"n", mode=LNK, uid=0, gid=0), errno.ENOENT),
        (Create(parent=1, name=b"n", mode=LNK, uid=0, gid=0, target=b"t" * 4096),
         errno.ENAMETOOLONG),
        (Create(parent=99, name=b"n", mode=REG, uid=0, gid=0), errno.ENOENT),
        (Create(parent=(1 << 64) - 1, name=b"n", mode=REG, uid=0, gid=0), errno.EXDEV),
        (Create(parent=-1, name=b"n", mode=REG, uid=0, gid=0), errno.EINVAL),
        (Unlink(parent=1, name=b"x" * 256), errno.ENAMETOOLONG),
        (Unlink(parent=1, name=b"absent"), errno.ENOENT),
        (Rmdir(parent=1, name=b"."), errno.EINVAL),
        (Rmdir(parent=1, name=b".."), errno.ENOTEMPTY),
        (Rename(parent=1, name=b"a", new_parent=1, new_name=b"b", flags=3), errno.EINVAL),
        (Rename(parent=1, name=b".", new_parent=1, new_name=b"b"), errno.EBUSY),
        (Rename(parent=FAR, name=b"a", new_parent=1, new_name=b"b"), errno.EXDEV),
        (Link(ino=FAR, parent=1, name=b"b"), errno.EXDEV),
        (Link(ino=1, parent=1, name=b"b"), errno.EPERM),
        (SetAttr(ino=1, size=0), errno.EISDIR),
        (SetAttr(ino=1, mode=1 << 20), errno.EINVAL),
        (SetAttr(ino=1, mtime_ns=1 << 63), errno.EINVAL),
        (SetAttr(ino=99, mode=0), errno.ENOENT),
    ],
)  # fmt: skip
def test_refusals(op: ClientOp, number: int) -> None:
    world = World()
    error = refusal(world, op)
    assert error.errno == number, error
    assert ("cross" in error.detail) == (number == errno.EXDEV)


def test_who_is_there_already() -> None:
    world = World()
    there = make(world, b"n")
    error = refusal(world, Create(parent=1, name=b"n", mode=REG, uid=0, gid=0))
    assert error.errno == errno.EEXIST
    assert msgspec.convert(error.detail["attr"], Attr) == there


def test_setgid_passes_the_group_on_and_to_directories_itself() -> None:
    world = World()
    parent = make(world, b"d", DIR | 0o2755)
    world.op(SetAttr(ino=parent.ino, gid=42))
    assert make(world, b"f", REG | 0o644, parent.ino).gid == 42
    directory = make(world, b"s", DIR | 0o755, parent.ino)
    assert (directory.gid, directory.mode) == (42, DIR | 0o2755)


def test_times_move_as_posix_says() -> None:
    world = World()
    file, root = world.op(Create(parent=1, name=b"f", mode=REG, uid=0, gid=0))
    assert root.mtime_ns == root.ctime_ns == file.ctime_ns == file.btime_ns
    linked, after = world.op(Link(ino=file.ino, parent=1, name=b"g"))
    assert (linked.mtime_ns, linked.nlink) == (file.mtime_ns, 2)
    assert linked.ctime_ns == after.mtime_ns == after.ctime_ns > root.ctime_ns
    changed = world.op(SetAttr(ino=file.ino, atime_ns=-5, mtime_ns=6))[0]
    assert (changed.atime_ns, changed.mtime_ns) == (-5, 6)
    assert changed.ctime_ns > linked.ctime_ns
    assert (changed.version, changed.data_version) == (3, 1)
    resized = world.op(SetAttr(ino=file.ino, size=9))[0]
    assert resized.mtime_ns == resized.ctime_ns
    assert resized.data_version == 2


def test_the_clock_never_goes_back() -> None:
    world = World()
    before = make(world, b"a")
    world.time_ns -= 10**15
    after = make(world, b"b")
    assert after.btime_ns > before.btime_ns


def test_renaming_one_name_of_an_inode_to_another_does_nothing() -> None:
    world = World()
    file = make(world, b"a")
    world.op(Link(ino=file.ino, parent=1, name=b"b"))
    before = read.attr(world.kvs[0], 1)
    moved, old, new = world.op(Rename(parent=1, name=b"a", new_parent=1, new_name=b"b"))
    assert moved.nlink == 2
    assert old == new == before


def test_links_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "NLINK_MAX", 4)
    world = World()
    file, top = make(world, b"f"), make(world, b"t", DIR)
    make(world, b"x", DIR, top.ino)
    make(world, b"y", DIR, top.ino)
    for name in (b"g", b"h", b"i"):
        world.op(Link(ino=file.ino, parent=1, name=name))
    assert refusal(world, Link(ino=file.ino, parent=1, name=b"j")).errno == errno.EMLINK
    for name in (b"z", b"zz", b"zzz"):
        make(world, name, DIR, top.ino)
    assert read.attr(world.kvs[0], top.ino).nlink == 7, "not of subdirectories"
    rename = Rename(parent=1, name=b"t", new_parent=top.ino, new_name=b"n")
    assert refusal(world, rename).errno == errno.EINVAL


def test_a_removed_directory_takes_no_entries_and_lists_none() -> None:
    world = World()
    gone = make(world, b"d", DIR)
    removed, root = world.op(Rmdir(parent=1, name=b"d"))
    assert (removed.nlink, root.nlink) == (0, 2)
    op = Create(parent=gone.ino, name=b"x", mode=REG, uid=0, gid=0)
    assert refusal(world, op).errno == errno.ENOENT
    assert read.listing(world.kvs[0], gone.ino, 0, 10) == ((), True)


def test_an_ancestry_that_leaves_the_shard_asks_for_a_transaction() -> None:
    world = World(2)
    near = make(world, b"near", DIR)
    below = make(world, b"below", DIR, near.ino)
    kv = world.kvs[0]
    inode = records.INODE.decode(kv.get(keys.inode(near.ino)) or b"")
    away = msgspec.structs.replace(inode, parent=FAR)
    kv.put(keys.inode(near.ino), records.INODE.encode(away, 0))
    make(world, b"other", DIR)
    op = Rename(parent=1, name=b"other", new_parent=below.ino, new_name=b"o")
    error = from_wire(world.ops(op)[0].error or [])
    assert error.errno == errno.EXDEV
    assert error.detail == {"cross": True}


def test_names_of_one_hash_keep_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "name_hash", lambda name: 5)
    world = World()
    for n in range(keys.SLOTS_MAX):
        make(world, b"n%d" % n)
    assert refusal(world, Create(parent=1, name=b"m", mode=REG, uid=0, gid=0)).errno == errno.ENOSPC
    world.op(Unlink(parent=1, name=b"n3"))
    make(world, b"m")
    listed, end = read.listing(world.kvs[0], 1, keys.cookie(5, 1), 3)
    assert [e.name for e in listed] == [b"n2", b"m", b"n4"]
    assert [e.cookie for e in listed] == [keys.cookie(5, n) for n in (2, 3, 4)]
    assert not end
    assert entries.find(world.kvs[0], 1, b"n15") is not None


def test_create_may_grant_the_write_lease() -> None:
    world = World()
    ino = make(world, b"f", lease=Lease.READ | Lease.WRITE).ino
    assert read.write_lease(world.kvs[0], ino) == SESSION
    assert read.write_lease(world.kvs[0], make(world, b"d", DIR, lease=3).ino) == SESSION


def test_special_files_keep_what_they_are() -> None:
    world = World()
    device = make(world, b"dev", stat.S_IFBLK | 0o600, rdev=259)
    assert (device.mode, device.rdev) == (stat.S_IFBLK | 0o600, 259)
    link = make(world, b"l", LNK | 0o777, target=b"../x")
    assert (link.target, link.size) == (b"../x", 4)


def test_what_an_operation_touches() -> None:
    world = World()
    directory, file = make(world, b"d", DIR), make(world, b"f")
    kv = world.kvs[0]
    rename = Rename(parent=1, name=b"f", new_parent=directory.ino, new_name=b"g")
    seen = touched(kv, rename)
    assert seen.inos == (1, directory.ino, file.ino)
    assert seen.names == ((1, b"f"), (directory.ino, b"g"))
    assert seen.shards == frozenset({0})
    assert touched(kv, Unlink(parent=1, name=b"f")).inos == (1, file.ino)
    assert touched(kv, Link(ino=FAR, parent=1, name=b"x")).shards == frozenset({0, 1})
