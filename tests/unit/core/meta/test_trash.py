"""The trash of a shard: what is removed stays with where it was, comes back, or goes for good."""

from __future__ import annotations

import errno

import pytest

from cfs.core.api.meta import Create, Link, MakeOrphan, Rename, Rmdir, Unlink
from cfs.core.errors import FsError
from cfs.core.meta import read, trash
from cfs.core.meta.commands import Adjust, Detach, EmptyTrash, Reclaim, SetTrash, TxnDecide
from tests.model.shard_world import DIR, REG, World, check
from tests.model.test_shard import Machine, tree


def make(world: World, parent: int, name: bytes, mode: int = REG | 0o644) -> int:
    return world.op(Create(parent=parent, name=name, mode=mode, uid=1, gid=2))[0].ino


def lying(world: World) -> list[tuple[int, int, bytes]]:
    return [(t.ino, t.parent, t.name) for t in trash.listing(world.kvs[0], b"", 100)]


def test_what_is_removed_lies_in_the_trash_with_where_it_was() -> None:
    world = World()
    world.one(0, SetTrash(keep_s=100))
    top = make(world, 1, b"top", DIR | 0o755)
    file, other = make(world, top, b"f"), make(world, top, b"g")
    world.op(Link(ino=other, parent=1, name=b"twin"))
    assert world.op(Unlink(parent=top, name=b"f"))[0].nlink == 0
    world.op(Unlink(parent=top, name=b"g"))
    world.op(Rmdir(parent=1, name=b"top"))
    assert lying(world) == [(file, top, b"f"), (top, 1, b"top")]
    assert read.orphans(world.kvs[0], 0, 10) == ()
    assert world.one(0, Reclaim(ino=file)).done
    assert read.attr(world.kvs[0], file).nlink == 0
    check(world)
    world.op(Link(ino=file, parent=1, name=b"back"))
    assert lying(world) == [(top, 1, b"top")]
    assert read.attr(world.kvs[0], file).nlink == 1
    check(world)


def test_what_is_replaced_or_never_had_a_name_does_not_come_there() -> None:
    world = World()
    world.one(0, SetTrash(keep_s=100))
    make(world, 1, b"a"), make(world, 1, b"b")
    world.op(Rename(parent=1, name=b"a", new_parent=1, new_name=b"b"))
    world.op(MakeOrphan(parent=1, mode=REG | 0o600, uid=1, gid=1))
    assert lying(world) == []
    assert len(read.orphans(world.kvs[0], 0, 10)) == 2
    check(world)


def test_the_trash_is_emptied_by_age_and_by_name() -> None:
    world = World()
    world.one(0, SetTrash(keep_s=3600))
    inos = []
    for number in range(4):
        inos.append(make(world, 1, b"f%d" % number))
        world.op(Unlink(parent=1, name=b"f%d" % number))
    kv = world.kvs[0]
    stamps = [t.stamp for t in trash.listing(kv, b"", 10)]
    assert trash.is_due(kv, stamps[0] + 3600 * 10**9) == 0
    before = trash.is_due(kv, stamps[1] + 3600 * 10**9 + 1)
    assert world.one(0, EmptyTrash(before_ns=before)).inos == tuple(inos[:2])
    assert world.one(0, EmptyTrash(inos=(inos[3], 999))).inos == (inos[3],)
    assert [i for i, _, _ in lying(world)] == [inos[2]]
    assert set(read.orphans(kv, 0, 10)) == {inos[0], inos[1], inos[3]}
    assert world.one(0, Reclaim(ino=inos[0])).done
    with pytest.raises(FsError) as gone:
        read.attr(kv, inos[0])
    assert gone.value.errno == errno.ENOENT
    world.one(0, SetTrash(keep_s=0))
    assert trash.is_due(kv, world.time_ns + 10)
    check(world)


def test_a_part_of_a_transaction_throws_away_too() -> None:
    world = World()
    world.one(0, SetTrash(keep_s=10))
    file = make(world, 1, b"f")
    steps = (
        Adjust(ino=file, nlink_delta=-1, thrown_from=(1, b"f")),
        Detach(parent=1, name=b"f", ino=file),
    )
    assert world.one(0, TxnDecide(txid=b"t", commit=True, steps=steps)).commit
    assert lying(world) == [(file, 1, b"f")]
    check(world)


class MachineWithTrash(Machine):
    """Links nothing that lies in the trash: that is what undeletes it, and the model has none."""

    def pick(self, *kinds: str) -> tree.Node:
        for _ in range(20):
            node = super().pick(*kinds)
            if node.kind == "dir" or node.nlink or node.linkable:
                return node
        return self.root


@pytest.mark.parametrize("seed", range(4))
def test_names_behave_the_same_with_a_trash(seed: int) -> None:
    machine = MachineWithTrash(seed, dirs=12)
    machine.world.one(0, SetTrash(keep_s=1))
    weights = {"create": 6, "unlink": 4, "rmdir": 3, "link": 4, "rename": 8, "write": 2,
               "reclaim": 1, "unnamed": 1}  # fmt: skip
    machine.run(400, weights)
    while thrown := [t.ino for t in trash.listing(machine.kv, b"", 50)]:
        machine.world.one(0, EmptyTrash(inos=tuple(thrown)))
        for ino in thrown:
            while not machine.world.one(0, Reclaim(ino=ino)).done:
                pass
    check(machine.world)
    assert read.totals(machine.kv).inodes == len(machine.nodes)
