"""The bytes of the write-ahead log: segments, records, and telling a torn tail from damage.

A segment is a file `wal-<sequence, 16 hex digits>`. All numbers little endian.

    segment header, 24 bytes
      0   8   magic and version  b"CFSWAL01"
      8   u64 sequence           of the segment; never reused
      16  u32 crc32c             over bytes 0..15
      20  u32 zero

    record, 20 bytes and a body
      0   u32 magic              0x57434c52 ("RLCW")
      4   u32 length             of the body
      8   u32 batch              counts the batches of this segment, from 1
      12  u16 group
      14  u8  kind               see `Kind`
      15  u8  flags              1: last record of its batch
      16  u32 crc32c             over (u64 sequence, u64 offset, bytes 0..15, body)
      20  ... body               msgpack

    kind  body
    1 STATE     HardState
    2 ENTRIES   array of Entry: they replace everything from the first one's index on
    3 COPY      array of Entry: moved here from a segment about to go; replaces nothing else
    4 TRUNCATE  int: everything from this index on is gone
    5 MARK      SnapshotMeta: entries up to its index are no longer needed
    6 RESET     SnapshotMeta: the log restarts after its index
    7 REMOVE    nil: the group is no longer here
    8 DOUBT     bool: this replica may have lost acknowledged records and must not vote

A batch is one write and one sync. It counts only when whole: what follows the last whole batch of
the last segment was never acknowledged, or was and is damaged, which cannot be told apart (a torn
tail: cut, and reported). But a batch starts only after the one before it is durable, so when a
valid record of a later batch follows a bad place, the bad place was durable once: damage.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from crc32c import crc32c

from cfs.core.errors import Corrupt
from cfs.core.raft.message import Entry, HardState, SnapshotMeta

SEGMENT_MAGIC = b"CFSWAL01"
RECORD_MAGIC = 0x57434C52
BODY_BYTES_MAX = 1 << 28
"""A length beyond it is damage; Raft's own bound on entries lies far below."""
LAST_OF_BATCH = 1

_SEGMENT = struct.Struct("<8sQ")
SEGMENT_HEADER_BYTES = _SEGMENT.size + 8
_RECORD = struct.Struct("<IIIHBB")
RECORD_HEADER_BYTES = _RECORD.size + 4
_POSITION = struct.Struct("<QQ")
_CRC = struct.Struct("<I")
_MAGIC_BYTES = _CRC.pack(RECORD_MAGIC)


class Kind(enum.IntEnum):
    """What a record says."""

    STATE = 1
    ENTRIES = 2
    COPY = 3
    TRUNCATE = 4
    MARK = 5
    RESET = 6
    REMOVE = 7
    DOUBT = 8


_BODY: dict[int, Any] = {
    Kind.STATE: HardState,
    Kind.ENTRIES: tuple[Entry, ...],
    Kind.COPY: tuple[Entry, ...],
    Kind.TRUNCATE: int,
    Kind.MARK: SnapshotMeta,
    Kind.RESET: SnapshotMeta,
    Kind.REMOVE: None,
    Kind.DOUBT: bool,
}
_DECODE = {int(kind): msgspec.msgpack.Decoder(body).decode for kind, body in _BODY.items()}
_encode = msgspec.msgpack.Encoder().encode


class Record(NamedTuple):
    """One change of one group's log; `body` as the table says."""

    kind: Kind
    group: int
    body: Any


def segment_header(sequence: int) -> bytes:
    """Give the first bytes of a segment."""
    head = _SEGMENT.pack(SEGMENT_MAGIC, sequence)
    return head + _CRC.pack(crc32c(head)) + bytes(4)


def encode_batch(
    records: Sequence[Record], *, sequence: int, offset: int, batch: int
) -> list[bytes | memoryview]:
    """Give the parts of a batch that will lie at `offset` of segment `sequence`."""
    parts: list[bytes | memoryview] = []
    last = len(records) - 1
    for count, (kind, group, content) in enumerate(records):
        body = _encode(content)
        head = _RECORD.pack(
            RECORD_MAGIC, len(body), batch, group, kind, LAST_OF_BATCH if count == last else 0
        )
        crc = crc32c(body, crc32c(_POSITION.pack(sequence, offset) + head))
        parts.append(head + _CRC.pack(crc))
        parts.append(body)
        offset += RECORD_HEADER_BYTES + len(body)
    return parts


class Segment(NamedTuple):
    """What a segment's bytes hold."""

    batches: list[list[Record]]
    """The whole ones."""
    whole_bytes: int
    """Where the last whole batch ends; 0 when there is none."""
    is_short: bool
    """What follows is the beginning of a batch whose end the file does not reach: bytes are
    missing, none are wrong (unless it is the length of the very last record)."""


def parse_segment(data: bytes, *, name: str, sequence: int) -> Segment:
    """Read a segment; bytes after `whole_bytes` are a torn tail.

    Raises Corrupt, naming file and offset, when what is bad was durable once.
    """
    view = memoryview(data)
    batches: list[list[Record]] = []
    whole = 0
    filling: list[Record] = []
    batch = 1
    offset = SEGMENT_HEADER_BYTES
    if data[:SEGMENT_HEADER_BYTES] != segment_header(sequence):
        if _header_is_foreign(data):
            raise Corrupt(f"{name} is no log segment of this version: use the cfs that wrote it")
        batch, offset = 1, 0
        is_short = len(data) < SEGMENT_HEADER_BYTES
    else:
        while (found := _record_at(view, offset, sequence)) is not None:
            record, flags, of_batch, size = found
            if of_batch != batch:
                break
            filling.append(record)
            offset += size
            if flags & LAST_OF_BATCH:
                batches.append(filling)
                filling, whole = [], offset
                batch += 1
        is_short = _ends_inside(view, offset, batch)
    for later, of_batch in _valid_after(view, offset, sequence):
        is_short = False
        if of_batch > batch:
            raise Corrupt(
                f"{name} is damaged at offset {offset} (valid records follow at {later}): "
                "remove this replica and let its peers rebuild it",
                file=name,
                offset=offset,
            )
    return Segment(batches, whole, is_short)


def _record_at(view: memoryview, offset: int, sequence: int) -> tuple[Record, int, int, int] | None:
    """Give (record, flags, batch, size) when a valid record begins at `offset`."""
    body_at = offset + RECORD_HEADER_BYTES
    if body_at > len(view):
        return None
    magic, length, batch, group, kind, flags = _RECORD.unpack_from(view, offset)
    if magic != RECORD_MAGIC or length > BODY_BYTES_MAX or body_at + length > len(view):
        return None
    body = view[body_at : body_at + length]
    head = bytes(view[offset : offset + _RECORD.size])
    crc = crc32c(body, crc32c(_POSITION.pack(sequence, offset) + head))
    if crc != _CRC.unpack_from(view, offset + _RECORD.size)[0] or kind not in _DECODE:
        return None
    return (
        Record(Kind(kind), group, _DECODE[kind](body)),
        flags,
        batch,
        RECORD_HEADER_BYTES + length,
    )


def _ends_inside(view: memoryview, offset: int, batch: int) -> bool:
    """Tell whether the file ends inside what looks like a record of `batch`, or before it."""
    left = len(view) - offset
    if left < RECORD_HEADER_BYTES:
        return _MAGIC_BYTES.startswith(bytes(view[offset : offset + 4]))
    magic, length, of_batch, _, kind, _ = _RECORD.unpack_from(view, offset)
    return (
        magic == RECORD_MAGIC
        and of_batch == batch
        and kind in _DECODE
        and left < RECORD_HEADER_BYTES + length <= BODY_BYTES_MAX
    )


def _valid_after(view: memoryview, offset: int, sequence: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, batch) of the valid records after a bad place."""
    data = view.obj
    assert isinstance(data, bytes)
    at = data.find(_MAGIC_BYTES, offset)
    while at >= 0:
        if (found := _record_at(view, at, sequence)) is not None:
            yield at, found[2]
        at = data.find(_MAGIC_BYTES, at + 1)


def _header_is_foreign(data: bytes) -> bool:
    """Tell whether the header is whole but of another version."""
    head = data[: _SEGMENT.size]
    stored = data[_SEGMENT.size : _SEGMENT.size + 4]
    return (
        len(data) >= SEGMENT_HEADER_BYTES
        and stored == _CRC.pack(crc32c(head))
        and not head.startswith(SEGMENT_MAGIC)
    )
