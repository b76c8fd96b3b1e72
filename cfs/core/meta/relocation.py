"""Relocation: chunks are read from another segment, without any change a reader could notice.

For whoever rewrites a segment: under another erasure profile, or without its dead chunks. Only
where the data is changes: size, times and versions stay. What no longer refers to the old segment
is passed over. One command looks at `REFERENCES_MAX` reverse references; it says whether there are
more, and the next one goes on, for what was relocated is no reference any more.
"""

from __future__ import annotations

import errno
from itertools import islice

from msgspec.structs import replace

from cfs.core.api.meta import Extent
from cfs.core.api.store import ChunkRef
from cfs.core.errors import FsError
from cfs.core.ids import CHUNK_ID_BYTES, SEGMENT_ID_BYTES
from cfs.core.meta import collection, keys, pages
from cfs.core.meta.commands import Relocate
from cfs.core.meta.draft import Draft
from cfs.core.meta.results import Relocated

REFERENCES_MAX = 64
"""Buckets of 64 MiB of a file: each may be a thousand tiles to load and store."""


def relocate(draft: Draft, command: Relocate) -> Relocated:
    """Apply `Relocate`. Raises Condemned (a new segment), EINVAL (an impossible reference)."""
    refs = {ref.chunk_id: ref for ref in command.refs}
    for ref in command.refs:
        _check(ref, command.segment)
    collection.check_segments(draft, {ref.segment: None for ref in command.refs})
    start, end = keys.references_range(command.segment)
    if command.after:
        start = command.after + b"\0"
    found = [key for key, _ in islice(draft.scan(start, end), REFERENCES_MAX)]
    replaced = 0
    for key in found:
        ino = keys.number_at(key, 17)
        bucket = int.from_bytes(key[25:], "big")
        replaced += _relocate_in(draft, command.segment, refs, ino, bucket)
    after = found[-1] if len(found) == REFERENCES_MAX else b""
    return Relocated(replaced=replaced, after=after)


def _relocate_in(
    draft: Draft, segment: bytes, refs: dict[bytes, ChunkRef], ino: int, bucket: int
) -> int:
    """Switch the tiles of one bucket of a file; give how many."""
    window = pages.load(draft, ino, bucket << keys.BUCKET_SHIFT, (bucket + 1) << keys.BUCKET_SHIFT)
    count = 0
    tiles: list[Extent] = []
    for tile in window.tiles:
        ref = refs.get(tile.chunk_id) if tile.segment == segment else None
        if ref is None or ref.raw != tile.raw or ref.key_version != tile.key_version:
            tiles.append(tile)
            continue
        count += 1
        tiles.append(
            replace(
                tile, segment=ref.segment, data=ref.data, parity=ref.parity,
                segment_length=ref.segment_length, at=ref.at, stored=ref.stored,
            )
        )  # fmt: skip
    inode = draft.find(ino)
    if count:
        pages.store(draft, ino, window, tiles)
    if count and inode is not None:
        draft.set_inode(ino, replace(inode, hlc=draft.now))
    return count


def _check(ref: ChunkRef, segment: bytes) -> None:
    if (
        len(ref.segment) != SEGMENT_ID_BYTES
        or len(ref.chunk_id) != CHUNK_ID_BYTES
        or ref.segment == segment
        or ref.at < 0
        or ref.stored <= 0
        or ref.at + ref.stored > ref.segment_length
    ):
        raise FsError(errno.EINVAL, "a relocated chunk lies outside its segment")
