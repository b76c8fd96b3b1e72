"""The overlay algebra of a file: pure functions on ordered lists of extents that tile a range.

A list of *tiles* is ordered, without gap or overlap; holes are tiles. Slicing a chunk moves its
`skip`, never its identity, so every piece still names the sealed bytes it comes from. Adjacent
holes are merged; nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cfs.core.api.meta import Extent, ExtentKind

_HOLE = ExtentKind.HOLE


def hole(offset: int, length: int) -> Extent:
    """Make a hole."""
    return Extent(offset=offset, length=length)


def end_of(tiles: Sequence[Extent], default: int = 0) -> int:
    """Give the offset after the last tile."""
    return tiles[-1].offset + tiles[-1].length if tiles else default


def cut(extent: Extent, start: int, stop: int) -> Extent:
    """Slice an extent to `[start, stop)`, which lies within it and is not empty."""
    assert extent.offset <= start < stop <= extent.offset + extent.length
    if extent.kind is _HOLE:
        return Extent(offset=start, length=stop - start)
    return Extent(
        offset=start,
        length=stop - start,
        kind=extent.kind,
        chunk_id=extent.chunk_id,
        raw=extent.raw,
        skip=extent.skip + start - extent.offset,
        key_version=extent.key_version,
        segment=extent.segment,
        data=extent.data,
        parity=extent.parity,
        segment_length=extent.segment_length,
        at=extent.at,
        stored=extent.stored,
        inline_id=extent.inline_id,
    )


def overlay(tiles: Sequence[Extent], new: Iterable[Extent], origin: int = 0) -> list[Extent]:
    """Lay `new` (ordered, disjoint) over `tiles`; what growth leaves uncovered becomes holes.

    `origin` is where the tiles start when there are none.
    """
    out: list[Extent] = []
    reached = tiles[0].offset if tiles else origin
    index, count = 0, len(tiles)
    tile = tiles[0] if tiles else None
    for extent in new:
        start = extent.offset
        stop = start + extent.length
        while tile is not None and (tile_end := tile.offset + tile.length) <= start:
            _push(out, tile)
            reached = tile_end
            index += 1
            tile = tiles[index] if index < count else None
        if tile is not None and tile.offset < start:
            _push(out, cut(tile, tile.offset, start))
        elif reached < start and tile is None:
            _push(out, hole(reached, start - reached))
        _push(out, extent)
        reached = max(reached, stop)
        while tile is not None and tile.offset + tile.length <= stop:
            index += 1
            tile = tiles[index] if index < count else None
        if tile is not None and tile.offset < stop:
            tile = cut(tile, stop, tile.offset + tile.length)
    while tile is not None:
        _push(out, tile)
        index += 1
        tile = tiles[index] if index < count else None
    return out


def truncate(tiles: Sequence[Extent], size: int) -> list[Extent]:
    """Drop everything from `size` on."""
    out: list[Extent] = []
    for tile in tiles:
        if tile.offset >= size:
            break
        stop = tile.offset + tile.length
        out.append(tile if stop <= size else cut(tile, tile.offset, size))
    return out


def extend(tiles: Sequence[Extent], size: int, origin: int = 0) -> list[Extent]:
    """Reach `size` with a hole."""
    out = list(tiles)
    end = end_of(out, origin)
    if end < size:
        _push(out, hole(end, size - end))
    return out


def allocated(tiles: Iterable[Extent]) -> int:
    """Sum the bytes that are not holes."""
    return sum(tile.length for tile in tiles if tile.kind is not _HOLE)


def _push(out: list[Extent], tile: Extent) -> None:
    if tile.kind is _HOLE and out and out[-1].kind is _HOLE:
        last = out[-1]
        out[-1] = Extent(offset=last.offset, length=last.length + tile.length)
    else:
        out.append(tile)
