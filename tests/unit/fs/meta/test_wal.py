"""The write-ahead log: bytes, replay, torn tails, damage, reclaim, failing disks."""

from __future__ import annotations

import errno
import random

import pytest

from cfs.core.errors import Corrupt
from cfs.core.raft.message import Config, Entry, EntryKind, HardState, SnapshotMeta
from cfs.fs.disk.memory import MemoryDirectory, MemoryFile
from cfs.fs.meta import wal_format
from cfs.fs.meta.wal import SEGMENTS_MAX, LogFailed, Replayed, Wal
from cfs.fs.meta.wal_format import (
    PIECE_BYTES,
    RECORD_MAGIC,
    Kind,
    Record,
    encode_batch,
    segment_header,
)

FIRST = "wal-0000000000000001"


@pytest.fixture(params=[PIECE_BYTES, 80], autouse=True)
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_format, "PIECE_BYTES", request.param)


def entry(index: int, term: int = 1, data: bytes = b"data") -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data)


def entries(group: int, first: int, last: int, term: int = 1, data: bytes = b"data") -> Record:
    return Record(Kind.ENTRIES, group, tuple(entry(i, term, data) for i in range(first, last + 1)))


def mark(group: int, index: int, term: int = 1, kind: Kind = Kind.MARK) -> Record:
    return Record(kind, group, SnapshotMeta(index=index, term=term, config=Config(voters=(1, 2))))


def indexes(replayed: Replayed) -> list[tuple[int, int]]:
    return [(e.index, e.term) for e in replayed.entries]


def raw(directory: MemoryDirectory, name: str = FIRST) -> bytes:
    file = directory.open(name)
    return file.pread(0, file.size())


def rebuilt(data: bytes, name: str = FIRST) -> MemoryDirectory:
    directory = MemoryDirectory()
    file = directory.open(name, create=True)
    file.append([data])
    file.sync()
    directory.sync()
    return directory


def test_golden_bytes() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory)
    wal.write(
        [
            Record(Kind.STATE, 3, HardState(term=2, vote=1, commit=4)),
            Record(Kind.ENTRIES, 3, (entry(5, 2, b"x"),)),
        ]
    )
    assert raw(directory).hex() == (
        "43465357414c30310100000000000000ade943d900000000"
        "524c43570400000001000000030001005d141a4f93020104"
        "524c43570800000001000000030002013d3411339194050200c40178"
    )


def test_replay_gives_back_what_was_written() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory)
    wal.write([mark(1, 0, 0), Record(Kind.STATE, 1, HardState(term=1)), mark(2, 0, 0)])
    wal.write([entries(1, 1, 5), entries(2, 1, 3)])
    wal.write([entries(1, 4, 6, term=2), Record(Kind.TRUNCATE, 2, 3), mark(9, 0, 0)])
    wal.write([mark(1, 2), Record(Kind.STATE, 1, HardState(term=2, vote=3, commit=4))])
    wal.write([Record(Kind.REMOVE, 9, None), mark(2, 7, 3, Kind.RESET), entries(2, 8, 8, 3)])
    directory.crash()
    wal = Wal(directory)
    assert wal.torn is None
    assert set(wal.replayed) == {1, 2}
    one, two = wal.replayed[1], wal.replayed[2]
    assert one.state == HardState(term=2, vote=3, commit=4)
    assert one.snapshot.index == 2
    assert indexes(one) == [(3, 1), (4, 2), (5, 2), (6, 2)]
    assert two.snapshot.index == 7
    assert indexes(two) == [(8, 3)]
    assert not one.doubtful
    wal.write([entries(2, 9, 9, 3)])
    assert indexes(Wal(directory).replayed[2]) == [(8, 3), (9, 3)]


def test_torn_tail_at_every_byte_is_cut_and_reported() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory)
    wal.write([mark(1, 0, 0), mark(2, 0, 0)])
    wal.write([entries(1, 1, 2), entries(2, 1, 1)])
    kept = len(raw(directory))
    wal.write(
        [entries(1, 3, 4), entries(2, 2, 3), Record(Kind.STATE, 1, HardState(term=9, commit=77))]
    )
    whole = raw(directory)
    for size in range(kept, len(whole)):
        for tail in (b"", bytes(7), b"\xff" * 3):
            damaged = rebuilt(whole[:size] + tail)
            again = Wal(damaged)
            assert indexes(again.replayed[1]) == [(1, 1), (2, 1)]
            assert indexes(again.replayed[2]) == [(1, 1)]
            torn = size + len(tail) > kept
            assert (again.torn is not None) == torn
            assert all(r.doubtful == torn for r in again.replayed.values())
    # The doubt outlives another restart, until it is lifted.
    damaged = rebuilt(whole[:-1])
    Wal(damaged)
    damaged.crash()
    again = Wal(damaged)
    assert again.torn is None
    assert again.replayed[1].doubtful
    again.write([Record(Kind.DOUBT, 1, False), entries(1, 3, 3, 2)])
    third = Wal(damaged)
    assert not third.replayed[1].doubtful
    assert third.replayed[2].doubtful
    assert indexes(third.replayed[1]) == [(1, 1), (2, 1), (3, 2)]


def test_short_tails_need_not_raise_doubt_but_wrong_bytes_do() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory)
    wal.write([mark(1, 0, 0)])
    kept = len(raw(directory))
    wal.write([entries(1, 1, 2), Record(Kind.STATE, 1, HardState(term=9, commit=77))])
    whole = raw(directory)
    for size in range(kept, len(whole)):
        short = Wal(rebuilt(whole[:size]), doubt_short_tails=False)
        assert not short.replayed[1].doubtful
        assert (short.torn is not None) == (size > kept)
        assert short.replayed[1].entries == []
        zeroed = rebuilt(whole[:size] + bytes(len(whole) - size))
        assert Wal(zeroed, doubt_short_tails=False).replayed[1].doubtful == (size < len(whole))
    last_record = whole.rindex(RECORD_MAGIC.to_bytes(4, "little"))
    for offset in range(kept, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x01
        again = Wal(rebuilt(bytes(damaged)), doubt_short_tails=False)
        # A last length that points past the end is all that looks like a missing end.
        length = offset in range(last_record + 4, last_record + 8)
        assert again.replayed[1].doubtful is not (length and damaged[offset] > whole[offset])


def test_torn_first_batch_leaves_an_empty_log() -> None:
    directory = MemoryDirectory()
    Wal(directory).write([mark(1, 0, 0)])
    whole = raw(directory)
    for size in range(len(whole)):
        damaged = rebuilt(whole[:size])
        wal = Wal(damaged)
        assert wal.replayed == {}
        wal.write([mark(4, 0, 0)])
        assert set(Wal(damaged).replayed) == {4}


def test_damage_before_a_later_batch_is_refused_at_every_byte() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory)
    wal.write([mark(1, 0, 0)])
    wal.write([entries(1, 1, 1)])
    safe = len(raw(directory))
    wal.write([entries(1, 2, 2)])
    whole = raw(directory)
    for offset in range(safe):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x40
        disk = rebuilt(bytes(damaged))
        with pytest.raises(Corrupt, match=FIRST):
            Wal(disk)
        assert raw(disk) == bytes(damaged)
    for offset in range(safe, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x40
        assert Wal(rebuilt(bytes(damaged))).torn is not None


def test_damage_inside_an_unfinished_batch_is_a_torn_tail() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory)
    wal.write([mark(1, 0, 0)])
    start = len(raw(directory))
    wal.write([entries(1, 1, 1), entries(1, 2, 2)])
    whole = bytearray(raw(directory))
    whole[start : start + 8] = bytes(8)
    again = Wal(rebuilt(bytes(whole)))
    assert again.torn is not None
    assert again.replayed[1].entries == []


def test_stale_bytes_of_another_place_are_not_taken_for_live_ones() -> None:
    batch = b"".join(encode_batch([entries(1, 1, 1)], sequence=1, offset=24, batch=1))
    moved = segment_header(1) + batch + batch
    wal = Wal(rebuilt(moved))
    assert wal.torn is not None
    assert indexes(wal.replayed[1]) == [(1, 1)]
    assert Wal(rebuilt(segment_header(2) + batch, "wal-0000000000000002")).replayed == {}


def test_segments_are_reclaimed_and_idle_groups_pin_nothing() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory, segment_bytes=2000)
    wal.write([mark(1, 0, 0), mark(7, 0, 0), Record(Kind.STATE, 7, HardState(term=5, vote=2))])
    wal.write([entries(7, 1, 3, 5)])
    for index in range(1, 200):
        wal.write([entries(1, index, index, data=bytes(100)), mark(1, max(0, index - 3))])
        assert len(directory.names()) <= SEGMENTS_MAX + 1
    assert wal.bytes_used() < 10_000
    directory.crash()
    again = Wal(directory, segment_bytes=2000)
    assert indexes(again.replayed[7]) == [(1, 5), (2, 5), (3, 5)]
    assert again.replayed[7].state == HardState(term=5, vote=2)
    assert [i for i, _ in indexes(again.replayed[1])] == [197, 198, 199]
    again.write([entries(7, 3, 4, 6)])
    for index in range(200, 300):
        again.write([entries(1, index, index, data=bytes(100)), mark(1, index - 3)])
    final = Wal(directory, segment_bytes=2000)
    assert indexes(final.replayed[7]) == [(1, 5), (2, 5), (3, 6), (4, 6)]


def test_no_segment_is_in_memory_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0
    read = MemoryFile.pread

    def pread(file: MemoryFile, offset: int, length: int) -> bytes:
        nonlocal longest
        longest = max(longest, length)
        return read(file, offset, length)

    monkeypatch.setattr(MemoryFile, "pread", pread)
    directory = MemoryDirectory()
    wal = Wal(directory, segment_bytes=20_000)
    wal.write([mark(1, 0, 0), entries(7, 1, 3, 5)])
    for index in range(1, 800):
        wal.write([entries(1, index, index, data=bytes(100)), mark(1, max(0, index - 3))])
    assert wal.damage() == ""
    assert [i for i, _ in indexes(Wal(directory).replayed[7])] == [1, 2, 3]
    assert longest <= max(wal_format.PIECE_BYTES, 200)


def test_damage_in_an_older_segment_is_refused() -> None:
    directory = MemoryDirectory()
    wal = Wal(directory, segment_bytes=500)
    wal.write([mark(1, 0, 0)])
    for index in range(1, 12):
        wal.write([entries(1, index, index, data=bytes(100))])
    name = directory.names()[-2]
    directory.flip(name, len(raw(directory, name)) - 1)
    with pytest.raises(Corrupt, match=name):
        Wal(directory)


def test_failed_sync_poisons_the_log() -> None:
    for nth in (1, 2):
        directory = MemoryDirectory()
        wal = Wal(directory)
        wal.write([mark(1, 0, 0)])
        directory.fail(nth, errno.EIO)
        with pytest.raises(LogFailed):
            wal.write([entries(1, 1, 1)])
        directory.heal()
        with pytest.raises(LogFailed):
            wal.write([entries(1, 1, 1)])
        directory.crash()
        assert Wal(directory).replayed[1].entries == []


Logs = dict[int, list[tuple[int, int]]]


def _workload(wal: Wal, chance: random.Random, acked: Logs, tried: Logs) -> None:
    tried.update({g: [] for g in (1, 2, 3)})
    wal.write([mark(g, 0, 0) for g in (1, 2, 3)])
    acked.update(tried)
    marks = dict.fromkeys((1, 2, 3), 0)
    for step in range(40):
        records = []
        after = {g: list(log) for g, log in acked.items()}
        for group in (1, 2) if step > 3 else (1, 2, 3):
            last = marks[group] + len(after[group])
            first = chance.randrange(max(marks[group] + 1, last - 1), last + 2)
            count = chance.randrange(1, 4)
            records.append(entries(group, first, first + count - 1, step, bytes(60)))
            after[group] = [p for p in after[group] if p[0] < first]
            after[group] += [(i, step) for i in range(first, first + count)]
            if chance.random() < 0.5:
                new = chance.randrange(marks[group], after[group][-1][0] + 1)
                records.append(mark(group, new))
                marks[group] = new
                after[group] = [p for p in after[group] if p[0] > new]
        tried.update(after)
        wal.write(records)
        acked.update(after)


def test_crash_at_each_call_keeps_every_acknowledged_batch() -> None:
    nth = 0
    finished = False
    while not finished:
        nth += 1
        directory = MemoryDirectory()
        wal = Wal(directory, segment_bytes=700)
        acked: Logs = {}
        tried: Logs = {}
        directory.fail(nth, errno.EIO, for_ever=True)
        try:
            _workload(wal, random.Random(5), acked, tried)
            finished = True
        except LogFailed:
            pass
        tear = random.Random(nth)
        directory.crash(tear.randrange if nth % 2 else None)
        again = Wal(directory, segment_bytes=700)
        got = {g: indexes(r) for g, r in again.replayed.items()}
        # A batch that was never acknowledged may have reached the disk whole.
        assert got in (acked, tried)
        before = {g: indexes(r) for g, r in again.replayed.items()}
        directory.crash()
        assert {g: indexes(r) for g, r in Wal(directory).replayed.items()} == before
    assert nth > 80
