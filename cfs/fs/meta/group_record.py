"""A group's own record in LMDB, and the keys and hashes of all its records; see `state`."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import msgspec

from cfs.core.errors import Corrupt
from cfs.core.raft.message import Config
from cfs.fs.kv.lmdb_store import KEY_BYTES_MAX

KEY_BYTES_USER_MAX: Final = KEY_BYTES_MAX - 2
META_PREFIX = b"\xff\xff"
SLOT_MAX = 0xFFFE
VERSION = 1

pack_slot = struct.Struct(">H").pack
_pack_length = struct.Struct("<I").pack


class GroupRecord(msgspec.Struct, frozen=True, array_like=True):
    """What LMDB keeps of a group beside its records."""

    version: int
    slot: int
    applied: int
    term: int
    config: Config
    digest: bytes


_decode_group = msgspec.msgpack.Decoder(GroupRecord).decode
_encode_group = msgspec.msgpack.Encoder().encode


def record_hash(key: bytes, value: bytes) -> int:
    """Give one record's share of a digest."""
    digest = hashlib.blake2b(_pack_length(len(key)) + key + value, digest_size=16).digest()
    return int.from_bytes(digest, "little")


def slot_range(slot: int) -> tuple[bytes, bytes]:
    """Give the bounds of a slot's keys in LMDB."""
    return pack_slot(slot), pack_slot(slot + 1)


def meta_key(group: int) -> bytes:
    """Give the LMDB key of a group's own record."""
    return META_PREFIX + group.to_bytes(2, "big")


def encode_group(record: GroupRecord) -> bytes:
    """Give the bytes of a group's own record."""
    return _encode_group(record)


def decode_group(data: bytes) -> GroupRecord:
    """Read a group's own record. Raises Corrupt for another version."""
    record = _decode_group(data)
    if record.version != VERSION:
        raise Corrupt(f"group state of version {record.version}: use the cfs that wrote it")
    return record
