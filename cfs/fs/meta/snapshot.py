"""A group's whole state on its way to another replica: read in pieces, staged, installed.

The sender reads one instant of LMDB (`Outgoing`); the receiver fills a slot that no group uses
(`Incoming`) and compares the digest; the host then points the group to that slot in one
transaction (`install_record`). Memory: one piece at a time on either side. A crash before the
last step leaves records in a slot without a group, which `wipe` removes.

    header, in the first piece's message: msgpack [version 1, SnapshotMeta, digest 16 bytes]
    piece: records, each
      0   u32 key length     little endian
      4   u32 value length
      8   key, value

All calls block; they run in threads, for one snapshot in one thread at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from cfs.core.errors import Corrupt, Malformed
from cfs.core.kv import InstantStore
from cfs.core.raft.message import SnapshotMeta
from cfs.fs.meta.group_record import (
    KEY_BYTES_USER_MAX,
    SLOT_MAX,
    GroupRecord,
    decode_group,
    meta_key,
    record_hash,
    slot_range,
)

PIECE_BYTES = 1 << 20
_WIPE_RECORDS = 4096
_VERSION = 1
_LENGTHS = struct.Struct("<II")
_DIGEST_MASK = (1 << 128) - 1


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot says of itself."""

    version: int
    meta: SnapshotMeta
    digest: bytes


_decode_header = msgspec.msgpack.Decoder(Header).decode
_encode_header = msgspec.msgpack.Encoder().encode


def read_header(data: bytes) -> Header:
    """Read a snapshot's header. Raises Malformed."""
    try:
        return _decode_header(data)
    except msgspec.MsgspecError as error:
        raise Malformed(f"snapshot header cannot be read: {error}") from error


def records_of(piece: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a piece. Raises Malformed for bytes that are none."""
    offset = 0
    while offset < len(piece):
        start = offset + _LENGTHS.size
        if start > len(piece):
            raise Malformed("a snapshot piece ends inside a record")
        key_length, value_length = _LENGTHS.unpack_from(piece, offset)
        offset = start + key_length + value_length
        if not 0 < key_length <= KEY_BYTES_USER_MAX or offset > len(piece):
            raise Malformed("a snapshot piece holds an impossible length")
        yield piece[start : start + key_length], piece[start + key_length : offset]


def piece_of(records: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Give the piece that holds these records."""
    return b"".join(
        part for key, value in records for part in (_LENGTHS.pack(len(key), len(value)), key, value)
    )


class Outgoing:
    """A group's state in LMDB as of one instant. Raises Unavailable when the map grew meanwhile."""

    def __init__(self, store: InstantStore, group: int) -> None:
        self._view = store.view()
        data = self._view.get(meta_key(group))
        assert data is not None, "flush a group before its first snapshot"
        record = decode_group(data)
        self.meta = SnapshotMeta(index=record.applied, term=record.term, config=record.config)
        self.header = _encode_header(Header(_VERSION, self.meta, record.digest))
        self._records: Iterator[tuple[bytes, bytes]] = self._view.scan(*slot_range(record.slot))

    def next_piece(self) -> bytes:
        """Give the next piece; empty at the end."""
        parts: list[bytes] = []
        size = 0
        for key, value in self._records:
            parts += (_LENGTHS.pack(len(key) - 2, len(value)), key[2:], value)
            size += len(key) + len(value) + 6
            if size >= PIECE_BYTES - (PIECE_BYTES >> 4):
                break
        return b"".join(parts)

    def close(self) -> None:
        """Let go of the instant."""
        self._view.close()


class Incoming:
    """A snapshot being staged in `slot`."""

    def __init__(self, store: InstantStore, slot: int, header: bytes) -> None:
        try:
            decoded = _decode_header(header)
        except msgspec.MsgspecError as error:
            raise Malformed(f"snapshot header cannot be read: {error}") from error
        if decoded.version != _VERSION or len(decoded.digest) != 16:
            raise Malformed(f"snapshot of version {decoded.version}: upgrade this node")
        self.meta = decoded.meta
        self.slot = slot
        self._digest = decoded.digest
        self._store = store
        self._sum = 0

    def take(self, piece: bytes | bytearray | memoryview) -> None:
        """Stage a piece. Raises Malformed for bytes that are no records."""
        prefix = slot_range(self.slot)[0]
        changes: list[tuple[bytes, bytes | None]] = []
        total = 0
        for key, value in records_of(bytes(piece)):
            total += record_hash(key, value)
            changes.append((prefix + key, value))
        self._store.write(changes, sync=False)
        self._sum = self._sum + total & _DIGEST_MASK

    def record(self) -> GroupRecord:
        """Give what makes it the group's state. Raises Corrupt when the digest differs."""
        if self._sum.to_bytes(16, "little") != self._digest:
            raise Corrupt(f"snapshot at {self.meta.index} arrived with another digest")
        meta = self.meta
        return GroupRecord(1, self.slot, meta.index, meta.term, meta.config, self._digest)


def check_digest(store: InstantStore, group: int) -> SnapshotMeta | None:
    """Read every record of a group as LMDB holds it, and compare their digest with the kept one.

    Gives what it holds; None when the group was never flushed. Raises Corrupt when records are
    missing, superfluous or damaged; Unavailable when the map grew meanwhile.
    """
    view = store.view()
    try:
        data = view.get(meta_key(group))
        if data is None:
            return None
        record = decode_group(data)
        total = 0
        for key, value in view.scan(*slot_range(record.slot)):
            total += record_hash(key[2:], value)
    finally:
        view.close()
    if record.digest and (total & _DIGEST_MASK).to_bytes(16, "little") != record.digest:
        raise Corrupt(
            f"group {group}: the records at {record.applied} have another digest than was kept: "
            "remove this replica and let its peers rebuild it",
            group=group,
        )
    return SnapshotMeta(index=record.applied, term=record.term, config=record.config)


def wipe(store: InstantStore, slot: int) -> None:
    """Remove a slot's records, some thousand a transaction."""
    start, end = slot_range(slot)
    while True:
        changes: list[tuple[bytes, bytes | None]] = []
        for key, _ in store.scan(start, end):
            changes.append((key, None))
            if len(changes) == _WIPE_RECORDS:
                break
        if not changes:
            return
        store.write(changes, sync=False)


def wipe_orphans(store: InstantStore, used: set[int]) -> None:
    """Remove the records of every slot that is not used."""
    slot = 0
    while slot <= SLOT_MAX:
        found = next(iter(store.scan(slot_range(slot)[0], b"\xff\xff")), None)
        if found is None:
            return
        slot = int.from_bytes(found[0][:2], "big")
        if slot not in used:
            wipe(store, slot)
        slot += 1
