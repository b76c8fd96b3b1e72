"""Counting of quotas: exact, refused whole, trees that names do not leave."""

import errno
import stat

import pytest
from msgspec.structs import replace

from cfs.core.api.meta import Commit, Create, Link, Rename, SetAttr, Unlink
from cfs.core.api.quota import GROUP, TREE, USER, Charge, Domain
from cfs.core.errors import FsError, Refused
from cfs.core.ids import ROOT_INO
from cfs.core.meta import keys, needs, quota
from cfs.core.meta.commands import (
    DropLeases,
    MakeInode,
    MarkTree,
    SetCaps,
    SetTrash,
    TxnFinish,
    TxnPrepare,
)
from cfs.core.meta.quota_commands import Cap
from cfs.core.meta.records import STATE
from tests.model.shard_world import DIR, REG, SESSION, World, check, inline

ALICE = Domain(USER, 1000)


def make(world, name, *, parent=ROOT_INO, mode=REG | 0o644, uid=1000, gid=100, lease=2, target=b""):
    op = Create(parent=parent, name=name, mode=mode, uid=uid, gid=gid, lease=lease, target=target)
    return world.op(op)[0].ino


def write(world, ino, size):
    return world.op(Commit(ino=ino, extents=(inline(0, size, 1),), size=size))


def caps(world, domain, *, size=-2, inodes=-2, version=1):
    cap = Cap(domain=domain, bytes=size, inodes=inodes)
    return world.one(0, SetCaps(term=1, caps=(cap,), version=version)).rows[0]


def used(world, domain):
    there = quota.usage(world.kvs[0], domain)
    return there.bytes, there.inodes


def refused(world, op):
    with pytest.raises(FsError) as error:
        world.op(op)
    assert error.value.errno == errno.EDQUOT
    check(world)


def test_everything_made_written_cut_and_removed_is_counted():
    world = World()
    ino = make(world, b"f")
    write(world, ino, 100)
    make(world, b"l", mode=stat.S_IFLNK | 0o777, target=b"12345")
    assert used(world, ALICE) == (105, 2)
    world.op(SetAttr(ino=ino, size=40))
    assert used(world, ALICE) == (45, 2)
    world.op(SetAttr(ino=ino, uid=1001))
    assert used(world, ALICE) == (5, 1)
    assert used(world, Domain(USER, 1001)) == (40, 1)
    world.op(Unlink(parent=ROOT_INO, name=b"f"))
    assert used(world, Domain(USER, 1001)) == (40, 1), "unlinked and open: still there"
    check(world)


def test_what_does_not_fit_is_refused_whole():
    world = World()
    caps(world, ALICE, size=100, inodes=3)
    ino = make(world, b"a")
    make(world, b"b")
    refused(world, SetAttr(ino=ino, size=101))
    refused(world, Commit(ino=ino, extents=(inline(0, 101, 1),), size=101))
    write(world, ino, 100)
    make(world, b"c")
    refused(world, Create(parent=ROOT_INO, name=b"d", mode=REG, uid=1000, gid=1))
    other = make(world, b"d", uid=1001)
    refused(world, SetAttr(ino=other, uid=1000))
    assert used(world, ALICE) == (100, 3)


def test_a_charge_is_room_that_others_do_not_get():
    world = World()
    caps(world, ALICE, size=1000)
    one, two = make(world, b"a"), make(world, b"b")
    attr = world.op(Charge(ino=one, size=400, want=10_000))[0]
    assert attr.charged == 400 + 600 // 8
    refused(world, Charge(ino=two, size=700, want=700))
    write(world, one, 300)
    assert quota.usage(world.kvs[0], ALICE).held == attr.charged - 300
    world.op(Charge(ino=one, size=0))
    world.op(Charge(ino=two, size=700))
    check(world)
    world.apply(0, DropLeases(session=SESSION, inos=(two,)))
    assert quota.usage(world.kvs[0], ALICE).held == 0, "it goes with the lease"
    check(world)


def test_caps_are_not_lowered_below_what_is_used_and_old_leaders_set_none():
    world = World()
    write(world, make(world, b"a"), 500)
    row = caps(world, ALICE, size=100)
    assert (row.cap_bytes, row.bytes) == (500, 500)
    assert caps(world, ALICE, size=600).cap_bytes == 600
    with pytest.raises(Refused):
        world.one(0, SetCaps(term=0, caps=()))


def test_names_do_not_cross_the_edge_of_a_tree():
    world = World()
    tree, beside = (make(world, name, mode=DIR | 0o755) for name in (b"tree", b"beside"))
    inside = make(world, b"in", parent=tree)
    below = make(world, b"below", parent=tree, mode=DIR | 0o755)
    outside = make(world, b"out", parent=beside)
    first = world.one(0, MarkTree(ino=tree, project=tree, was=0))
    assert first.ino == below
    world.one(0, MarkTree(ino=below, project=tree, was=0))
    marked = world.one(0, MarkTree(ino=tree, project=tree, was=0, hash58=first.hash58,
                                   slot=first.slot))  # fmt: skip
    assert marked.end
    assert used(world, Domain(TREE, tree)) == (2, 3)
    for op in (
        Rename(parent=tree, name=b"in", new_parent=beside, new_name=b"x"),
        Rename(parent=beside, name=b"out", new_parent=tree, new_name=b"x"),
        Rename(parent=beside, name=b"out", new_parent=tree, new_name=b"in", flags=2),
        Rename(parent=ROOT_INO, name=b"beside", new_parent=tree, new_name=b"x"),
        Link(ino=inside, parent=beside, name=b"x"),
        Link(ino=outside, parent=tree, name=b"x"),
    ):
        with pytest.raises(FsError) as error:
            world.op(op)
        assert error.value.errno == errno.EXDEV
        assert not error.value.detail.get("cross")
    world.op(Rename(parent=tree, name=b"in", new_parent=below, new_name=b"in"))
    world.op(Rename(parent=ROOT_INO, name=b"tree", new_parent=beside, new_name=b"moved"))
    assert make(world, b"new", parent=below)
    assert used(world, Domain(TREE, tree))[1] == 4
    check(world)


def test_trash_does_not_count_until_it_comes_back():
    world = World()
    world.one(0, SetTrash(keep_s=60))
    ino = make(world, b"f")
    write(world, ino, 100)
    world.op(Unlink(parent=ROOT_INO, name=b"f"))
    assert used(world, ALICE) == (0, 0)
    check(world)
    caps(world, ALICE, size=50)
    refused(world, Link(ino=ino, parent=ROOT_INO, name=b"f"))
    caps(world, ALICE, size=100)
    world.op(Link(ino=ino, parent=ROOT_INO, name=b"f"))
    assert used(world, ALICE) == (100, 1)
    check(world)


def test_a_directory_of_another_shard_is_promised_its_inode():
    world = World(2)
    cap = Cap(domain=ALICE, inodes=1)
    world.one(1, SetCaps(term=1, caps=(cap,), version=1))
    step = MakeInode(parent=ROOT_INO, mode=DIR | 0o755, uid=1000, gid=100)
    world.one(1, TxnPrepare(txid=b"one", coordinator=0, steps=(step,)))
    with pytest.raises(FsError) as error:
        world.one(1, TxnPrepare(txid=b"two", coordinator=0, steps=(step,)))
    assert error.value.errno == errno.EDQUOT
    world.one(1, TxnFinish(txid=b"one", commit=False))
    assert quota.usage(world.kvs[1], ALICE).promised == 0
    world.one(1, TxnPrepare(txid=b"three", coordinator=0, steps=(step,)))
    world.one(1, TxnFinish(txid=b"three", commit=True))
    there = quota.usage(world.kvs[1], ALICE)
    assert (there.inodes, there.promised) == (1, 0)


def test_a_shard_older_than_quotas_counts_what_it_has():
    world = World()
    inos = [make(world, b"%d" % n) for n in range(600)]
    kv = world.kvs[0]
    for domain, _ in list(quota.usages(kv)):
        kv.delete(keys.usage(domain.kind, domain.id))
    kv.put(keys.STATE, STATE.encode(replace(STATE.decode(kv.get(keys.STATE)), counted=0), 0))
    with pytest.raises(Refused):
        caps(world, ALICE, inodes=1000)
    for n in range(4):
        write(world, inos[n * 150], 10)
    assert used(world, ALICE) == (40, 600)
    assert used(world, Domain(GROUP, 100))[1] == 600
    check(world)


def test_needs_are_seen_before_they_are_refused():
    world = World()
    caps(world, ALICE, size=100, inodes=1)
    ino = make(world, b"a")
    kv = world.kvs[0]
    (want,) = needs.lacking(kv, [Charge(ino=ino, size=101)])
    assert (want.domain, want.bytes, want.inodes) == (ALICE, 101, 0)
    (want,) = needs.lacking(kv, [Create(parent=ROOT_INO, name=b"b", mode=REG, uid=1000, gid=1)])
    assert want.inodes == 1
    assert not needs.lacking(kv, [SetAttr(ino=ino, size=100)])
