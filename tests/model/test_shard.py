"""A shard against a POSIX tree in dictionaries: same answers, same errno, same bytes."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from cfs.core.api.meta import (
    Acquire,
    Commit,
    CopyRange,
    Create,
    Extent,
    Lease,
    Link,
    Lock,
    MakeOrphan,
    RemoveXattr,
    Rename,
    Rmdir,
    SetAttr,
    SetXattr,
    Unlink,
)
from cfs.core.api.store import ChunkRef
from cfs.core.errors import FsError, from_wire
from cfs.core.ids import ROOT_INO
from cfs.core.meta import read, trimming
from cfs.core.meta.commands import ClientOp, Pack, Reclaim
from tests.model import tree_model as tree
from tests.model.shard_world import DIR, LNK, REG, World, check, chunk, inline, labels

KINDS = {"dir": DIR, "file": REG, "link": LNK}
NAMES = [b"a", b"b", b"c", b"d", b"e"]


class Machine:
    """One random history, in a shard and in the model."""

    def __init__(self, seed: int, *, dirs: int) -> None:
        self.random = random.Random(seed)
        self.world = World()
        self.root = tree.Node("dir", 0o755, 0, 0)
        self.inos: dict[int, int] = {id(self.root): ROOT_INO}
        self.nodes = [self.root]
        self.dirs_max = dirs
        self.label = 0
        self.trimmed = 0

    @property
    def kv(self):
        return self.world.kvs[0]

    def ino(self, node: tree.Node) -> int:
        return self.inos[id(node)]

    def pick(self, *kinds: str) -> tree.Node:
        live = [n for n in self.nodes if not kinds or n.kind in kinds]
        return self.random.choice(live or [self.root])

    def directory(self) -> tree.Node:
        return self.pick("dir") if self.random.random() < 0.9 else self.pick()

    def name(self) -> bytes:
        return self.random.choice(NAMES)

    def both(self, op: ClientOp, model) -> object:
        """Run in both; the same refusal or success. Give what the model gave, and attributes."""
        result = self.world.ops(op)[0]
        given, expected = None, 0
        try:
            given = model()
        except tree.Refusal as refusal:
            expected = refusal.errno
        error = None if result.error is None else from_wire(result.error)
        assert error is None or isinstance(error, FsError)
        assert (0 if error is None else error.errno) == expected, (op, error, expected)
        self.attrs = result.attrs
        return given

    # --- rules

    def create(self) -> None:
        parent, name = self.directory(), self.name()
        kind = self.random.choice(["dir", "file", "file", "link"])
        if kind == "dir" and sum(n.kind == "dir" for n in self.nodes) > self.dirs_max:
            kind = "file"
        mode = self.random.choice([0o644, 0o700, 0o2755])
        op = Create(
            parent=self.ino(parent), name=name, mode=KINDS[kind] | mode, uid=5,
            gid=self.random.choice([5, 6]), target=b"t" if kind == "link" else b"",
            lease=Lease.WRITE if self.random.random() < 0.5 else 0,
        )  # fmt: skip
        node = self.both(op, lambda: tree.create(parent, name, kind, mode, op.uid, op.gid))
        if node is not None:
            self.nodes.append(node)
            self.inos[id(node)] = self.attrs[0].ino
            if kind == "link":
                node.data = [(0, 0)]

    def unlink(self) -> None:
        parent, name = self.directory(), self.name()
        op = Unlink(parent=self.ino(parent), name=name)
        self.both(op, lambda: tree.unlink(parent, name))

    def rmdir(self) -> None:
        parent, name = self.directory(), self.name()
        op = Rmdir(parent=self.ino(parent), name=name)
        self.both(op, lambda: tree.rmdir(parent, name))

    def link(self) -> None:
        node, parent, name = self.pick(), self.directory(), self.name()
        op = Link(ino=self.ino(node), parent=self.ino(parent), name=name)
        self.both(op, lambda: tree.link(node, parent, name))

    def rename(self) -> None:
        old, new = self.directory(), self.directory()
        name, new_name = self.name(), self.name()
        flags = self.random.choice([0, 0, 0, 1, 2])
        op = Rename(
            parent=self.ino(old), name=name, new_parent=self.ino(new), new_name=new_name,
            flags=flags,
        )  # fmt: skip
        self.both(op, lambda: tree.rename(old, name, new, new_name, flags))

    def attributes(self) -> None:
        node = self.pick()
        mode = self.random.choice([None, 0o600, 0o2770])
        gid = self.random.choice([None, 8])

        def change() -> None:
            node.mode = node.mode if mode is None else mode
            node.gid = node.gid if gid is None else gid
            if gid is not None and node.kind != "dir" and node.mode & 0o010:
                node.mode &= ~0o2000

        self.both(SetAttr(ino=self.ino(node), mode=mode, gid=gid), change)

    def resize(self) -> None:
        node, size = self.pick("file"), self.random.choice([0, self.random.randrange(400)])
        if node.kind == "file":
            self.both(SetAttr(ino=self.ino(node), size=size), lambda: tree.resize(node, size))
            self.trimmed += read.totals(self.kv).doomed > 0

    def write(self) -> None:
        node = self.pick("file")
        if node.kind != "file":
            return
        self.both(Acquire(ino=self.ino(node)), lambda: None)
        at, extents = self.random.randrange(500), []
        for _ in range(self.random.choice([1, 1, 2, 5, 90])):
            self.label += 1
            length, skip = self.random.randrange(1, 9), self.random.randrange(3)
            make = self.random.choice([chunk, chunk, inline, None])
            if make is chunk:
                segment = self.label // 7
                extents.append(chunk(at, length, self.label, segment=segment, skip=skip))
            elif make is inline:
                extents.append(inline(at, length, self.label, skip=skip))
            else:
                extents.append(Extent(offset=at, length=length))
            at += length + self.random.choice([0, 0, 0, 3])
        size = self.random.choice([None, at + 20])

        def change() -> None:
            for extent in extents:
                tree.write(node, extent.offset, _spell(extent))
            tree.resize(node, max(len(node.data), size or 0))

        self.both(Commit(ino=self.ino(node), extents=tuple(extents), size=size), change)

    def copy(self) -> None:
        source, target = self.pick("file"), self.pick("file")
        if source.kind != "file" or target.kind != "file":
            return
        self.both(Acquire(ino=self.ino(target)), lambda: None)
        start, to = self.random.randrange(400), self.random.randrange(400)
        length = self.random.choice([1, self.random.randrange(1, 50), 1000])
        op = CopyRange(
            ino=self.ino(target), to=to, source=self.ino(source), start=start, length=length
        )
        self.both(op, lambda: tree.copy(source, start, target, to, length))

    def punch(self) -> None:
        node = self.pick("file")
        if node.kind != "file" or not node.data:
            return
        self.both(Acquire(ino=self.ino(node)), lambda: None)
        start = self.random.randrange(len(node.data))
        stop = self.random.randrange(start, len(node.data)) + 1
        hole = Extent(offset=start, length=stop - start)
        op = Commit(ino=self.ino(node), extents=(hole,))
        self.both(op, lambda: tree.write(node, start, [None] * (stop - start)))

    def unnamed(self) -> None:
        parent, linkable = self.directory(), self.random.random() < 0.7
        op = MakeOrphan(
            parent=self.ino(parent), mode=REG | 0o600, uid=5, gid=6,
            lease=Lease.WRITE if self.random.random() < 0.5 else 0, linkable=linkable,
        )  # fmt: skip
        node = self.both(op, lambda: tree.make_orphan(parent, 0o600, 5, 6, linkable=linkable))
        if node is not None:
            self.nodes.append(node)
            self.inos[id(node)] = self.attrs[0].ino

    def lock(self) -> None:
        node = self.pick()
        kind = self.random.randrange(3)
        op = Lock(ino=self.ino(node), owner=3, kind=kind, start=self.random.randrange(9))
        self.both(op, lambda: None)

    def xattr(self) -> None:
        node, name = self.pick(), self.name()
        value = self.random.randbytes(5)
        if self.random.random() < 0.6:
            op: ClientOp = SetXattr(ino=self.ino(node), name=name, value=value)
            self.both(op, lambda: node.xattrs.__setitem__(name, value))
            return
        there = name in node.xattrs
        result = self.world.ops(RemoveXattr(ino=self.ino(node), name=name))[0]
        assert (result.error is None) == there
        node.xattrs.pop(name, None)

    def pack(self) -> None:
        found = read.inline_candidates(self.kv, self.world.time_ns + 1, 100)
        chosen = [c for c in found if self.random.random() < 0.5]
        for c in chosen:
            label = int.from_bytes(c.chunk_id, "big")
            ref = ChunkRef(
                chunk_id=c.chunk_id, segment=(9).to_bytes(8, "big") + (1 << 40).to_bytes(8, "big"),
                data=2, parity=1, segment_length=1 << 22, at=label % 1000 * 64, stored=64,
                raw=c.raw, key_version=1,
            )  # fmt: skip
            before = read.attr(self.kv, c.ino)
            done = self.world.one(0, Pack(ino=c.ino, replacements=((c.inline_id, ref),)))
            assert done.replaced == 1 or self.trimmed
            after = read.attr(self.kv, c.ino)
            if self.trimmed:  # what is trimmed is allocated until then
                after = replace(after, allocated=before.allocated)
            assert after == before

    def reclaim(self) -> None:
        gone = [n for n in self.nodes if not n.links and n is not self.root]
        for node in gone:
            for _ in range(100):
                if self.world.one(0, Reclaim(ino=self.ino(node), budget=2)).done:
                    break
            else:
                raise AssertionError("reclaiming does not end")
            self.nodes.remove(node)
        assert read.orphans(self.kv, 0, 10) == ()

    # --- comparison

    def compare(self) -> None:
        for node in self.nodes:
            ino = self.ino(node)
            attr = read.attr(self.kv, ino)
            assert (attr.nlink, attr.size) == (node.links, node.size)
            assert (attr.mode & 0o7777, attr.gid) == (node.mode, node.gid)
            assert set(read.xattr_names(self.kv, ino)) == set(node.xattrs)
            for name, value in node.xattrs.items():
                assert read.xattr(self.kv, ino, name) == value
            if node.kind == "file":
                assert labels(read.layout(self.kv, ino, 0, 1 << 40, 1 << 30)[0]) == node.data
            elif node.kind == "dir":
                self.compare_listing(node, ino)

    def compare_listing(self, node: tree.Node, ino: int) -> None:
        listed, cookie, end = {}, 0, False
        while not end:
            entries, end = read.listing(self.kv, ino, cookie, self.random.choice([1, 2, 100]))
            for entry in entries:
                assert entry.cookie > max(cookie, 2)
                cookie = entry.cookie
                listed[entry.name] = entry.ino
                assert entry.attr == read.attr(self.kv, entry.ino)
                assert read.lookup(self.kv, ino, entry.name) == entry
        assert listed == {name: self.ino(child) for name, child in node.entries.items()}

    def run(self, steps: int, weights: dict[str, int]) -> None:
        rules = self.random.choices(list(weights), list(weights.values()), k=steps)
        for n, rule in enumerate(rules):
            getattr(self, rule)()
            if n % 100 == 99:
                self.compare()
                check(self.world)
        self.reclaim()
        self.compare()
        check(self.world)


def _spell(extent: Extent) -> list[tuple[int, int] | None]:
    if not extent.raw:
        return [None] * extent.length
    label = int.from_bytes(extent.chunk_id, "big")
    return [(label, extent.skip + n) for n in range(extent.length)]


@pytest.mark.parametrize("seed", range(10))
def test_names_behave_as_a_posix_tree(seed: int) -> None:
    weights = {"create": 6, "unlink": 3, "rmdir": 3, "link": 4, "rename": 8, "attributes": 2,
               "xattr": 2, "reclaim": 1, "unnamed": 1, "lock": 1}  # fmt: skip
    Machine(seed, dirs=12).run(600, weights)


@pytest.mark.parametrize("seed", range(10))
def test_long_files_are_trimmed_behind_the_scenes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "LAZY_PAGES_MIN", 1)
    monkeypatch.setattr(trimming, "STEP_PAGES", 1)
    machine = Machine(seed, dirs=2)
    weights = {"create": 1, "unlink": 1, "write": 8, "resize": 6, "pack": 2, "reclaim": 1}
    machine.run(350, weights | {"copy": 3, "punch": 1})
    assert machine.trimmed > 2


@pytest.mark.parametrize("seed", range(10))
def test_files_hold_what_was_committed(seed: int) -> None:
    weights = {"create": 1, "unlink": 1, "write": 12, "resize": 4, "pack": 2, "reclaim": 1}
    Machine(seed, dirs=2).run(250, weights)


@pytest.mark.parametrize("seed", range(10))
def test_ranges_are_shared_punched_and_counted(seed: int) -> None:
    weights = {"create": 2, "unlink": 1, "write": 8, "resize": 2, "pack": 2, "reclaim": 1,
               "copy": 10, "punch": 4, "unnamed": 1, "link": 2}  # fmt: skip
    Machine(seed, dirs=2).run(250, weights)
