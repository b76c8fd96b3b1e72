"""Golden bytes of keys, records and commands: a change here is a change of the format on disk."""

from __future__ import annotations

import pytest

from cfs.core.api.meta import Caller, CopyRange, ExtentKind, Lock, MakeOrphan, Unlink
from cfs.core.errors import Corrupt, Malformed
from cfs.core.meta import commands, intents, keys, pages, records
from cfs.core.meta.extents import hole
from tests.model.shard_world import chunk, inline

SEGMENT = bytes(range(16))


def batch(op: commands.ClientOp) -> bytes:
    """Encode an entry with one operation."""
    ops = commands.ClientOps(session=1, first_seq=2, acked=1, ops=(op,))
    return commands.encode_batch(commands.Batch(5, (ops,)))


KEYS = {
    "inode": (keys.inode(258), "690000000000000102"),
    "entries": (keys.entries(1, 5), "6400000000000000010000000000000005"),
    "page": (keys.page(1, 1 << 33), "6500000000000000010000000200000000"),
    "inline": (keys.inline(2, 9), "6200000000000000020000000000000009"),
    "mark": (keys.mark(9, 2), "6e00000000000000090000000000000002"),
    "reference": (
        keys.reference(SEGMENT, 3, 1 << 32),
        "72000102030405060708090a0b0c0d0e0f00000000000000030100000000",
    ),
    "candidate": (keys.candidate(SEGMENT), "7a000102030405060708090a0b0c0d0e0f"),
    "xattr": (keys.xattr(4, b"user.x"), "780000000000000004757365722e78"),
    "session": (keys.session(7), "730000000000000007"),
    "answer": (keys.answer(7, 8), "6100000000000000070000000000000008"),
    "lease": (keys.lease(4), "770000000000000004"),
    "lease_of": (keys.lease_of(7, 4), "5700000000000000070000000000000004"),
    "file_lock": (
        keys.file_lock(4, 7, 9, flock=True),
        "6b00000000000000040100000000000000070000000000000009",
    ),
    "file_lock_of": (
        keys.file_lock_of(7, 4, 9, flock=False),
        "4b00000000000000070000000000000004000000000000000009",
    ),
    "orphan": (keys.orphan(4), "6f0000000000000004"),
    "doomed": (keys.doomed(4), "750000000000000004"),
    "intent": (keys.intent(b"tx"), "747478"),
    "decision": (keys.decision(b"tx"), "547478"),
    "name_lock": (keys.name_lock(1, b"n"), "6c6e00000000000000016e"),
    "ino_lock": (keys.ino_lock(1), "6c690000000000000001"),
    "pins": (keys.pins(1), "6c700000000000000001"),
    "condemned": (keys.condemned(SEGMENT), "63000102030405060708090a0b0c0d0e0f"),
    "deleted": (keys.deleted(7, 8), "4400000000000000070000000000000008"),
    "state": (keys.STATE, "6d"),
}

RECORDS = {
    "inode": (
        records.INODE.encode(
            records.Inode(
                mode=0o100644, nlink=1, uid=2, gid=3, size=4, allocated=5, atime_ns=6, mtime_ns=7,
                ctime_ns=8, btime_ns=9, generation=10, version=11, data_version=12, hlc=13,
            ),
            1,
        ),
        "0100000001dc0018cd81a4010203000405060708090a0b0c00c40000000d00c400c4000000",
    ),
    "entries": (
        records.ENTRIES.encode(records.Entries((records.Slot(0, b"a", 2, 0o40000),)), 0),
        "010000000091919400c4016102cd4000",
    ),
    "mark": (records.MARK.encode(records.Mark(1, 2, 3, 4), 0), "01000000009401020304"),
    "count": (records.COUNT.encode(records.Count(3), 0), "01000000009103"),
    "session": (
        records.SESSION.encode(records.Session("n", True, 1, 2, 3), 0),
        "010000000095a16ec3010203",
    ),
    "lock": (records.LOCK.encode(records.Lock(b"t", 1), 0), "010000000093c4017401c2"),
    "ranges": (
        records.RANGES.encode(records.Ranges((records.Range(1, 5, 0, 77),)), 0),
        "01000000009191940105004d",
    ),
    "pins": (
        records.PINS.encode(records.Pins((records.Pin(b"t", 1, True),)), 0),
        "0100000000919193c4017401c3",
    ),
    "deleted": (records.DELETED.encode(records.Deleted(9), 0), "01000000009109"),
    "decision": (
        intents.DECISION.encode(intents.Decision(True, 1, 2, 3, 4), 0),
        "010000000095c301020304",
    ),
    "batch": (
        commands.encode_batch(
            commands.Batch(
                5,
                (
                    commands.ClientOps(
                        session=1, first_seq=2, acked=1, ops=(Unlink(parent=1, name=b"n"),)
                    ),
                ),
            )
        ),
        "92059197a36f70730102019196a6756e6c696e6b01c4016e0000c093000090c2",
    ),
    "lock batch": (
        batch(Lock(ino=4, owner=9, kind=1, start=2, end=3, pid=7)),
        "92059197a36f7073010201919aa46c6f636b040901020307c2c2c293000090c2",
    ),
    "copy batch": (
        batch(CopyRange(ino=4, to=5, source=6, start=7, length=8)),
        "92059197a36f70730102019197a4636f70790405060708c093000090c2",
    ),
    "orphan batch": (
        batch(MakeOrphan(parent=1, mode=0o100600, uid=2, gid=3)),
        "92059197a36f70730102019199a66f727068616e01cd8180020300c300c093000090c2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(KEYS))
def test_keys_are_these_bytes(name: str) -> None:
    made, golden = KEYS[name]
    assert made.hex() == golden


@pytest.mark.parametrize("name", list(RECORDS))
def test_records_are_these_bytes(name: str) -> None:
    made, golden = RECORDS[name]
    assert made.hex() == golden


def test_a_batch_of_before_operations_had_a_time_is_read() -> None:
    entry = bytes.fromhex("92059196a36f70730102019193a6756e6c696e6b01c4016e93000090")
    command = commands.decode_batch(entry).commands[0]
    assert command == commands.ClientOps(
        session=1, first_seq=2, acked=1, ops=(Unlink(parent=1, name=b"n"),)
    )


def test_an_inode_of_before_access_lists_is_read() -> None:
    value = bytes.fromhex("0100000001dc0014cd81a4010203000405060708090a0b0c00c40000000d00")
    inode = records.INODE.decode(value)
    assert (inode.mode, inode.hlc, inode.acl, inode.default_acl) == (0o100644, 13, b"", b"")


def test_an_operation_for_somebody_is_these_bytes() -> None:
    made = batch(Unlink(parent=1, name=b"n", caller=Caller(7, 8, (9,))))
    assert made.hex() == (
        "92059197a36f70730102019196a6756e6c696e6b01c4016e0000930708910993000090c2"
    )


def test_a_page_is_these_bytes() -> None:
    tiles = [hole(0, 10), chunk(10, 5, 3, segment=2, skip=1), inline(15, 4, 6)]
    page = records.PAGE.decode(pages.encode(tiles, 2))
    assert pages.encode(tiles, 2)[:5].hex() == "0100000002"
    assert [t.kind for t in page.tiles] == [0, 1, 2]
    assert page.segments == (records.SegmentRef(tiles[1].segment, 2, 1, 1 << 22),)
    assert tiles[2].kind is ExtentKind.INLINE


def test_names_hash_to_58_bits_and_cookies_stay_above_the_reserved() -> None:
    assert keys.name_hash(b"hello") == 0x29EDBB6A00794D1
    assert all(keys.name_hash(str(n).encode()) < 1 << 58 for n in range(100))
    assert keys.cookie(0, 0) == 3
    assert keys.cookie((1 << 58) - 1, 15) < 1 << 63


def test_since_is_the_history_epoch() -> None:
    assert records.since_of(records.COUNT.encode(records.Count(1), 77)) == 77


@pytest.mark.parametrize(
    "value", [b"", b"\x02\0\0\0\0\x91\x01", b"\x01\0\0\0\0", b"\x01\0\0\0\0\xc1"]
)
def test_damage_and_unknown_versions_are_corrupt(value: bytes) -> None:
    with pytest.raises(Corrupt):
        records.COUNT.decode(value)


@pytest.mark.parametrize("entry", [b"", b"\x92\x05", b"\x92\x05\x91\x91\xa4evil", b"\xc1"])
def test_a_batch_that_does_not_decode_is_malformed(entry: bytes) -> None:
    with pytest.raises(Malformed):
        commands.decode_batch(entry)
