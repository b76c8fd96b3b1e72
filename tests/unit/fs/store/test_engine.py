"""One disk: what a put and a delete promise, damage, space, faults."""

from __future__ import annotations

import errno
import random

import pytest

from cfs.core.api.store import ChunkRef
from cfs.core.errors import Corrupt, NoSpace, NotFound, Refused, Unavailable
from cfs.fs.store.engine import Disk
from cfs.fs.store.index import IndexDamaged

from .rig import Rig, delete, listing, make_put, read, segment_of, store


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def test_a_put_reads_back_whole_and_in_part():
    disk = Rig().open()
    payload = noise(1, 200_000)
    store(disk, make_put(1, payload))
    assert read(disk, 1) == payload
    for offset, length in ((0, 1), (65_536, 65_536), (65_535, 2), (199_999, 1), (100, 150_000)):
        _, data = disk.read(segment_of(1), 0, offset, length)
        assert bytes(data) == payload[offset : offset + length]
    _, data = disk.read(segment_of(1), -1, 5, 5)
    assert bytes(data) == payload[5:10]
    with pytest.raises(NotFound):
        disk.read(segment_of(1), 1, 0, 1)
    with pytest.raises(NotFound):
        disk.read(segment_of(2), -1, 0, 1)


def test_the_same_bytes_again_succeed_and_others_are_refused():
    rig = Rig()
    disk = rig.open()
    store(disk, make_put(1, b"a" * 9000))
    end = rig.directory.open("00000001.volume").size()
    store(disk, make_put(1, b"a" * 9000))
    for other in (make_put(1, b"b" * 9000), make_put(1, b"a" * 9001)):
        with pytest.raises(Refused):
            store(disk, other)
    assert rig.directory.open("00000001.volume").size() == end
    assert disk.counts().total.fragments == 1


def test_rivals_in_one_group_are_told_apart():
    disk = Rig().open()
    first, same, other = make_put(1, b"a" * 99), make_put(1, b"a" * 99), make_put(1, b"b" * 99)
    disk.commit([first, same, other], ())
    assert first.error is None
    assert same.error is None
    assert isinstance(other.error, Refused)
    assert read(disk, 1) == b"a" * 99


def test_an_answered_put_survives_power_loss():
    rig = Rig()
    disk = rig.open()
    for number in range(1, 40):
        store(disk, make_put(number, noise(number, 50_000)))
        if number % 7 == 0:
            disk.checkpoint()
        if number % 5 == 0:
            rig.crash(seed=number)
            disk = rig.open()
            for known in range(1, number + 1):
                assert read(disk, known) == noise(known, 50_000)
    assert not disk.warnings


def test_a_deleted_fragment_is_gone_for_good_and_its_blocks_are_free():
    rig = Rig()
    disk = rig.open()
    for number in range(1, 9):
        store(disk, make_put(number, noise(number, 100_000)), make_put(number, b"x", index=1))
    delete(disk, 1, 3, 5, 77)
    before = rig.directory.usage()[1]
    left = [(n, i) for n in (2, 4, 6, 7, 8) for i in (0, 1)]
    assert listing(disk) == left
    for again in range(3):
        rig.crash(seed=again)
        if again == 2:
            rig.store.durable.clear()
            rig.store.crash()
        disk = rig.open()
        assert listing(disk) == left
        assert rig.directory.usage()[1] >= before
    assert disk.allocated() <= 5 * (25 + 1 + 1) * 4096 + 8192
    store(disk, make_put(1, b"again"))
    rig.crash()
    rig.store.durable.clear()
    rig.store.crash()
    assert read(rig.open(), 1) == b"again"


def test_counts_follow_and_survive_a_rebuild():
    rig = Rig()
    disk = rig.open()
    for number in range(1, 5):
        store(disk, make_put(number, b"x" * 70_000, raw=100), make_put(number, b"y", index=1))
    delete(disk, 2)
    total = disk.counts().total
    assert (total.fragments, total.raw, total.sealed) == (6, 300, 150)
    assert total.stored == 3 * (70_000 + 64 + 8) + 3 * (1 + 64 + 4)
    disk.close()
    rig.store.durable.clear()
    rig.store.crash()
    disk = rig.open()
    assert disk.counts().total == total
    assert "rebuilt" not in disk.warnings  # an empty index is a new one: replayed all the same


def test_empty_volumes_are_removed_but_never_the_highest():
    rig = Rig(volume=300_000)
    disk = rig.open()
    for number in range(1, 11):
        store(disk, make_put(number, noise(number, 100_000)))
    assert len(rig.directory.names()) == 5
    delete(disk, *range(1, 11))
    disk.checkpoint()
    disk.checkpoint()
    assert rig.directory.names() == ["00000005.volume"]
    store(disk, make_put(20, noise(20, 100_000)), make_put(21, noise(21, 290_000)))
    assert rig.directory.names()[-1] == "00000006.volume"
    rig.crash()
    disk = rig.open()
    assert listing(disk) == [(20, 0), (21, 0)]


def test_more_volumes_than_open_files(monkeypatch):
    monkeypatch.setattr("cfs.fs.store.volume.OPEN_FILES_MAX", 3)
    rig = Rig(volume=120_000)
    disk = rig.open()
    for number in range(1, 13):
        store(disk, make_put(number, noise(number, 100_000)))
    assert len(rig.directory.names()) == 12
    for _ in range(2):
        for number in range(1, 13):
            assert read(disk, number) == noise(number, 100_000)
        disk.close()
        disk = rig.open()


def test_a_disk_whose_index_cannot_be_made_does_not_open():
    rig = Rig()

    def broken(_fresh):
        raise Corrupt("no")

    rig.open_store = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="index cannot be made"):
        rig.open()


def test_a_long_deletion_frees_its_space_in_pieces():
    rig = Rig(capacity=8 << 20, reserve=1 << 20)
    disk = rig.open()
    for number in range(1, 101):
        store(disk, make_put(number, noise(number, 60_000)))
    delete(disk, *range(1, 101))
    assert disk.allocated() > 60 * 60_000  # not all at once: puts wait meanwhile
    big = make_put(200, noise(200, 5_000_000))
    store(disk, big)  # needs what is not punched yet
    assert read(disk, 200) == big.payload
    delete(disk, 200)
    for number in range(300, 380):
        store(disk, make_put(number, noise(number, 60_000)))
    delete(disk, *range(300, 380))
    disk.checkpoint()
    disk.checkpoint()
    assert disk.allocated() <= 64 << 10
    assert not disk.counts().dead


@pytest.mark.parametrize("nth", range(1, 9))
def test_a_torn_tail_is_cut_and_what_was_answered_stays(nth: int):
    for seed in range(12):
        rig = Rig()
        disk = rig.open()
        store(disk, make_put(1, noise(1, 100_000)))
        rig.directory.fail(nth, errno.EIO, for_ever=True)
        put = make_put(2, noise(2, 100_000))
        disk.commit([put], ())
        rig.crash(seed=seed)
        disk = rig.open()
        assert read(disk, 1) == noise(1, 100_000)
        if put.error is None:
            assert read(disk, 2) == noise(2, 100_000)
        store(disk, make_put(2, noise(2, 100_000)), make_put(3, b"z"))
        assert read(disk, 2) == noise(2, 100_000)


def test_a_flipped_payload_bit_is_corrupt_counted_and_repairable():
    rig = Rig()
    disk = rig.open()
    payload = noise(1, 200_000)
    store(disk, make_put(1, payload), make_put(2, payload))
    rig.directory.flip("00000001.volume", 64 + 16 + 70_000)
    with pytest.raises(Corrupt):
        disk.read(segment_of(1), 0, 65_536, 10)
    assert bytes(disk.read(segment_of(1), 0, 0, 10)[1]) == payload[:10]
    assert disk.counts().corrupt_reads == 1
    disk.checkpoint()
    rig.crash()
    disk = rig.open()
    assert disk.counts().corrupt_reads == 1
    store(disk, make_put(1, payload, repair=True))
    assert read(disk, 1) == payload
    rig.crash()
    rig.store.durable.clear()
    rig.store.crash()
    disk = rig.open()
    assert read(disk, 1) == payload
    assert listing(disk) == [(1, 0), (2, 0)]


@pytest.mark.parametrize("place", [20, 64 + 8 + 50_000])  # in the segment id; in the payload
def test_a_damaged_record_in_the_middle_is_skipped_and_reported(place: int):
    rig = Rig()
    disk = rig.open()
    for number in range(1, 6):
        store(disk, make_put(number, noise(number, 100_000)))
    disk.close()
    rig.directory.flip("00000001.volume", 25 * 4096 + place)
    rig.store.durable.clear()
    rig.store.crash()
    disk = rig.open()
    assert listing(disk) == [(1, 0), (3, 0), (4, 0), (5, 0)]
    assert disk.counts().lost == 1
    assert "must be repaired" in disk.warnings["lost"]
    for number, _ in listing(disk):
        assert read(disk, number) == noise(number, 100_000)
    store(disk, make_put(2, noise(2, 100_000), repair=True))
    disk.close()
    assert read(rig.open(), 2) == noise(2, 100_000)


def test_a_record_hidden_in_a_payload_is_no_record():
    rig = Rig()
    disk = rig.open()
    store(disk, make_put(1, noise(1, 9000)))
    inner = rig.directory.open("00000001.volume").pread(0, 3 * 4096)
    outer = bytes(4096 - 64 - 4) + inner + bytes(4096)
    store(disk, make_put(2, outer), make_put(3, b"x"))
    disk.close()
    rig.directory.flip("00000001.volume", 3 * 4096 + 9)
    rig.store.durable.clear()
    rig.store.crash()
    assert listing(rig.open()) == [(1, 0), (3, 0)]


def test_a_damaged_index_is_noticed_and_rebuilt():
    rig = Rig()
    disk = rig.open()
    store(disk, make_put(1, b"one"), make_put(2, b"two"))
    disk.checkpoint()
    healthy = rig.store.get

    def damaged(key: bytes) -> bytes | None:
        if key.startswith(b"F"):
            raise Corrupt("a value fails its checksum")
        return healthy(key)

    rig.store.get = damaged  # type: ignore[method-assign]
    with pytest.raises(IndexDamaged):
        read(disk, 1)
    assert disk.damaged
    disk.rebuild()
    assert read(disk, 1) == b"one"
    assert not disk.damaged
    assert "rebuilt" in disk.warnings
    disk.close()
    rig.store.get = damaged  # type: ignore[method-assign]
    assert listing(rig.open()) == [(1, 0), (2, 0)]


def test_an_index_ahead_of_its_log_is_rebuilt():
    rig = Rig()
    disk = rig.open()
    store(disk, make_put(1, b"one"), make_put(2, b"two"))
    disk.close()
    rig.directory.open("00000001.volume").truncate(4096)
    disk = rig.open()
    assert listing(disk) == [(1, 0)]
    assert "rebuilt" in disk.warnings


def fill(disk: Disk, first: int, *, repair: bool = False) -> int:
    """Put until the disk refuses; give the number refused."""
    for number in range(first, first + 100):
        try:
            store(disk, make_put(number, noise(number, 200_000), repair=repair))
        except NoSpace:
            return number
    raise AssertionError("the disk never filled up")


def test_the_reserve_is_for_repair_and_deletion():
    rig = Rig(capacity=4 << 20, reserve=1 << 20)
    disk = rig.open()
    refused = fill(disk, 1)
    assert 10 < refused < 20
    store(disk, make_put(refused, noise(refused, 200_000), repair=True))
    assert fill(disk, 200, repair=True) < 210
    delete(disk, *range(1, 8))
    store(disk, make_put(400, noise(400, 200_000)))
    assert read(disk, 400) == noise(400, 200_000)
    assert not disk.fenced


def test_a_really_full_disk_cuts_the_tail_and_deletes_all_the_same():
    rig = Rig(capacity=1 << 20, reserve=0)
    disk = rig.open()
    for number in range(1, 5):
        store(disk, make_put(number, noise(number, 200_000)))
    rig.directory.capacity = rig.directory.usage()[0] - rig.directory.usage()[1] + 8192
    total = rig.directory.capacity
    usage = rig.directory.usage
    rig.directory.usage = lambda: (total, 1 << 30)  # type: ignore[method-assign] # somebody else takes it
    size = rig.directory.open("00000001.volume").size()
    with pytest.raises(NoSpace):
        store(disk, make_put(9, noise(9, 200_000)))
    assert rig.directory.open("00000001.volume").size() == size
    rig.directory.capacity -= 8192  # not even a tombstone fits
    delete(disk, 1)
    assert [n for n, _ in listing(disk)] == [2, 3, 4]
    rig.directory.usage = usage  # type: ignore[method-assign]
    store(disk, make_put(9, noise(9, 150_000)))
    rig.crash()
    assert [n for n, _ in listing(rig.open())] == [2, 3, 4, 9]


def test_a_failing_disk_is_fenced_and_goes_on_reading():
    rig = Rig()
    disk = rig.open()
    store(disk, make_put(1, b"one"))
    rig.directory.fail(2, errno.EIO)
    with pytest.raises(Unavailable):
        store(disk, make_put(2, b"two"))
    assert disk.fenced
    assert "d0" in disk.warnings["fenced"]
    with pytest.raises(Unavailable):
        delete(disk, 1)
    assert read(disk, 1) == b"one"


def test_an_unreadable_block_is_a_corrupt_read():
    rig = Rig()
    disk = rig.open()
    store(disk, make_put(1, b"one"))
    rig.directory.fail(1, errno.EIO, for_ever=True)
    with pytest.raises(Corrupt):
        read(disk, 1)
    rig.directory.heal()
    assert read(disk, 1) == b"one"
    assert disk.counts().corrupt_reads == 1


def test_dedupe_entries_die_with_their_segment():
    rig = Rig()
    disk = rig.open()

    def ref(chunk: int, segment: int) -> ChunkRef:
        return ChunkRef(
            chunk_id=chunk.to_bytes(32, "big"),
            segment=segment_of(segment),
            data=2,
            parity=1,
            segment_length=9,
            at=chunk,
            stored=4,
            raw=8,
            key_version=1,
        )

    disk.index.publish([ref(1, 1), ref(2, 1), ref(3, 2)])
    disk.checkpoint()
    disk.index.publish([ref(2, 2), ref(4, 1)])
    delete(disk, 1)
    for _ in range(2):
        found = [disk.index.find(c.to_bytes(32, "big")) for c in range(1, 5)]
        assert found == [None, ref(2, 2), ref(3, 2), None]
        disk.close()
        disk = rig.open()


def test_every_failing_call_in_turn_loses_nothing_answered():
    for nth in range(1, 200):
        rig = Rig(volume=120_000)
        answered: dict[int, bytes] = {}
        deleted: set[int] = set()
        disk = rig.open()
        rig.directory.fail(nth, errno.EIO, for_ever=True)
        before = rig.directory.calls
        for number in range(1, 5):
            put = make_put(number, noise(number, 50_000))
            disk.commit([put], ())
            if put.error is None:
                answered[number] = noise(number, 50_000)
            if number % 2 == 0:
                try:
                    delete(disk, number - 1)
                except Unavailable:
                    deleted.add(number - 1)  # may or may not have happened
                else:
                    answered.pop(number - 1, None)
                    deleted.discard(number - 1)
            disk.checkpoint()
        calls = rig.directory.calls - before
        rig.crash(seed=nth)
        disk = rig.open()
        for number, payload in answered.items():
            if number not in deleted:
                assert read(disk, number) == payload, nth
        for number, _ in listing(disk):
            assert number in answered or number > len(answered) or number in deleted, nth
            if number not in deleted:
                assert read(disk, number) == noise(number, 50_000)
        if calls < nth:
            break
    else:
        pytest.fail("the sweep never ended")
