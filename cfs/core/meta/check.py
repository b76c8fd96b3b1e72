"""What fsck asks of a shard: its entries and inodes, page by page, and whether files are whole.

Pages are read from the leader's state in its loop, so each is bounded: `ROWS_MAX` rows, and
`PAGES_MAX` pages of extents. What concerns several shards is compared by who asks.
"""

from __future__ import annotations

import stat

import msgspec

from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import keys, pages, read
from cfs.core.meta.records import ENTRIES, INODE, Inode

ROWS_MAX = 512
PAGES_MAX = 128


class EntryPage(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="entrypage"):
    """Ask for the next names of the shard; `after` is the last key, empty at first."""

    after: bytes = b""


class EntryRow(msgspec.Struct, frozen=True, array_like=True):
    """A name."""

    parent: int
    ino: int
    kind: int
    name: bytes


class EntryRows(msgspec.Struct, frozen=True, array_like=True):
    """Names, and where to go on; empty: that was all."""

    rows: tuple[EntryRow, ...]
    after: bytes


class InodePage(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="inodepage"):
    """Ask for the next inodes of the shard, after a number; `at`: go on inside the next file."""

    after: int = 0
    at: int = 0


class InodeRow(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An inode, and what is wrong with its extents (of those looked at: `allocated` bytes)."""

    ino: int
    mode: int
    nlink: int
    size: int
    parent: int
    orphan: bool
    allocated: int
    held: int
    """What the inode says is allocated."""
    said: str = ""
    cut: bool = False
    """The file goes on in the next page."""


class InodeRows(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Inodes, where to go on (0: that was all), and the shard's own counters."""

    rows: tuple[InodeRow, ...]
    after: int
    at: int
    inodes: int
    logical_bytes: int
    changes: int


class EntriesOf(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="missing"):
    """Ask which of these inodes of this shard do not exist."""

    inos: tuple[int, ...]


class Missing(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `EntriesOf`."""

    inos: tuple[int, ...]


def entry_rows(kv: Reader, asked: EntryPage) -> EntryRows:
    """Answer `EntryPage`."""
    rows: list[EntryRow] = []
    start = asked.after + b"\0" if asked.after else b"d"
    for key, value in kv.scan(start, prefix_end(b"d")):
        parent = keys.number_at(key, 1)
        rows += [EntryRow(parent, s.ino, s.kind, s.name) for s in ENTRIES.decode(value).slots]
        if len(rows) >= ROWS_MAX:
            return EntryRows(tuple(rows), key)
    return EntryRows(tuple(rows), b"")


def inode_rows(kv: Reader, asked: InodePage) -> InodeRows:
    """Answer `InodePage`."""
    rows: list[InodeRow] = []
    budget = PAGES_MAX
    after, at = asked.after, 0
    for key, value in kv.scan(keys.inode(asked.after + 1), prefix_end(b"i")):
        ino = keys.number_at(key, 1)
        inode = INODE.decode(value)
        begin = asked.at if not rows else 0
        row, reached, used = _row(kv, ino, inode, begin, budget)
        rows.append(row)
        budget -= used
        if row.cut:
            at = reached
            break
        after = ino
        if len(rows) >= ROWS_MAX or budget <= 0:
            break
    else:
        after = 0
    totals = read.totals(kv)
    return InodeRows(
        rows=tuple(rows),
        after=after,
        at=at,
        inodes=totals.inodes,
        logical_bytes=totals.logical_bytes,
        changes=totals.changes,
    )


def missing(kv: Reader, asked: EntriesOf) -> Missing:
    """Answer `EntriesOf`."""
    return Missing(tuple(i for i in asked.inos if kv.get(keys.inode(i)) is None))


def _row(kv: Reader, ino: int, inode: Inode, begin: int, budget: int) -> tuple[InodeRow, int, int]:
    allocated, said, reached, used = 0, "", inode.size, 0
    if stat.S_ISREG(inode.mode):
        allocated, said, reached, used = _tiles(kv, ino, inode.size, begin, budget)
    return (
        InodeRow(
            ino=ino,
            mode=inode.mode,
            nlink=inode.nlink,
            size=inode.size,
            parent=inode.parent,
            orphan=kv.get(keys.orphan(ino)) is not None,
            allocated=allocated,
            held=inode.allocated,
            said=said,
            cut=not said and reached < inode.size,
        ),
        reached,
        used,
    )


def _tiles(kv: Reader, ino: int, size: int, begin: int, budget: int) -> tuple[int, str, int, int]:
    """Check pages from `begin` on: (allocated, what is wrong, how far, pages)."""
    allocated, expected, used = 0, begin, 0
    for key, value in kv.scan(keys.page(ino, begin), keys.page(ino, max(size, begin))):
        if used >= max(budget, 1):
            return allocated, "", expected, used
        used += 1
        tiles: list[Extent] = []
        pages.decode_into(tiles, keys.number_at(key, 9), value)
        for tile in tiles:
            if tile.offset != expected or tile.length <= 0:
                return allocated, f"its extents do not tile it at {expected}", expected, used
            expected = tile.offset + tile.length
            if tile.kind is ExtentKind.HOLE:
                continue
            allocated += tile.length
            if said := _refers(kv, ino, tile):
                return allocated, said, expected, used
    if expected != size:
        said = f"its extents end at {expected}, its size is {size}"
        return allocated, said, size, used
    return allocated, "", size, used


def _refers(kv: Reader, ino: int, tile: Extent) -> str:
    if tile.kind is ExtentKind.CHUNK:
        key = keys.reference(tile.segment, ino, tile.offset >> keys.BUCKET_SHIFT)
        if kv.get(key) is None:
            return f"its extent at {tile.offset} is not counted as a reference"
    elif kv.get(keys.inline(ino, tile.inline_id)) is None:
        return f"its extent at {tile.offset} names inline bytes that are not there"
    return ""
