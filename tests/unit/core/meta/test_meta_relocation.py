"""Relocation: chunks are read from other segments; nothing else changes."""

from __future__ import annotations

import pytest

from cfs.core.api.meta import Extent
from cfs.core.api.store import ChunkRef
from cfs.core.errors import Condemned, FsError
from cfs.core.meta import keys, relocation
from cfs.core.meta import results as r
from cfs.core.meta.commands import Condemn, Relocate
from tests.model.shard_world import World, check, chunk
from tests.unit.core.meta.test_meta_files import commit, file, layout, segment


def moved(extent: Extent, *, to: bytes) -> ChunkRef:
    return ChunkRef(
        chunk_id=extent.chunk_id, segment=to, data=2, parity=2, segment_length=1 << 20, at=77,
        stored=extent.stored, raw=extent.raw, key_version=extent.key_version,
    )  # fmt: skip


def test_every_piece_of_a_chunk_follows_and_the_old_segment_is_garbage() -> None:
    world = World()
    ino = file(world)
    first, second = chunk(0, 100, 1), chunk(200, 100, 1)
    commit(world, ino, first, second)
    commit(world, ino, chunk(30, 10, 2, segment=2))
    before = layout(world, ino)
    done = world.one(0, Relocate(segment=first.segment, refs=(moved(first, to=segment(50)),)))
    assert isinstance(done, r.Relocated)
    assert done.replaced == 3
    after = layout(world, ino)
    assert [(e.offset, e.length, e.skip, e.chunk_id) for e in after] == [
        (e.offset, e.length, e.skip, e.chunk_id) for e in before
    ]
    assert {e.segment for e in after if e.chunk_id == first.chunk_id} == {segment(50)}
    assert {(e.data, e.parity, e.at) for e in after if e.segment == segment(50)} == {(2, 2, 77)}
    assert world.kvs[0].get(keys.candidate(first.segment)) is not None
    check(world)
    again = world.one(0, Relocate(segment=first.segment, refs=(moved(first, to=segment(51)),)))
    assert again.replaced == 0


def test_references_are_gone_through_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relocation, "REFERENCES_MAX", 2)
    world = World()
    inos = [file(world, b"f%d" % n) for n in range(5)]
    shared = chunk(0, 100, 1)
    for ino in inos:
        commit(world, ino, shared)
    replaced, after = 0, b""
    for _ in range(4):
        done = world.one(
            0, Relocate(segment=shared.segment, refs=(moved(shared, to=segment(60)),), after=after)
        )
        replaced, after = replaced + done.replaced, done.after
        if not after:
            break
    assert replaced == 5
    assert all(layout(world, ino)[0].segment == segment(60) for ino in inos)
    check(world)


def test_nothing_is_read_from_what_is_being_collected_or_makes_no_sense() -> None:
    world = World()
    ino = file(world)
    extent = chunk(0, 100, 1)
    commit(world, ino, extent)
    world.one(0, Condemn(round=1, segments=(segment(50),)))
    ref = moved(extent, to=segment(50))
    with pytest.raises(Condemned):
        world.one(0, Relocate(segment=extent.segment, refs=(ref,)))
    with pytest.raises(FsError):
        world.one(0, Relocate(segment=segment(50), refs=(ref,)))
    assert layout(world, ino)[0].segment == extent.segment
    check(world)
