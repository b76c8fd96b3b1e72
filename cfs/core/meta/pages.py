"""Pages of extents: how a file's tiles are kept, loaded in windows and stored again.

A page holds up to 64 consecutive tiles under the offset of its first; the pages of a file tile
`[0, size)`, an empty file has none. A *window* is the run of whole pages a change touches. Storing
it counts, by difference, what its tiles refer to: segments by bucket, inline chunks by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.kv import Reader
from cfs.core.meta import keys
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import PAGE, Page, SegmentRef, Tile, since_of

TILES_MAX = 64
_KINDS = (ExtentKind.HOLE, ExtentKind.CHUNK, ExtentKind.INLINE)
_HOLE, _CHUNK, _INLINE = _KINDS
_RANGE_MAX = keys.OFFSET_MAX + 1


class Window:
    """Consecutive pages of one file: where each starts, and all their tiles."""

    __slots__ = ("starts", "tiles")

    def __init__(self, starts: list[int], tiles: list[Extent]) -> None:
        self.starts = starts
        self.tiles = tiles


def load(kv: Reader, ino: int, start: int, stop: int) -> Window:
    """Load the pages that overlap `[start, stop)`; beyond the end of the file, the last page."""
    starts: list[int] = []
    tiles: list[Extent] = []
    first = next(kv.scan(keys.page(ino, 0), keys.page(ino, start + 1), reverse=True), None)
    if first is not None:
        starts.append(keys.number_at(first[0], 9))
        decode_into(tiles, starts[0], first[1])
    for key, value in kv.scan(keys.page(ino, start + 1), keys.page(ino, max(stop, start + 1))):
        starts.append(keys.number_at(key, 9))
        decode_into(tiles, starts[-1], value)
    return Window(starts, tiles)


def store(draft: Draft, ino: int, window: Window, tiles: Sequence[Extent]) -> int:
    """Replace a window's tiles and give the difference in allocated bytes."""
    before = window.tiles
    difference = account(draft, ino, before, -1) + account(draft, ino, tiles, 1)
    appended = not before or not tiles or _end(tiles) > _end(before)
    kept: set[int] = set()
    for piece in _split(tiles, appended=appended):
        start = piece[0].offset
        kept.add(start)
        draft.put(keys.page(ino, start), encode(piece, draft.state.epoch))
    for start in window.starts:
        if start not in kept:
            draft.delete(keys.page(ino, start))
    draft.state.logical_bytes += difference
    return difference


def repack(draft: Draft, ino: int, start: int, change: Callable[[Extent], Extent]) -> int:
    """Replace tiles of one page by what means the same; give how many.

    The page stays as old as it was, so snapshots that show it show it so too.
    """
    key = keys.page(ino, start)
    value = draft.get(key)
    assert value is not None
    before: list[Extent] = []
    decode_into(before, start, value)
    after = [change(tile) for tile in before]
    count = sum(new is not old for new, old in zip(after, before, strict=True))
    if count:
        account(draft, ino, before, -1)
        account(draft, ino, after, 1)
        draft.repack(key, encode(after, since_of(value)))
    return count


def read(kv: Reader, ino: int, start: int, stop: int) -> Iterable[Extent]:
    """Yield the tiles that overlap `[start, stop)`, page by page."""
    first = next(kv.scan(keys.page(ino, 0), keys.page(ino, start + 1), reverse=True), None)
    begin = keys.number_at(first[0], 9) if first is not None else start
    for key, value in kv.scan(keys.page(ino, begin), keys.page(ino, min(stop, _RANGE_MAX))):
        tiles: list[Extent] = []
        decode_into(tiles, keys.number_at(key, 9), value)
        for tile in tiles:
            if tile.offset >= stop:
                return
            if tile.offset + tile.length > start:
                yield tile


def encode(tiles: Sequence[Extent], since: int) -> bytes:
    """Encode one page."""
    indexes: dict[tuple[bytes, int, int, int], int] = {}
    stored: list[Tile] = []
    for t in tiles:
        if t.kind is _CHUNK:
            segment = (t.segment, t.data, t.parity, t.segment_length)
            index = indexes.setdefault(segment, len(indexes))
            stored.append(
                Tile(t.length, 1, t.chunk_id, t.raw, t.skip, t.key_version, index, t.at, t.stored)
            )
        elif t.kind is _HOLE:
            stored.append(Tile(t.length))
        else:
            stored.append(
                Tile(t.length, 2, t.chunk_id, t.raw, t.skip, t.key_version, 0, 0, t.stored,
                     t.inline_id)
            )  # fmt: skip
    segments = tuple(SegmentRef(*segment) for segment in indexes)
    return PAGE.encode(Page(segments, tuple(stored)), since)


def decode_into(tiles: list[Extent], offset: int, value: bytes) -> None:
    """Append the tiles of the page that starts at `offset`."""
    page = PAGE.decode(value)
    segments = page.segments
    for t in page.tiles:
        if t.kind == 1:
            s = segments[t.ref]
            tiles.append(
                Extent(
                    offset=offset, length=t.length, kind=_CHUNK, chunk_id=t.chunk_id, raw=t.raw,
                    skip=t.skip, key_version=t.key_version, segment=s.segment, data=s.data,
                    parity=s.parity, segment_length=s.segment_length, at=t.at, stored=t.stored,
                )
            )  # fmt: skip
        elif t.kind == 0:
            tiles.append(Extent(offset=offset, length=t.length))
        else:
            tiles.append(
                Extent(
                    offset=offset, length=t.length, kind=_INLINE, chunk_id=t.chunk_id, raw=t.raw,
                    skip=t.skip, key_version=t.key_version, stored=t.stored,
                    inline_id=t.inline_id,
                )
            )  # fmt: skip
        offset += t.length


def account(draft: Draft, ino: int, tiles: Sequence[Extent], sign: int) -> int:
    """Count what tiles refer to, once more or once less; give their allocated bytes, signed."""
    allocated = 0
    for tile in tiles:
        kind = tile.kind
        if kind is _HOLE:
            continue
        allocated += tile.length
        if kind is _CHUNK:
            draft.refer(tile.segment, ino, tile.offset >> keys.BUCKET_SHIFT, sign)
        else:
            draft.mark(tile.inline_id, ino, sign)
    return sign * allocated


def _split(tiles: Sequence[Extent], *, appended: bool) -> Iterable[Sequence[Extent]]:
    """Cut tiles into pages: full ones where a file grows, even ones where it is overwritten."""
    count = len(tiles)
    if count <= TILES_MAX:
        if count:
            yield tiles
        return
    pages = -(-count // TILES_MAX)
    size = TILES_MAX if appended else -(-count // pages)
    for at in range(0, count, size):
        yield tiles[at : at + size]


def _end(tiles: Sequence[Extent]) -> int:
    return tiles[-1].offset + tiles[-1].length
