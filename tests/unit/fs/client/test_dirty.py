"""Dirty bytes against a plain array, whether they were copied or stay where they landed."""

from __future__ import annotations

import random

import pytest

from cfs.fs.client.dirty import RUN_BYTES_MAX, RUN_COST, Dirty
from cfs.fs.client.landing import KEPT_BYTES_MIN, SLAB_BYTES, Kept, Landing

SPAN = 3 << 20


def content(dirty: Dirty) -> dict[int, int]:
    """Give every dirty byte by offset, and check the map's order and counts."""
    found: dict[int, int] = {}
    end = -1
    for start, run in dirty.runs():
        assert start >= end
        end = start + len(run)
        found.update(zip(range(start, end), bytes(run), strict=True))
    assert dirty.size == len(found)
    assert dirty.end == max(end, 0)
    assert dirty.cost == dirty.size + RUN_COST * len(list(dirty.runs()))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_against_a_dict(seed: int) -> None:
    chance = random.Random(seed)
    landing = Landing(room_bytes=1 << 20, bytes_max=64 << 20)
    dirty, model = Dirty(), {}
    offset = 0
    for _ in range(60):
        size = chance.choice((1, 100, 5000, KEPT_BYTES_MIN, 200_000))
        offset = offset if chance.random() < 0.6 else chance.randrange(SPAN)
        data = chance.randbytes(size)
        match chance.randrange(8):
            case 0:
                dirty.cut(offset, offset + size)
                model = {o: b for o, b in model.items() if not offset <= o < offset + size}
            case 1:
                tail = dirty.split(offset)
                assert content(tail) == {o: b for o, b in model.items() if o >= offset}
                assert content(dirty) == {o: b for o, b in model.items() if o < offset}
                newer = Dirty()
                newer.write(offset + 1, data)
                dirty.take_over(tail)
                dirty.take_over(newer)
                model.update(zip(range(offset + 1, offset + 1 + size), data, strict=True))
            case _:
                landing.room[:size] = data
                kept = landing.keep(size)
                if kept is None:
                    dirty.write(offset, landing.room[:size])
                else:
                    dirty.keep(offset, kept)
                model.update(zip(range(offset, offset + size), data, strict=True))
                offset += size
        landing.room[:] = bytes(len(landing.room))  # whatever lands next
    assert content(dirty) == model
    joined = {}
    for start, run in dirty.joined():
        joined.update(zip(range(start, start + len(run)), bytes(run), strict=True))
    assert joined == model


def test_what_lands_side_by_side_is_one_run() -> None:
    landing = Landing(room_bytes=1 << 20, bytes_max=32 << 20)
    dirty = Dirty()
    for number in range(8):
        landing.room[:1] = bytes([number])
        kept = landing.keep(1 << 20)
        assert kept is not None
        dirty.keep(number << 20, kept)
    assert [len(run) for _, run in dirty.runs()] == [SLAB_BYTES]
    offset, whole = dirty.take_first()
    assert (offset, len(whole), bool(dirty)) == (0, SLAB_BYTES, False)
    assert [whole.view[n << 20] for n in range(8)] == list(range(8))


def test_a_run_that_was_taken_never_grows() -> None:
    dirty = Dirty()
    dirty.write(0, b"old")
    _, kept = dirty.take_first()
    taken = Dirty()
    taken.keep(0, kept)
    taken.take_over(dirty)
    taken.write(3, b"new")
    assert bytes(kept.view) == b"old"
    assert content(taken) == dict(enumerate(b"oldnew"))
    assert RUN_BYTES_MAX > 6


def test_slabs_are_bounded_used_again_and_given_up() -> None:
    landing = Landing(room_bytes=1 << 20, bytes_max=2 * SLAB_BYTES)
    held: list[Kept] = []
    while (kept := landing.keep(1 << 20)) is not None:
        held.append(kept)
    assert len(held) == 15  # the room that is left is where the next request lands
    assert landing.keep(KEPT_BYTES_MIN - 1) is None
    first = id(held[0].slab.obj)
    del held[:8], kept
    again = landing.keep(1 << 20)
    assert again is not None
    assert id(landing.room.obj) == first
    del held, again
    landing.trim()
    assert id(landing.room.obj) == first
    landing.room[:2] = b"ok"
    kept = landing.keep(KEPT_BYTES_MIN)
    assert kept is not None
    assert bytes(kept.view[:2]) == b"ok"
