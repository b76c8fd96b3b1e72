"""A world of shards in memory, and the invariants every one of them keeps after any history."""

from __future__ import annotations

import itertools
import stat
from collections import Counter, defaultdict
from typing import Any

from cfs.core.api.meta import Attr, Extent, ExtentKind, OpResult
from cfs.core.api.quota import USER
from cfs.core.errors import from_wire
from cfs.core.ids import ROOT_INO, SERIAL_BITS
from cfs.core.kv import MemoryStore, prefix_end
from cfs.core.meta import intents, keys, pages, quota, read, versions
from cfs.core.meta import records as r
from cfs.core.meta.commands import (
    Batch,
    ClientOp,
    ClientOps,
    Command,
    InitShard,
    OpenSession,
    decode_batch,
    encode_batch,
)
from cfs.core.meta.results import Failed, decode_result, encode_result
from cfs.core.meta.shard import Shard

SESSION = 7
REG, DIR, LNK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


class World:
    """Shards `0..count-1`, each applied at once; every entry crosses its encoding."""

    def __init__(self, count: int = 1, site: int = 0) -> None:
        self.kvs = [MemoryStore() for _ in range(count)]
        self.shards = [Shard(site, n) for n in range(count)]
        self.seqs: Counter[tuple[int, int]] = Counter()
        self.time_ns = 1_700_000_000_000_000_000
        self.index = 0
        for n in range(count):
            self.apply(n, InitShard(root=n == 0), OpenSession(session=SESSION, name="test"))

    def apply(self, shard: int, *commands: Command) -> list[Any]:
        self.time_ns += 1_000
        self.index += 1
        batch = Batch(self.time_ns, commands)
        entry = encode_batch(batch)
        assert decode_batch(entry) == batch
        results = self.shards[shard].apply(self.kvs[shard], self.index, entry)
        for result in results:
            if not isinstance(result, list):
                assert decode_result(encode_result(result)) == result
        return results

    def one(self, shard: int, command: Command) -> Any:
        """Apply one command; raise what it failed with."""
        result = self.apply(shard, command)[0]
        if isinstance(result, Failed):
            raise from_wire(result.error)
        return result

    def ops(self, *ops: ClientOp, shard: int = 0, session: int = SESSION) -> list[OpResult]:
        """Apply operations under the next numbers; those refused for now do not use theirs up."""
        first = self.seqs[shard, session] + 1
        command = ClientOps(session=session, first_seq=first, acked=first, ops=ops)
        results: list[OpResult] = self.apply(shard, command)[0]
        state = read.session(self.kvs[shard], session)
        if state is not None:
            self.seqs[shard, session] = state.applied
        return results

    def op(self, op: ClientOp, shard: int = 0, session: int = SESSION) -> tuple[Attr, ...]:
        """Apply one operation; raise its error."""
        result = self.ops(op, shard=shard, session=session)[0]
        if result.error is not None:
            raise from_wire(result.error)
        return result.attrs


def chunk(
    offset: int, length: int, label: int, *, segment: int = 1, skip: int = 0, raw: int = 0
) -> Extent:
    """Make a chunk whose bytes are the labels `(label, 0), (label, 1), ...`."""
    return Extent(
        offset=offset,
        length=length,
        kind=ExtentKind.CHUNK,
        chunk_id=label.to_bytes(32, "big"),
        raw=max(raw, skip + length),
        skip=skip,
        key_version=1,
        segment=(9).to_bytes(8, "big") + segment.to_bytes(8, "big"),
        data=2,
        parity=1,
        segment_length=1 << 22,
        at=label % 1000 * 64,
        stored=64,
    )


def inline(offset: int, length: int, label: int, *, skip: int = 0) -> Extent:
    """Make an inline extent, its sealed bytes telling the label."""
    return Extent(
        offset=offset,
        length=length,
        kind=ExtentKind.INLINE,
        chunk_id=label.to_bytes(32, "big"),
        raw=skip + length,
        skip=skip,
        key_version=1,
        inline=b"sealed" + label.to_bytes(4, "big"),
    )


def labels(extents: tuple[Extent, ...]) -> list[tuple[int, int] | None]:
    """Spell extents out, byte by byte."""
    out: list[tuple[int, int] | None] = []
    for extent in extents:
        if extent.kind is ExtentKind.HOLE:
            out += [None] * extent.length
            continue
        label = int.from_bytes(extent.chunk_id, "big")
        if extent.kind is ExtentKind.INLINE:
            assert extent.inline == b"sealed" + label.to_bytes(4, "big")
        out += [(label, extent.skip + n) for n in range(extent.length)]
    return out


def check(world: World, *, unlocked: bool = True) -> None:
    """Assert every invariant of every shard and of the tree they make together."""
    inodes: dict[int, r.Inode] = {}
    names: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for shard, kv in enumerate(world.kvs):
        here = {keys.number_at(k, 1): r.INODE.decode(v) for k, v in _all(kv, b"i")}
        assert all(ino >> SERIAL_BITS == shard for ino in here)
        _check_shard(kv, here, unlocked=unlocked)
        inodes |= here
        for key, value in _all(kv, b"d"):
            for slot in r.ENTRIES.decode(value).slots:
                assert keys.number_at(key, 9) == keys.name_hash(slot.name)
                names[slot.ino].append((keys.number_at(key, 1), slot.kind))
    if unlocked:
        _check_tree(inodes, names)


def _check_tree(inodes: dict[int, r.Inode], names: dict[int, list[tuple[int, int]]]) -> None:
    entries: Counter[int] = Counter()
    subdirectories: Counter[int] = Counter()
    for ino, found in names.items():
        assert ino in inodes, f"entry of a missing inode {ino}"
        for parent, kind in found:
            assert kind == stat.S_IFMT(inodes[ino].mode)
            entries[parent] += 1
            subdirectories[parent] += kind == DIR
    for ino, inode in inodes.items():
        found = names.get(ino, [])
        if not stat.S_ISDIR(inode.mode):
            assert inode.nlink == len(found), (ino, inode, found)
            continue
        assert inode.size == entries[ino], (ino, inode.size, entries[ino])
        if not inode.nlink:
            assert not found
            assert not entries[ino]
            continue
        assert inode.nlink == 2 + subdirectories[ino], (ino, inode.nlink, subdirectories[ino])
        assert [p for p, _ in found] == ([] if ino == ROOT_INO else [inode.parent])
        seen = set()
        while ino != ROOT_INO:
            assert ino not in seen, f"a cycle through {sorted(seen)}"
            seen.add(ino)
            ino = inodes[ino].parent  # noqa: PLW2901 -- the walk up
    assert set(entries) <= set(inodes)


def _check_shard(kv: MemoryStore, inodes: dict[int, r.Inode], *, unlocked: bool) -> None:
    state = read.totals(kv)
    references: Counter[bytes] = Counter()
    marks: Counter[bytes] = Counter()
    logical = 0
    paged = {keys.number_at(k, 1) for k, _ in _all(kv, b"e")}
    for ino in paged | set(inodes):
        inode = inodes[ino]
        reached = allocated = 0
        for key, value in kv.scan(keys.page(ino, 0), keys.page(ino + 1, 0)):
            start = keys.number_at(key, 9)
            dead = start >= inode.size
            assert start < inode.doomed if dead else start == reached, "pages tile the file"
            tiles: list[Extent] = []
            pages.decode_into(tiles, start, value)
            assert 0 < len(tiles) <= pages.TILES_MAX
            assert len(value) <= 16 << 10
            for before, after in itertools.pairwise(tiles):
                assert not (before.kind is after.kind is ExtentKind.HOLE), "holes are merged"
            for tile in tiles:
                assert tile.length > 0
                reached += tile.length * (not dead)
                if tile.kind is ExtentKind.CHUNK:
                    bucket = tile.offset >> keys.BUCKET_SHIFT
                    references[keys.reference(tile.segment, ino, bucket)] += 1
                elif tile.kind is ExtentKind.INLINE:
                    marks[keys.mark(tile.inline_id, ino)] += 1
                allocated += tile.length * (tile.kind is not ExtentKind.HOLE)
        if stat.S_ISREG(inode.mode):
            assert reached == inode.size, "extents tile the file"
        assert allocated == inode.allocated
        logical += allocated
    _check_versions(kv, references, marks)
    assert {k: r.COUNT.decode(v).extents for k, v in _all(kv, b"r")} == dict(references)
    stored = {k: r.MARK.decode(v) for k, v in _all(kv, b"n")}
    of_versions = {k[1:]: c for k, c in marks.items() if k[:1] == b"N"}
    assert {k: m.refs for k, m in stored.items()} == {
        k: c for k, c in marks.items() if k[:1] == b"n"
    }
    kept = {(k[9:17], k[1:9]): len(r.INLINE.decode(v).sealed) for k, v in _all(kv, b"b")}
    by_live = {(k[1:9], k[9:17]): m.stored for k, m in stored.items()}
    assert {k: kept[k] for k in by_live} == by_live
    assert set(kept) == set(by_live) | {(k[:8], k[8:]) for k in of_versions}
    live = {k[1:17] for k in references}
    assert not live & {k[1:] for k, _ in _all(kv, b"z")}
    orphans = {keys.number_at(k, 1) for k, _ in _all(kv, b"o")}
    in_trash = {(i.trashed, ino) for ino, i in inodes.items() if i.trashed}
    assert in_trash == {(keys.number_at(k, 1), keys.number_at(k, 9)) for k, _ in _all(kv, b"y")}
    assert state.trashed == len(in_trash)
    gone = {ino for ino, inode in inodes.items() if not inode.nlink}
    assert orphans == gone - {ino for _, ino in in_trash}
    assert {ino for _, ino in in_trash} <= gone
    assert {keys.number_at(k, 1) for k, _ in _all(kv, b"x")} <= set(inodes)
    held = {(r.HOLDER.decode(v).session, keys.number_at(k, 1)) for k, v in _all(kv, b"w")}
    assert held == {(keys.number_at(k, 1), keys.number_at(k, 9)) for k, _ in _all(kv, b"W")}
    locks = sum(len(r.PINS.decode(v).pins) if k[:2] == b"lp" else 1 for k, v in _all(kv, b"l"))
    assert state.locks == locks
    owners = {k[1:] for k, _ in _all(kv, b"k")}
    assert owners == {k[9:18] + k[1:9] + k[18:] for k, _ in _all(kv, b"K")}
    assert state.file_locks == len(owners)
    assert {int.from_bytes(k[:8], "big") for k in owners} <= set(inodes)
    doomed = {keys.number_at(k, 1) for k, _ in _all(kv, b"u")}
    assert doomed == {ino for ino, inode in inodes.items() if inode.doomed}
    assert state.doomed == len(doomed)
    assert state.condemned == len(list(_all(kv, b"c")))
    assert state.deleted == len(list(_all(kv, b"D")))
    assert state.inodes == len(inodes)
    used = {d: (u.bytes, u.inodes) for d, u in quota.usages(kv) if u.bytes or u.inodes}
    assert used == quota.count_all(inodes.values())
    held = sum(u.held for d, u in quota.usages(kv) if d.kind == USER)
    assert held == sum(max(0, i.charged - i.size) for i in inodes.values() if not i.trashed)
    if unlocked:
        assert not any(u.promised for _, u in quota.usages(kv))
    assert state.logical_bytes == logical
    assert state.inline_bytes == sum(kept.values())
    if unlocked:
        assert not locks
        parts = [intents.INTENT.decode(v).phase for _, v in _all(kv, b"t")]
        assert intents.Phase.PREPARED not in parts


def _check_versions(kv: MemoryStore, references: Counter[bytes], marks: Counter[bytes]) -> None:
    """Check what is kept for snapshots; add what its pages refer to."""
    state = read.totals(kv)
    found = dict(_all(kv, b"h"))
    ended = {k[5:] + k[1:5] for k, _ in _all(kv, b"H")}
    assert ended == {k[1:] for k in found}
    assert state.versions == len(found)
    assert state.trims == len(list(_all(kv, b"g")))
    for version, value in found.items():
        key, until = keys.of_version(version)
        assert r.since_of(value) < until <= state.epoch
        if not state.trims:
            assert versions.needed(state.snapshots, r.since_of(value), until)
        live = kv.get(key)
        assert live is None or r.since_of(live) >= until
        if key[:1] != b"e":
            continue
        ino, tiles = keys.number_at(key, 1), list[Extent]()
        pages.decode_into(tiles, keys.number_at(key, 9), value)
        for tile in tiles:
            if tile.kind is ExtentKind.CHUNK:
                bucket = keys.KEPT | tile.offset >> keys.BUCKET_SHIFT
                references[keys.reference(tile.segment, ino, bucket)] += 1
            elif tile.kind is ExtentKind.INLINE:
                marks[keys.kept_inline(tile.inline_id, ino)] += 1
    counted = {k: r.COUNT.decode(v).extents for k, v in _all(kv, b"N")}
    assert counted == {k: c for k, c in marks.items() if k[:1] == b"N"}


def _all(kv: MemoryStore, kind: bytes) -> Any:
    return kv.scan(kind, prefix_end(kind))
