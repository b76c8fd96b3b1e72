"""Copying a range of a file by reference, within the shard.

Chunks of segments are shared: the target's extents name the same sealed bytes, and reverse
references count them. Sealed inline bytes belong to one inode, so each chunk is copied once, with
a mark that spans all pieces of it. A target is written like by a commit, under its WRITE lease; the
source is read as it is committed.
"""

from __future__ import annotations

import errno

from msgspec.structs import replace

from cfs.core.api.meta import Attr, CopyRange, Extent, ExtentKind
from cfs.core.errors import Corrupt, FsError
from cfs.core.meta import collection, extents, files, keys, leases, links, pages, trimming
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import INLINE

TILES_MAX = 4096
"""Extents one copy lays down: 16 ms measured."""
INLINE_BYTES_MAX = 4 << 20


def copy(draft: Draft, session: int, op: CopyRange) -> tuple[Attr, ...]:
    """Apply `CopyRange`; see there for what it raises."""
    target = files.regular(draft, op.ino)
    links.local(draft, op.source)
    source = files.regular(draft, op.source)
    if leases.holder(draft, op.ino) != session:
        raise FsError(errno.ESTALE, f"session {session} does not hold WRITE on inode {op.ino}")
    if min(op.start, op.to) < 0 or op.length <= 0:
        raise FsError(errno.EINVAL, "no range to copy")
    length = min(op.length, source.size - op.start)
    if length <= 0:
        return target.attr(op.ino), source.attr(op.source)
    if op.ino == op.source and abs(op.to - op.start) < length:
        raise FsError(errno.EINVAL, "the ranges overlap")
    size = max(target.size, op.to + length)
    if size > files.SIZE_MAX:
        raise FsError(errno.EFBIG, f"size {size} is beyond {files.SIZE_MAX}")
    found = _tiles(draft, op, length)
    collection.check_usable(draft, found)
    target = trimming.make_room(draft, op.ino, target, size)
    tiles = _own_inline(draft, op, found)
    after = files.lay(draft, op.ino, target, tiles, size, op.mtime_ns)
    return after, draft.inode(op.source).attr(op.source)


def _tiles(draft: Draft, op: CopyRange, length: int) -> list[Extent]:
    """Give the source's tiles, cut to the range and moved to where they go."""
    stop, shift = op.start + length, op.to - op.start
    moved: list[Extent] = []
    for tile in pages.read(draft, op.source, op.start, stop):
        if len(moved) >= TILES_MAX:
            raise FsError(errno.E2BIG, f"more than {TILES_MAX} extents at once")
        cut = extents.cut(tile, max(tile.offset, op.start), min(tile.offset + tile.length, stop))
        moved.append(replace(cut, offset=cut.offset + shift))
    return moved


def _own_inline(draft: Draft, op: CopyRange, tiles: list[Extent]) -> list[Extent]:
    """Give every inline chunk of the source a copy that belongs to the target."""
    spans: dict[int, tuple[int, int]] = {}
    for tile in tiles:
        if tile.kind is ExtentKind.INLINE:
            first = spans.get(tile.inline_id, (tile.offset, 0))[0]
            spans[tile.inline_id] = first, tile.offset + tile.length
    if not spans:
        return tiles
    copies: dict[int, int] = {}
    total = 0
    for inline_id, (first, end) in spans.items():
        value = draft.get(keys.inline(op.source, inline_id))
        if value is None:
            raise Corrupt(f"inline chunk {inline_id} of inode {op.source} is missing")
        total += len(value)
        if total > INLINE_BYTES_MAX:
            raise FsError(errno.E2BIG, f"more than {INLINE_BYTES_MAX} inline bytes at once")
        inline = INLINE.decode(value)
        copies[inline_id] = files.keep_inline(draft, op.ino, inline, first, end - first)
    return [
        replace(tile, inline_id=copies[tile.inline_id]) if tile.inline_id in copies else tile
        for tile in tiles
    ]
