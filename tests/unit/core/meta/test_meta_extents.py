"""The overlay algebra against plain lists of labels, one a byte."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.meta import extents, pages
from tests.model.shard_world import chunk, inline, labels

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)


@st.composite
def runs(draw: st.DrawFn) -> list[Extent]:
    """Ordered, disjoint extents, with gaps and holes."""
    at, out = draw(st.integers(0, 60)), []
    for _ in range(draw(st.integers(1, 6))):
        length, skip = draw(st.integers(1, 12)), draw(st.integers(0, 3))
        label = draw(st.integers(1, 1 << 20))
        kind = draw(st.sampled_from(["chunk", "inline", "hole"]))
        if kind == "chunk":
            out.append(chunk(at, length, label, skip=skip))
        elif kind == "inline":
            settled = inline(at, length, label, skip=skip)
            out.append(settled)
        else:
            out.append(extents.hole(at, length))
        at += length + draw(st.sampled_from([0, 0, 5]))
    return out


def spell(tiles: list[Extent]) -> list[tuple[int, int] | None]:
    out: list[tuple[int, int] | None] = []
    for tile in tiles:
        if tile.kind is ExtentKind.HOLE:
            out += [None] * tile.length
        else:
            label = int.from_bytes(tile.chunk_id, "big")
            out += [(label, tile.skip + n) for n in range(tile.length)]
    return out


def tiled(tiles: list[Extent], start: int = 0) -> bool:
    for tile in tiles:
        if tile.offset != start or tile.length <= 0:
            return False
        start += tile.length
    kinds = [tile.kind for tile in tiles]
    return all(not a is b is ExtentKind.HOLE for a, b in itertools.pairwise(kinds))


@SETTINGS
@given(st.lists(runs(), min_size=1, max_size=8))
def test_overlay_is_writing_bytes(history: list[list[Extent]]) -> None:
    tiles: list[Extent] = []
    model: list[tuple[int, int] | None] = []
    for run in history:
        tiles = extents.overlay(tiles, run)
        for extent in run:
            end = extent.offset + extent.length
            model += [None] * (end - len(model))
            model[extent.offset : end] = spell([extent])
        assert tiled(tiles)
        assert spell(tiles) == model
        assert extents.allocated(tiles) == sum(b is not None for b in model)


@SETTINGS
@given(runs(), st.integers(0, 200))
def test_truncate_and_extend_are_slicing(run: list[Extent], size: int) -> None:
    tiles = extents.overlay([], run)
    whole = spell(tiles)
    cut = extents.truncate(tiles, size)
    assert tiled(cut)
    assert spell(cut) == whole[:size]
    grown = extents.extend(tiles, size)
    assert tiled(grown)
    assert spell(grown) == whole + [None] * (size - len(whole))


@SETTINGS
@given(runs(), st.integers(0, 1 << 40))
def test_a_page_gives_back_its_tiles(run: list[Extent], offset: int) -> None:
    tiles = extents.overlay([], run)
    stored = pages.encode(tiles, since=3)
    back: list[Extent] = []
    pages.decode_into(back, offset, stored)
    assert tiled(back, offset)
    assert spell(back) == spell(tiles)
    assert [t.segment for t in back] == [t.segment for t in tiles]


def test_an_origin_is_where_tiles_begin() -> None:
    assert extents.overlay([], [chunk(30, 5, 1)], origin=20)[0] == extents.hole(20, 10)
    assert labels(tuple(extents.overlay([], [chunk(20, 5, 1)], origin=20))) == [
        (1, n) for n in range(5)
    ]
