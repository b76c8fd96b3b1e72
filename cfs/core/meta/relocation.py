"""Relocation: chunks are read from another segment, without any change a reader could notice.

For whoever rewrites a segment: under another erasure profile, or without its dead chunks. Only
where the data is changes: size, times and versions stay, in what snapshots show too. What no longer
refers to the old segment is passed over. One command looks at `REFERENCES_MAX` reverse references;
it says whether there are more, and the next one goes on, for what was relocated is no reference any
more.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from itertools import islice

from msgspec.structs import replace

from cfs.core.api.meta import Extent
from cfs.core.api.store import ChunkRef
from cfs.core.errors import FsError
from cfs.core.ids import CHUNK_ID_BYTES, SEGMENT_ID_BYTES
from cfs.core.meta import collection, keys, pages
from cfs.core.meta.commands import Relocate
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import since_of
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
    """Switch the tiles of one bucket of a file, or of what snapshots show of it; give how many."""
    change = functools.partial(_changed, segment, refs)
    if bucket & keys.KEPT:
        return _relocate_kept(draft, ino, bucket & ~keys.KEPT, change)
    first, stop = bucket << keys.BUCKET_SHIFT, (bucket + 1) << keys.BUCKET_SHIFT
    starts = pages.load(draft, ino, first, stop).starts
    return sum(pages.repack(draft, ino, start, change) for start in starts)


def _relocate_kept(draft: Draft, ino: int, bucket: int, change: Callable[[Extent], Extent]) -> int:
    stop = (bucket + 1) << keys.BUCKET_SHIFT
    start, end = keys.version(keys.page(ino, 0), 0), keys.version(keys.page(ino, stop), 0)
    count = 0
    for found, value in list(draft.scan(start, end)):
        before: list[Extent] = []
        pages.decode_into(before, keys.number_at(keys.of_version(found)[0], 9), value)
        after = [change(t) if t.offset >> keys.BUCKET_SHIFT == bucket else t for t in before]
        for old, new in zip(before, after, strict=True):
            if new is not old:
                count += 1
                draft.refer(old.segment, ino, keys.KEPT | bucket, -1)
                draft.refer(new.segment, ino, keys.KEPT | bucket, 1)
        if after != before:
            draft.put(found, pages.encode(after, since_of(value)))
    return count


def _changed(segment: bytes, refs: dict[bytes, ChunkRef], tile: Extent) -> Extent:
    ref = refs.get(tile.chunk_id) if tile.segment == segment else None
    if ref is None or ref.raw != tile.raw or ref.key_version != tile.key_version:
        return tile
    return replace(
        tile, segment=ref.segment, data=ref.data, parity=ref.parity,
        segment_length=ref.segment_length, at=ref.at, stored=ref.stored,
    )  # fmt: skip


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
