"""Transactions, one case at a time: what is held, who is told, what a repeat does."""

from __future__ import annotations

import errno

import pytest

from cfs.core.api.meta import Attr, Create, Link, OpResult, Rename, Rmdir, SetAttr, Unlink
from cfs.core.errors import CfsError, FsError, Locked, Refused, Unavailable, from_wire
from cfs.core.meta import read
from cfs.core.meta.commands import (
    Adjust,
    Attach,
    ClientOp,
    Detach,
    Empty,
    MakeInode,
    Reclaim,
    RenameLock,
    Stay,
    Step,
    TxnDecide,
    TxnFinish,
    TxnForget,
    TxnPrepare,
)
from cfs.core.meta.intents import Phase
from cfs.core.meta.results import Decided, Done, Finished, Prepared
from tests.model.shard_world import DIR, REG, SESSION, World, check

TX, TY = b"tx", b"ty"


def make(world: World, name: bytes, mode: int = REG | 0o644, parent: int = 1) -> int:
    return world.op(Create(parent=parent, name=name, mode=mode, uid=0, gid=0))[0].ino


def prepare(world: World, shard: int, *steps: Step, txid: bytes = TX) -> Prepared:
    result = world.one(shard, TxnPrepare(txid=txid, coordinator=0, steps=steps))
    assert isinstance(result, Prepared)
    return result


def locked(world: World, op: ClientOp) -> None:
    result = world.ops(op, SetAttr(ino=1, mode=0o700))
    for one in result:
        assert one.error is not None, op
        error = from_wire(one.error)
        assert isinstance(error, Locked)
        assert error.detail == {"txid": TX, "coordinator": 0}


def remote_directory(world: World, name: bytes = b"far") -> int:
    """Make a directory of the root whose inode is in shard 1."""
    made = prepare(world, 1, MakeInode(parent=1, mode=DIR | 0o755, uid=0, gid=0), txid=name)
    ino = made.inos[0]
    attach = Attach(parent=1, name=name, ino=ino, kind=DIR)
    decided = world.one(0, TxnDecide(txid=name, commit=True, steps=(attach,)))
    assert decided.commit
    attr = world.one(1, TxnFinish(txid=name, commit=True, token=made.token)).attrs[0]
    assert (attr.nlink, attr.parent, attr.size) == (2, 1, 0)
    for shard in (0, 1):
        world.one(shard, TxnForget(txid=name))
    check(world)
    return ino


def test_what_is_in_another_shard_is_left_to_a_transaction() -> None:
    world = World(2)
    far = remote_directory(world)
    make(world, b"f")
    for op in (
        Rmdir(parent=1, name=b"far"),
        Rename(parent=1, name=b"f", new_parent=far, new_name=b"g"),
        Rename(parent=1, name=b"far", new_parent=1, new_name=b"h"),
        Rename(parent=1, name=b"f", new_parent=1, new_name=b"far", flags=2),
        Link(ino=far, parent=1, name=b"x"),
    ):
        error = from_wire(world.ops(op)[0].error or [])
        assert (error.errno, error.detail) == (errno.EXDEV, {"cross": True}), op
    entry = read.lookup(world.kvs[0], 1, b"far")
    assert entry is not None
    assert (entry.ino, entry.kind, entry.attr) == (far, DIR, None)


def test_a_prepared_part_holds_names_inodes_and_directories() -> None:
    world = World(2)
    directory = make(world, b"d", DIR | 0o755)
    file, empty = make(world, b"f"), make(world, b"e", DIR | 0o755)
    other = make(world, b"o", DIR | 0o755)
    prepare(
        world, 0,
        Attach(parent=directory, name=b"n", ino=1 << 47 | 5, kind=REG),
        Adjust(ino=file), Empty(ino=empty), Stay(ino=other, parent=1), RenameLock(),
    )  # fmt: skip
    for op in (
        Create(parent=directory, name=b"n", mode=REG, uid=0, gid=0),
        Rmdir(parent=1, name=b"d"),
        Unlink(parent=1, name=b"f"),
        Link(ino=file, parent=1, name=b"g"),
        Create(parent=empty, name=b"x", mode=REG, uid=0, gid=0),
        Rmdir(parent=1, name=b"e"),
        Rename(parent=1, name=b"o", new_parent=directory, new_name=b"o"),
        Rename(parent=1, name=b"o", new_parent=1, new_name=b"d"),
        Rename(parent=1, name=b"f", new_parent=1, new_name=b"q"),
        Rename(parent=1, name=b"f", new_parent=directory, new_name=b"n"),
    ):
        locked(world, op)
    kv = world.kvs[0]
    assert read.locked(kv, (directory, b"n")) == (TX, 0)
    assert read.locked(kv, (directory, b"m")) is None
    assert read.locked(kv, file) == (TX, 0)
    assert read.locked(kv, directory) == (TX, 0)
    assert read.locked(kv, other) is None
    for step in (RenameLock(), Adjust(ino=file), Adjust(ino=other, parent=1), Empty(ino=other)):
        with pytest.raises(Locked):
            prepare(world, 0, step, txid=TY)
    world.op(Create(parent=directory, name=b"m", mode=REG, uid=0, gid=0))
    world.op(SetAttr(ino=file, mode=0o600))
    world.op(Rename(parent=1, name=b"o", new_parent=1, new_name=b"o2"))
    check(world, unlocked=False)
    world.one(0, TxnFinish(txid=TX, commit=False))
    check(world)
    world.op(Unlink(parent=1, name=b"f"))
    world.op(Rmdir(parent=1, name=b"e"))


def test_a_walk_that_meets_a_moving_directory_waits() -> None:
    world = World()
    moving = make(world, b"m", DIR | 0o755)
    below = make(world, b"b", DIR | 0o755, moving)
    make(world, b"o", DIR | 0o755)
    prepare(world, 0, Adjust(ino=moving, parent=1))
    locked(world, Rename(parent=1, name=b"o", new_parent=below, new_name=b"o"))


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (Attach(parent=1, name=b"f", ino=99, kind=REG), errno.EEXIST),
        (Attach(parent=77, name=b"f", ino=99, kind=REG), errno.ENOENT),
        (Attach(parent=3, name=b"x", ino=99, kind=REG), errno.ENOTDIR),
        (Attach(parent=1, name=b"d", ino=99, kind=REG, replaces=2), errno.EISDIR),
        (Attach(parent=1, name=b"f", ino=99, kind=DIR, replaces=3), errno.ENOTDIR),
        (Detach(parent=1, name=b"x", ino=3), errno.ENOENT),
        (MakeInode(parent=1, mode=REG, uid=0, gid=0), errno.EINVAL),
        (Adjust(ino=77), errno.ENOENT),
        (Adjust(ino=2, nlink_delta=1), errno.EPERM),
        (Adjust(ino=3, nlink_delta=2), errno.EINVAL),
        (Adjust(ino=3, parent=1), errno.ENOTDIR),
        (Empty(ino=2), errno.ENOTEMPTY),
        (Empty(ino=3), errno.ENOTDIR),
    ],
)
def test_a_step_that_cannot_be_refuses_all(step: Step, number: int) -> None:
    world = World()
    directory = make(world, b"d", DIR | 0o755)
    assert (directory, make(world, b"f")) == (2, 3)
    make(world, b"x", REG, directory)
    with pytest.raises(FsError) as refused:
        prepare(world, 0, Stay(ino=2, parent=1), step)
    assert refused.value.errno == number
    check(world)
    assert read.open_transactions(world.kvs[0]) == ()


def test_a_stale_plan_is_told_to_look_again() -> None:
    world = World()
    make(world, b"d", DIR | 0o755)
    make(world, b"f")
    for step in (
        Detach(parent=1, name=b"f", ino=2),
        Attach(parent=1, name=b"f", ino=9, kind=REG, replaces=2),
        Attach(parent=1, name=b"absent", ino=9, kind=REG, replaces=2),
        Stay(ino=2, parent=3),
    ):
        with pytest.raises(Unavailable):
            prepare(world, 0, step)


def test_messages_may_be_repeated() -> None:
    world = World(2)
    directory = make(world, b"d", DIR | 0o755)
    step = MakeInode(parent=directory, mode=DIR | 0o700, uid=1, gid=2)
    first, again = prepare(world, 1, step), prepare(world, 1, step)
    assert first == again
    with pytest.raises(Unavailable):
        prepare(world, 1, RenameLock())
    finished = world.one(1, TxnFinish(txid=TX, commit=True, token=first.token))
    assert [a.ino for a in finished.attrs] == list(first.inos)
    assert world.one(1, TxnFinish(txid=TX, commit=True, token=first.token)) == Finished()
    assert world.one(1, TxnFinish(txid=TX, commit=False)) == Finished()
    with pytest.raises(Refused):
        prepare(world, 1, step)
    assert read.totals(world.kvs[1]).inodes == 1


def test_a_late_preparation_cannot_be_finished_by_a_late_finish() -> None:
    world = World()
    file = make(world, b"f")
    step = Adjust(ino=file, nlink_delta=1)
    attach = Attach(parent=1, name=b"g", ino=file, kind=REG)
    made = prepare(world, 0, step, attach)
    finish = TxnFinish(txid=TX, commit=True, token=made.token)
    world.one(0, finish)
    world.one(0, TxnForget(txid=TX))
    world.op(Unlink(parent=1, name=b"g"))
    late = prepare(world, 0, step, attach)
    assert late.token != made.token
    assert world.one(0, finish) == Finished()
    assert read.attr(world.kvs[0], file).nlink == 1
    assert not world.one(0, TxnDecide(txid=TX, commit=False)).commit
    check(world)


def test_an_abort_before_the_preparation_is_remembered() -> None:
    world = World()
    assert world.one(0, TxnFinish(txid=TX, commit=False)) == Finished()
    with pytest.raises(Refused):
        prepare(world, 0, RenameLock())
    world.one(0, TxnForget(txid=TX))
    prepare(world, 0, RenameLock())
    with pytest.raises(Refused):
        world.one(0, TxnForget(txid=TX))


def test_the_first_decision_stands() -> None:
    world = World()
    assert world.one(0, TxnDecide(txid=TX, commit=False)) == Decided(commit=False)
    answer = OpResult()
    wish = TxnDecide(txid=TX, commit=True, session=SESSION, seq=1, answer=answer)
    assert not world.one(0, wish).commit
    assert read.answer(world.kvs[0], SESSION, 1) is None
    assert world.one(0, TxnDecide(txid=TY, commit=True)).commit
    assert world.one(0, TxnDecide(txid=TY, commit=False)).commit
    found = {t.txid: (t.decided, t.coordinator) for t in read.open_transactions(world.kvs[0])}
    assert found == {TX: (False, 0), TY: (True, 0)}


def test_deciding_prepares_applies_and_answers_in_one_entry() -> None:
    world = World()
    file = make(world, b"f")
    steps = (Adjust(ino=file, nlink_delta=1), Attach(parent=1, name=b"g", ino=file, kind=REG))
    wish = TxnDecide(txid=TX, commit=True, session=SESSION, seq=2, answer=OpResult(), steps=steps)
    decided = world.one(0, wish)
    assert decided.commit
    assert [a.nlink for a in decided.attrs] == [2, 2]
    assert world.one(0, wish) == Decided(commit=True)
    assert read.answer(world.kvs[0], SESSION, 2) == OpResult()
    full = OpResult(attrs=tuple(a for a in decided.attrs if isinstance(a, Attr)))
    assert world.one(0, TxnForget(txid=TX, answer=full)) == Done()
    assert read.answer(world.kvs[0], SESSION, 2) == full
    assert not world.one(0, wish).commit, "its number was answered: a late repeat aborts"
    check(world)


def test_a_part_that_cannot_be_decides_to_abort_and_leaves_the_operation_open() -> None:
    world = World()
    make(world, b"f")
    step = Attach(parent=1, name=b"f", ino=9, kind=REG)
    wish = TxnDecide(txid=TX, commit=True, session=SESSION, seq=2, answer=OpResult(), steps=(step,))
    decided = world.one(0, wish)
    assert not decided.commit
    assert from_wire(decided.error).errno == errno.EEXIST
    assert read.answer(world.kvs[0], SESSION, 2) is None, "its driver plans anew, or refuses it"
    stale = TxnDecide(
        txid=TY, commit=True, session=SESSION, seq=3, answer=OpResult(),
        steps=(Detach(parent=1, name=b"f", ino=9),),
    )  # fmt: skip
    assert isinstance(from_wire(world.one(0, stale).error), Unavailable)
    assert read.answer(world.kvs[0], SESSION, 3) is None
    check(world)


def test_an_orphan_in_a_transaction_is_not_reclaimed() -> None:
    world = World()
    file = make(world, b"f")
    prepare(world, 0, Adjust(ino=file, nlink_delta=-1), Detach(parent=1, name=b"f", ino=file))
    with pytest.raises(CfsError):
        world.one(0, Reclaim(ino=file))
    assert world.one(0, TxnFinish(txid=TX, commit=True)).attrs[0].nlink == 0
    assert read.orphans(world.kvs[0], 0, 9) == (file,)
    assert world.one(0, Reclaim(ino=file)).done
    phases = [t.phase for t in read.open_transactions(world.kvs[0])]
    assert phases == [Phase.COMMITTED]
    check(world)


def test_moving_a_directory_across_shards_and_back() -> None:
    world = World(2)
    far = remote_directory(world)
    near = make(world, b"near", DIR | 0o755)
    there = (Attach(parent=far, name=b"n", ino=near, kind=DIR), Stay(ino=far, parent=1))
    made = prepare(world, 1, *there)
    own = (Detach(parent=1, name=b"near", ino=near), Adjust(ino=near, parent=far), RenameLock())
    decided = world.one(0, TxnDecide(txid=TX, commit=True, steps=own))
    assert decided.commit
    assert [a and a.ino for a in decided.attrs] == [1, near, None]
    attr = world.one(1, TxnFinish(txid=TX, commit=True, token=made.token)).attrs[0]
    assert (attr.nlink, attr.size) == (3, 1)
    check(world)
    assert read.attr(world.kvs[0], near).parent == far
