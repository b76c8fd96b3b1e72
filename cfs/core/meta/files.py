"""Data of files: committing extents, truncating, extending.

A commit replaces ranges of the file by chunks of segments, sealed bytes that travel with it, or
holes; what growth leaves between is a hole. Segments that are condemned or deleted are refused.
The cost of a commit is that of the pages it touches; that of a truncation, of the pages it drops.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable

from msgspec.structs import replace

from cfs.core.api.meta import Attr, Commit, Extent, ExtentKind
from cfs.core.errors import FsError
from cfs.core.ids import CHUNK_ID_BYTES, SEGMENT_ID_BYTES
from cfs.core.meta import collection, extents, keys, leases, pages, trimming
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import INLINE, MARK, Inline, Inode, Mark

SIZE_MAX = 16 << 40
"""The largest file, as on ext4: EFBIG beyond. The formats would hold 8 EiB."""
INLINE_BYTES_MAX = 128 << 10
"""Twice the longest run of bytes anyone would keep inline, sealed."""
_GROUP_GAP_BYTES = 4 << 20
"""Extents farther apart load their pages apart: what lies between is left alone."""
_HOLE, _CHUNK, _INLINE = ExtentKind.HOLE, ExtentKind.CHUNK, ExtentKind.INLINE
_U32_MAX = (1 << 32) - 1


def commit(draft: Draft, session: int, op: Commit) -> tuple[Attr, ...]:
    """Apply `Commit`. Raises ENOENT, EISDIR, EINVAL, EFBIG, ESTALE (no lease), Condemned."""
    inode = regular(draft, op.ino)
    if leases.holder(draft, op.ino) != session:
        raise FsError(errno.ESTALE, f"session {session} does not hold WRITE on inode {op.ino}")
    end = _check(op.extents)
    size = max(inode.size, end, op.size or 0)
    if size > SIZE_MAX:
        raise FsError(errno.EFBIG, f"size {size} is beyond {SIZE_MAX}")
    collection.check_usable(draft, op.extents)
    inode = trimming.make_room(draft, op.ino, inode, size)
    tiles = [_settle(draft, op.ino, extent) for extent in op.extents]
    return (lay(draft, op.ino, inode, tiles, size, op.mtime_ns),)


def lay(
    draft: Draft, ino: int, inode: Inode, tiles: list[Extent], size: int, mtime_ns: int | None
) -> Attr:
    """Lay settled tiles over a file that becomes `size` long, as a write at `mtime_ns` does."""
    end = extents.end_of(tiles)
    difference = 0
    for group in _groups(tiles):
        stop = group[-1].offset + group[-1].length
        window = pages.load(draft, ino, group[0].offset, stop)
        difference += pages.store(draft, ino, window, extents.overlay(window.tiles, group))
    if max(inode.size, end) < size:
        difference += _extend(draft, ino, max(inode.size, end), size)
    changed = int(bool(tiles) or size != inode.size)
    written_ns = draft.now if mtime_ns is None else mtime_ns
    after = replace(
        inode,
        size=size,
        allocated=inode.allocated + difference,
        mtime_ns=written_ns,
        ctime_ns=max(inode.ctime_ns, written_ns),  # of the write, as its writer saw it, not of now
        version=inode.version + 1,
        data_version=inode.data_version + changed,
        hlc=draft.now,
    )
    return draft.set_inode(ino, after)


def resize(draft: Draft, ino: int, inode: Inode, size: int) -> Inode:
    """Cut or extend a file to `size`; what is left of a long one is trimmed later."""
    if size > inode.size:
        inode = trimming.make_room(draft, ino, inode, size)
        difference = _extend(draft, ino, inode.size, size)
    elif trimming.is_long(draft, ino, inode, size):
        inode = trimming.doom(draft, ino, inode, size)
        difference = _cut_page(draft, ino, size)
    else:
        difference = _drop(draft, ino, inode.size, size) + _cut_page(draft, ino, size)
    return replace(inode, size=size, allocated=inode.allocated + difference)


def regular(draft: Draft, ino: int) -> Inode:
    """Give a file. Raises ENOENT, EISDIR, EINVAL."""
    inode = draft.inode(ino)
    if stat.S_ISREG(inode.mode):
        return inode
    if stat.S_ISDIR(inode.mode):
        raise FsError(errno.EISDIR, f"inode {ino} is a directory")
    raise FsError(errno.EINVAL, f"inode {ino} is not a file")


def _drop(draft: Draft, ino: int, end: int, size: int) -> int:
    """Remove the pages that start in `[size, end)`."""
    scan = draft.scan(keys.page(ino, size), keys.page(ino, end))
    return sum(trimming.discard(draft, ino, key, value) for key, value in scan)


def _cut_page(draft: Draft, ino: int, size: int) -> int:
    """Make the page that reaches over `size` end there."""
    if not size:
        return 0
    window = pages.load(draft, ino, size - 1, size)
    if extents.end_of(window.tiles) <= size:
        return 0
    return pages.store(draft, ino, window, extents.truncate(window.tiles, size))


def _extend(draft: Draft, ino: int, end: int, size: int) -> int:
    window = pages.load(draft, ino, end, end + 1)
    return pages.store(draft, ino, window, extents.extend(window.tiles, size))


def _check(new: tuple[Extent, ...]) -> int:
    """Refuse extents no correct client sends, and give where they end."""
    reached = 0
    for extent in new:
        if extent.offset < reached or extent.length <= 0:
            raise FsError(errno.EINVAL, "extents are not in order, overlap or are empty")
        reached = extent.offset + extent.length
        if extent.kind is _HOLE:
            continue
        if (
            extent.skip < 0
            or extent.skip + extent.length > extent.raw
            or len(extent.chunk_id) != CHUNK_ID_BYTES
            or not 0 <= extent.key_version <= _U32_MAX
            or extent.raw > _U32_MAX
        ):
            raise FsError(errno.EINVAL, f"extent at {extent.offset} lies outside its chunk")
        if extent.kind is _INLINE:
            if not 0 < len(extent.inline) <= INLINE_BYTES_MAX:
                raise FsError(errno.EINVAL, f"inline extent has {len(extent.inline)} bytes")
        elif (
            len(extent.segment) != SEGMENT_ID_BYTES
            or not 0 < extent.data <= 255
            or not 0 <= extent.parity <= 255
            or extent.at < 0
            or extent.stored <= 0
            or extent.at + extent.stored > extent.segment_length
            or extent.segment_length > _U32_MAX
        ):
            raise FsError(errno.EINVAL, f"extent at {extent.offset} lies outside its segment")
    return reached


def _settle(draft: Draft, ino: int, extent: Extent) -> Extent:
    """Give the tile an extent becomes; sealed bytes get a record of their own."""
    if extent.kind is _CHUNK:
        if extent.inline or extent.inline_id:
            return replace(extent, inline=b"", inline_id=0)
        return extent
    if extent.kind is _HOLE:
        return extents.hole(extent.offset, extent.length)
    stored = len(extent.inline)
    inline = Inline(extent.inline, extent.chunk_id, extent.raw, extent.key_version)
    inline_id = keep_inline(draft, ino, inline, extent.offset, extent.length)
    return Extent(
        offset=extent.offset,
        length=extent.length,
        kind=_INLINE,
        chunk_id=extent.chunk_id,
        raw=extent.raw,
        skip=extent.skip,
        key_version=extent.key_version,
        stored=stored,
        inline_id=inline_id,
    )


def keep_inline(draft: Draft, ino: int, inline: Inline, offset: int, length: int) -> int:
    """Store sealed bytes that tiles within a range of the file will refer to; give their number."""
    inline_id = draft.tick()
    since = draft.state.epoch
    draft.put(keys.inline(ino, inline_id), INLINE.encode(inline, since))
    mark = Mark(0, len(inline.sealed), offset, length)
    draft.put(keys.mark(inline_id, ino), MARK.encode(mark, since))
    draft.state.inline_bytes += len(inline.sealed)
    return inline_id


def _groups(tiles: list[Extent]) -> Iterable[list[Extent]]:
    group: list[Extent] = []
    reached = 0
    for tile in tiles:
        if group and tile.offset - reached > _GROUP_GAP_BYTES:
            yield group
            group = []
        group.append(tile)
        reached = tile.offset + tile.length
    if group:
        yield group
