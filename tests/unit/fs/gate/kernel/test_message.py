"""The codec: golden bytes, sizes of linux/fuse.h, and whatever may arrive."""

from __future__ import annotations

import random

import pytest

from cfs.core.api.meta import Attr
from cfs.core.errors import Malformed
from cfs.fs.gate.kernel import message, notify
from cfs.fs.gate.kernel.opcodes import LAYOUTS, Opcode

SIZES = {
    Opcode.FORGET: 8, Opcode.GETATTR: 16, Opcode.SETATTR: 88, Opcode.MKNOD: 16, Opcode.MKDIR: 8,
    Opcode.RENAME: 8, Opcode.RENAME2: 16, Opcode.LINK: 8, Opcode.OPEN: 8, Opcode.CREATE: 16,
    Opcode.READ: 40, Opcode.WRITE: 40, Opcode.RELEASE: 24, Opcode.FLUSH: 24, Opcode.FSYNC: 16,
    Opcode.SETXATTR: 8, Opcode.GETXATTR: 8, Opcode.GETLK: 48, Opcode.ACCESS: 8,
    Opcode.INTERRUPT: 8, Opcode.BMAP: 16, Opcode.IOCTL: 32, Opcode.POLL: 24,
    Opcode.BATCH_FORGET: 8, Opcode.FALLOCATE: 32, Opcode.LSEEK: 24, Opcode.COPY_FILE_RANGE: 56,
    Opcode.SYNCFS: 8, Opcode.STATX: 24, Opcode.INIT: 16,
}  # fmt: skip


def attr(**changes: object) -> Attr:
    values: dict[str, object] = {
        "ino": 0x0102030405060708, "mode": 0o100640, "nlink": 2, "uid": 1000, "gid": 100, "rdev": 0,
        "size": 70_000, "allocated": 70_000, "atime_ns": 1_500_000_000_000_000_001,
        "mtime_ns": -1, "ctime_ns": 0, "btime_ns": 7, "generation": 3, "version": 1,
        "data_version": 1,
    }  # fmt: skip
    return Attr(**{**values, **changes})  # type: ignore[arg-type]


def request(opcode: int, body: bytes, *, extensions: int = 0) -> memoryview:
    length = message.HEADER.size + len(body)
    header = message.HEADER.pack(length, opcode, 77, 5, 1000, 100, 4242, extensions, 0)
    return memoryview(header + body)


def decoded(opcode: int, body: bytes, *, extensions: int = 0) -> message.Request:
    view = request(opcode, body, extensions=extensions)
    return message.decode(view, len(view))


def test_structures_are_as_long_as_the_kernels() -> None:
    assert message.HEADER.size == 40
    assert message.OUT.size == 16
    assert message.ENTRY_SIZE == 128
    assert message.DIRENT_SIZE == 24
    assert message.STATFS_OUT.size == 80
    assert len(message.statx(attr(), 1.0)) == 288
    for opcode, size in SIZES.items():
        body = LAYOUTS[opcode].body
        assert body is not None
        assert body.size == size, opcode.name


def test_requests() -> None:
    lookup = decoded(Opcode.LOOKUP, b"name\0")
    assert (lookup.opcode, lookup.unique, lookup.node) == (1, 77, 5)
    assert (lookup.uid, lookup.gid, lookup.pid) == (1000, 100, 4242)
    assert lookup.names[0] == b"name"
    rename = decoded(
        Opcode.RENAME2, bytes.fromhex("0900000000000000 01000000 00000000") + b"a\0b\0"
    )
    assert rename.fields == (9, 1, 0)
    assert list(rename.names[:2]) == [b"a", b"b"]
    span = bytes.fromhex(
        "0300000000000000 0010000000000000 05000000 00000000 0000000000000000 0100000000000000"
    )
    write = decoded(Opcode.WRITE, span + b"bytes")
    assert write.fields[:3] == (3, 4096, 5)
    assert bytes(write.data) == b"bytes"
    xattr = decoded(Opcode.SETXATTR, bytes.fromhex("03000000 01000000") + b"user.x\0a\0b")
    assert xattr.fields == (3, 1)
    assert xattr.names[0] == b"user.x"
    assert bytes(xattr.data) == b"a\0b"
    extended = decoded(
        Opcode.MKDIR, bytes.fromhex("ed010000 12000000") + b"d\0" + b"E" * 8, extensions=1
    )
    assert extended.names[0] == b"d"
    assert bytes(extended.data) == b""


def test_answers() -> None:
    assert message.answer(77, b"ab") == bytes.fromhex("12000000 00000000 4d00000000000000") + b"ab"
    assert message.refusal(77, 2) == bytes.fromhex("10000000 feffffff 4d00000000000000")
    assert (
        message.dirent(9, 12, 0o040000, b"sub")
        == bytes.fromhex("0900000000000000 0c00000000000000 03000000 04000000") + b"sub\0\0\0\0\0"
    )
    expected = bytes.fromhex(
        "0807060504030201 7011010000000000 8900000000000000"  # ino, size, blocks
        "002f685900000000 ffffffffffffffff 0000000000000000"  # seconds
        "01000000 ffc99a3b 00000000 a0810000 02000000 e8030000 64000000 00000000"
        "00001000 00000000"
    )
    assert message.attributes(attr(), 2.5) == (
        bytes.fromhex("0200000000000000 0065cd1d 00000000") + expected
    )
    assert message.entry(attr(), 0.0, 2.5) == (
        bytes.fromhex(
            "0807060504030201 0300000000000000 0000000000000000 0200000000000000 00000000 0065cd1d"
        )
        + expected
    )
    assert message.entry(attr(mode=0o120777, target=b"there", size=0), 0, 0)[48:56] == (5).to_bytes(
        8, "little"
    )


def test_notifications() -> None:
    assert notify.invalidate_inode(7, attributes_only=True) == bytes.fromhex(
        "28000000 02000000 00000000000000000700000000000000 ffffffffffffffff 0000000000000000"
    )
    assert notify.invalidate_entry(1, b"n") == (
        bytes.fromhex("22000000 03000000 0000000000000000 0100000000000000 01000000 00000000")
        + b"n\0"
    )
    assert notify.next_epoch() == bytes.fromhex("10000000 08000000 0000000000000000")
    assert notify.delete(1, 2, b"n")[:8] == bytes.fromhex("2a000000 06000000")
    assert notify.store(1, 0, b"abc")[:8] == bytes.fromhex("2b000000 04000000")


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.LOOKUP, b"no end"),
        (Opcode.RENAME, bytes(8) + b"one\0two"),
        (Opcode.GETATTR, bytes(15)),
        (Opcode.SYMLINK, b"name\0"),
    ],
)
def test_refuses_what_is_cut(opcode: int, body: bytes) -> None:
    with pytest.raises(Malformed) as raised:
        decoded(opcode, body)
    assert raised.value.detail["unique"] == 77


def test_whatever_arrives_is_a_request_or_malformed() -> None:
    chance = random.Random(20261124)
    codes = [*map(int, Opcode), 0, 7, 19, 54, 4096, 1 << 31]
    for _ in range(20_000):
        body = chance.randbytes(chance.choice((0, 1, 7, 8, 16, 40, 88, 200)))
        raw = bytearray(request(chance.choice(codes), body))
        for _ in range(chance.choice((0, 0, 1, 3))):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        count = chance.choice((len(raw), len(raw), chance.randrange(len(raw) + 1)))
        try:
            found = message.decode(memoryview(raw), count)
        except Malformed:
            continue
        assert len(found.data) <= count
