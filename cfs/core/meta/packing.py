"""Packing: inline chunks move into segments, without any change a reader could notice.

Only where the data is changes: size, times and versions stay, and snapshots that show the same
pages show them packed too. A chunk that was overwritten in the
meantime is passed over. Sealed bytes leave the shard with the last extent that needs them.
"""

from __future__ import annotations

import errno
import functools

from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.api.store import ChunkRef
from cfs.core.errors import FsError
from cfs.core.ids import CHUNK_ID_BYTES, SEGMENT_ID_BYTES
from cfs.core.meta import collection, keys, pages
from cfs.core.meta.commands import Pack
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import MARK
from cfs.core.meta.results import Packed


def pack(draft: Draft, command: Pack) -> Packed:
    """Apply `Pack`. Raises Condemned, ENOENT, EINVAL (another chunk than the inline one)."""
    inode = draft.inode(command.ino)
    collection.check_segments(draft, {ref.segment: None for _, ref in command.replacements})
    replaced = 0
    for inline_id, ref in command.replacements:
        _check(ref)
        value = draft.get(keys.mark(inline_id, command.ino))
        if value is None:
            continue
        mark = MARK.decode(value)
        stop = min(mark.offset + mark.length, inode.size)
        if stop <= mark.offset:
            continue
        change = functools.partial(_changed, inline_id, ref)
        for start in pages.load(draft, command.ino, mark.offset, stop).starts:
            pages.repack(draft, command.ino, start, change)
        replaced += 1
    return Packed(replaced=replaced)


def _changed(inline_id: int, ref: ChunkRef, tile: Extent) -> Extent:
    return _packed(tile, ref) if tile.inline_id == inline_id else tile


def _packed(tile: Extent, ref: ChunkRef) -> Extent:
    if tile.raw != ref.raw or tile.chunk_id != ref.chunk_id:
        raise FsError(errno.EINVAL, f"inline chunk {tile.inline_id} is not the chunk packed for it")
    return Extent(
        offset=tile.offset,
        length=tile.length,
        kind=ExtentKind.CHUNK,
        chunk_id=ref.chunk_id,
        raw=ref.raw,
        skip=tile.skip,
        key_version=ref.key_version,
        segment=ref.segment,
        data=ref.data,
        parity=ref.parity,
        segment_length=ref.segment_length,
        at=ref.at,
        stored=ref.stored,
    )


def _check(ref: ChunkRef) -> None:
    if (
        len(ref.segment) != SEGMENT_ID_BYTES
        or len(ref.chunk_id) != CHUNK_ID_BYTES
        or ref.at < 0
        or ref.stored <= 0
        or ref.at + ref.stored > ref.segment_length
    ):
        raise FsError(errno.EINVAL, "a packed chunk lies outside its segment")
