"""Data of files: sizes at the edge, pages, references, packing, collection."""

from __future__ import annotations

import errno

import pytest

from cfs.core.api.meta import Attr, Commit, Create, Extent, SetAttr, Unlink
from cfs.core.api.store import ChunkRef
from cfs.core.errors import CfsError, Condemned, FsError, Malformed, Unavailable, from_wire
from cfs.core.ids import SessionId, make_segment_id
from cfs.core.meta import keys, pages, read, trimming
from cfs.core.meta import results as r
from cfs.core.meta.commands import Collected, Condemn, Pack, Reclaim, Standing, Withdraw
from cfs.core.meta.files import SIZE_MAX
from tests.model.shard_world import REG, World, check, chunk, inline, labels

MAX = SIZE_MAX


def segment(n: int) -> bytes:
    return make_segment_id(SessionId(9), n)


def file(world: World, name: bytes = b"f") -> int:
    create = Create(parent=1, name=name, mode=REG | 0o644, uid=0, gid=0, lease=2)
    return world.op(create)[0].ino


def commit(world: World, ino: int, *extents: Extent, **more: int) -> Attr:
    return world.op(Commit(ino=ino, extents=extents, **more))[0]


def layout(world: World, ino: int) -> tuple[Extent, ...]:
    return read.layout(world.kvs[0], ino, 0, MAX, 1 << 30)[0]


def test_sparse_growth_is_one_hole() -> None:
    world = World()
    ino = file(world)
    assert world.op(SetAttr(ino=ino, size=MAX))[0].size == MAX
    commit(world, ino, chunk(10 << 40, 10, 1))
    commit(world, ino, chunk(MAX - 5, 5, 2))
    assert [(e.offset, e.length) for e in layout(world, ino)] == [
        (0, 10 << 40), (10 << 40, 10), ((10 << 40) + 10, MAX - 15 - (10 << 40)), (MAX - 5, 5),
    ]  # fmt: skip
    check(world)
    attr = world.op(SetAttr(ino=ino, size=(10 << 40) + 3))[0]
    assert attr.allocated == 3
    check(world)


@pytest.mark.parametrize(
    ("extents", "number"),
    [
        ((chunk(MAX - 1, 2, 1),), errno.EFBIG),
        ((chunk(5, 5, 1), chunk(0, 5, 2)), errno.EINVAL),
        ((chunk(0, 5, 1), chunk(4, 5, 2)), errno.EINVAL),
        ((Extent(offset=0, length=0),), errno.EINVAL),
        ((Extent(offset=-4, length=4),), errno.EINVAL),
        ((inline(0, 5, 1), Extent(offset=5, length=5, kind=2)), errno.EINVAL),
    ],
)
def test_extents_no_correct_client_sends(extents: tuple[Extent, ...], number: int) -> None:
    world = World()
    ino = file(world)
    with pytest.raises(FsError) as refused:
        commit(world, ino, *extents)
    assert refused.value.errno == number
    check(world)
    assert layout(world, ino) == ()


def test_sizes_beyond_the_limit_and_of_other_things() -> None:
    world = World()
    ino = file(world)
    for op, number in (
        (SetAttr(ino=ino, size=MAX + 1), errno.EFBIG),
        (SetAttr(ino=ino, size=-1), errno.EINVAL),
        (Commit(ino=1, extents=()), errno.EISDIR),
    ):
        with pytest.raises(FsError) as refused:
            world.op(op)
        assert refused.value.errno == number


def test_a_long_file_has_full_pages_and_reads_in_pieces() -> None:
    world = World()
    ino = file(world)
    for n in range(10):
        commit(world, ino, *(chunk((n * 50 + k) * 7, 7, n * 50 + k + 1) for k in range(50)))
    found = list(world.kvs[0].scan(keys.page(ino, 0), keys.page(ino + 1, 0)))
    assert len(found) == -(-500 // pages.TILES_MAX)
    at, pieces = 0, []
    while at < 3500:
        got, end = read.layout(world.kvs[0], ino, at, 3500 - at, 2000)
        assert end > at
        pieces += [e for e in got if not pieces or e.offset > pieces[-1].offset]
        at = end
    assert labels(tuple(pieces)) == labels(layout(world, ino))
    check(world)


def test_a_layout_gives_whole_extents_and_says_how_far() -> None:
    world = World()
    ino = file(world)
    commit(world, ino, inline(0, 10, 1), chunk(10, 10, 2))
    got, end = read.layout(world.kvs[0], ino, 5, 3, 1000)
    assert [(e.offset, e.length, e.inline) for e in got] == [(0, 10, b"sealed\0\0\0\1")]
    assert end == 10
    assert read.layout(world.kvs[0], ino, 40, 10, 1000) == ((), 50)


def test_mtime_may_be_given_and_size_asked() -> None:
    world = World()
    ino = file(world)
    attr = commit(world, ino, size=100, mtime_ns=77)
    assert (attr.size, attr.mtime_ns, attr.allocated) == (100, 77, 0)
    assert commit(world, ino, size=50).size == 100


def test_ctime_is_of_the_write_and_never_goes_back() -> None:
    world = World()
    ino = file(world)
    made = commit(world, ino, size=1)
    later = made.ctime_ns + 1000
    assert commit(world, ino, size=2, mtime_ns=later).ctime_ns == later
    assert commit(world, ino, size=3, mtime_ns=5).ctime_ns == later


def test_reverse_references_tell_what_lives_in_a_segment() -> None:
    world = World()
    ino = file(world)
    far = 1 << 40
    commit(world, ino, chunk(0, 30, 1, segment=4), chunk(far, 5, 1, segment=4))
    commit(world, ino, chunk(10, 5, 2, segment=5))
    kv = world.kvs[0]
    assert read.references(kv, segment(4)) == 3
    assert read.distinct_live(kv, segment(4)) == 64
    assert [e.offset for _, e in read.referrers(kv, segment(4))] == [0, 15, far]
    assert read.candidates(kv, 10) == ()
    world.op(SetAttr(ino=ino, size=0))
    assert read.candidates(kv, 10) == (segment(4), segment(5))
    assert read.candidates(kv, 10, segment(4)) == (segment(5),)
    commit(world, ino, chunk(0, 5, 1, segment=4))
    assert read.candidates(kv, 10) == (segment(5),)
    check(world)


def test_sealed_bytes_leave_with_their_last_extent() -> None:
    world = World()
    ino = file(world)
    commit(world, ino, inline(0, 30, 1))
    commit(world, ino, chunk(10, 5, 2))
    assert read.totals(world.kvs[0]).inline_bytes == 10
    world.op(SetAttr(ino=ino, size=12))
    commit(world, ino, chunk(0, 9, 3))
    assert read.totals(world.kvs[0]).inline_bytes == 10
    commit(world, ino, chunk(9, 1, 4))
    assert read.totals(world.kvs[0]).inline_bytes == 0
    check(world)


def test_packing_changes_where_bytes_are_and_nothing_else() -> None:
    world = World()
    ino = file(world)
    commit(world, ino, inline(0, 30, 1))
    commit(world, ino, chunk(10, 5, 2), inline(50, 5, 3))
    kv = world.kvs[0]
    before, bytes_before = read.attr(kv, ino), labels(layout(world, ino))
    first, second = read.inline_candidates(kv, world.time_ns + 10, 10)
    assert first.inline_id < second.inline_id
    assert read.inline_candidates(kv, second.inline_id, 10) == (first,)
    ref = ChunkRef(chunk_id=first.chunk_id, segment=segment(6), data=2, parity=1,
                   segment_length=500, at=3, stored=20, raw=first.raw, key_version=2)  # fmt: skip
    wrong = Pack(ino=ino, replacements=((second.inline_id, ref),))
    with pytest.raises(FsError):
        world.one(0, wrong)
    done = world.one(0, Pack(ino=ino, replacements=((first.inline_id, ref), (12345, ref))))
    assert done == r.Packed(replaced=1)
    assert read.attr(kv, ino) == before
    assert labels(layout(world, ino)) == bytes_before
    assert read.references(kv, segment(6)) == 2
    assert read.inline_candidates(kv, world.time_ns, 10) == (second,)
    check(world)


def test_condemned_and_deleted_segments_are_refused() -> None:
    world = World()
    ino = file(world)
    commit(world, ino, chunk(0, 5, 1, segment=4))
    live = world.one(0, Condemn(round=3, segments=(segment(4), segment(5)))).live
    assert live == (1, 0)
    assert world.one(0, Condemn(round=4, segments=(segment(5),))).live == (-1,)
    assert world.one(0, Standing(round=3)) == r.Stands(count=2)
    with pytest.raises(Condemned) as refused:
        commit(world, ino, chunk(5, 5, 1, segment=4), chunk(10, 5, 2, segment=5))
    assert refused.value.detail["segments"] == [segment(4), segment(5)]
    check(world)
    world.one(0, Withdraw(round=3))
    assert world.one(0, Standing(round=3)) == r.Stands(count=0)
    assert world.one(0, Condemn(round=3, segments=(segment(5),))).live == (-1,), "late, void"
    commit(world, ino, chunk(5, 5, 1, segment=5))
    with pytest.raises(Malformed):
        world.one(0, Condemn(round=9, segments=(b"short",)))


def test_deleted_segments_are_refused_for_ever_and_kept_as_ranges() -> None:
    world = World()
    ino = file(world)
    commit(world, ino, chunk(0, 5, 1, segment=4))
    numbers = [7, 5, 9, 6, 1, 8, 5, 4, 0, (1 << 64) - 1]
    world.one(0, Condemn(round=1, segments=tuple(segment(n) for n in numbers)))
    gone = world.one(0, Collected(round=1, segments=tuple(segment(n) for n in numbers)))
    assert gone.live == (segment(4),), "referred to: not deleted"
    kv = world.kvs[0]
    assert read.totals(kv).deleted == 3
    deleted = [n for n in range(12) if read.is_deleted(kv, segment(n))]
    assert deleted == [0, 1, 5, 6, 7, 8, 9]
    assert not read.is_deleted(kv, make_segment_id(SessionId(8), 5))
    for n in (0, 9, (1 << 64) - 1):
        with pytest.raises(CfsError):
            commit(world, ino, chunk(9, 5, 1, segment=n))
    commit(world, ino, chunk(9, 5, 1, segment=10))
    check(world)


def test_reclaiming_is_bounded_and_never_touches_what_has_a_name() -> None:
    world = World()
    ino = file(world)
    for n in range(6):
        commit(world, ino, *(chunk((n * 64 + k) * 7, 7, k + 1) for k in range(64)))
    with pytest.raises(FsError) as busy:
        world.one(0, Reclaim(ino=ino, budget=5))
    assert busy.value.errno == errno.EBUSY
    world.op(Unlink(parent=1, name=b"f"))
    assert read.orphans(world.kvs[0], 0, 10) == (ino,)
    commit(world, ino, inline(0, 5, 9))
    steps = 0
    while not world.one(0, Reclaim(ino=ino, budget=2)).done:
        steps += 1
        check(world)
    assert steps == 3
    assert world.one(0, Reclaim(ino=ino)).done
    assert read.totals(world.kvs[0]).inodes == 1
    check(world)


def test_a_long_file_is_emptied_at_once_and_trimmed_by_later_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trimming, "LAZY_PAGES_MIN", 3)
    monkeypatch.setattr(trimming, "STEP_PAGES", 2)
    monkeypatch.setattr(trimming, "GROWTH_PAGES_MAX", 4)
    world = World()
    ino = file(world)
    for n in range(12):
        commit(world, ino, *(chunk((n * 64 + k) * 7, 7, k + 1, segment=n) for k in range(64)))
    attr = world.op(SetAttr(ino=ino, size=0))[0]
    kv = world.kvs[0]
    assert (attr.size, attr.allocated) == (0, 0)
    assert layout(world, ino) == ()
    assert read.candidates(kv, 99) == (segment(10), segment(11)), "trimmed from the end"
    check(world)
    commit(world, ino, inline(0, 5, 9))
    check(world)
    leap = world.ops(SetAttr(ino=ino, size=6 * 448))[0]
    assert isinstance(from_wire(leap.error or []), Unavailable)
    while world.ops(SetAttr(ino=ino, size=6 * 448))[0].error:
        check(world)
    assert labels(layout(world, ino)) == [(9, n) for n in range(5)] + [None] * (6 * 448 - 5)
    while read.totals(kv).doomed:
        world.apply(0)
    assert len(read.candidates(kv, 99)) == 12
    assert read.totals(kv).logical_bytes == 5
    check(world)


@pytest.mark.parametrize("size", [1, 447, 448, 449, 5 * 448 + 3])
def test_a_long_file_is_cut_at_once_and_trimmed_by_later_entries(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(trimming, "LAZY_PAGES_MIN", 3)
    monkeypatch.setattr(trimming, "STEP_PAGES", 2)
    world = World()
    ino = file(world)
    for n in range(12):
        commit(world, ino, *(chunk((n * 64 + k) * 7, 7, k + 1, segment=n) for k in range(64)))
    before = labels(layout(world, ino))
    attr = world.op(SetAttr(ino=ino, size=size))[0]
    assert (attr.size, attr.allocated) == (size, size)
    assert labels(layout(world, ino)) == before[:size]
    kv = world.kvs[0]
    assert read.totals(kv).doomed
    check(world)
    commit(world, ino, chunk(size + 3, 7, 99))
    assert labels(layout(world, ino))[:size] == before[:size]
    assert labels(layout(world, ino))[size : size + 3] == [None] * 3
    check(world)
    world.op(SetAttr(ino=ino, size=max(1, size // 2)))
    check(world)
    while read.totals(kv).doomed:
        world.apply(0)
        check(world)
    assert labels(layout(world, ino)) == before[: max(1, size // 2)]
    assert read.totals(kv).logical_bytes == max(1, size // 2)
