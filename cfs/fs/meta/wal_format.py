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
from collections.abc import Callable, Iterator, Sequence
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
PIECE_BYTES = 1 << 20
"""Read at once of a segment, unless a record is longer."""

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


class SegmentReader:
    """A segment of `size` bytes, read piece by piece: what it holds need not fit into memory.

    Once `batches` has ended, `whole_bytes` and `is_short` speak for all of it.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], size: int, *, name: str, sequence: int
    ) -> None:
        """`read(offset, length)` gives bytes of the segment, less only at its end."""
        self._read = read
        self._size = size
        self._name = name
        self._sequence = sequence
        self._piece = memoryview(b"")
        self._piece_at = 0
        self.batch_count = 0
        self.whole_bytes = 0
        """Where the last whole batch ends; 0 when there is none. What follows is a torn tail."""
        self.is_short = False
        """What follows is the beginning of a batch whose end the file does not reach: bytes are
        missing, none are wrong (unless it is the length of the very last record)."""

    def batches(self) -> Iterator[list[Record]]:
        """Yield the whole batches.

        Raises Corrupt, naming file and offset, when what is bad was durable once.
        """
        header = self._read(0, SEGMENT_HEADER_BYTES)
        offset = 0
        if header == segment_header(self._sequence):
            offset = SEGMENT_HEADER_BYTES
            filling: list[Record] = []
            while (found := self._record(offset)) is not None:
                if found.batch != self.batch_count + 1:
                    break
                filling.append(found.record)
                offset += found.size
                if found.flags & LAST_OF_BATCH:
                    yield filling
                    filling, self.whole_bytes = [], offset
                    self.batch_count += 1
        elif _header_is_foreign(header):
            raise Corrupt(
                f"{self._name} is no log segment of this version: use the cfs that wrote it"
            )
        self._judge(offset)

    def _record(self, offset: int) -> _Found | None:
        """Give the valid record at `offset`, if there is one, fetching the piece it lies in."""
        found = _record_at(self._piece, offset - self._piece_at, self._sequence, self._piece_at)
        if found is None and self._fetch(offset, PIECE_BYTES):
            found = _record_at(self._piece, 0, self._sequence, offset)
            if found is None and (needed := _length_at(self._piece, 0)) > PIECE_BYTES:
                self._fetch(offset, needed)
                found = _record_at(self._piece, 0, self._sequence, offset)
        return found

    def _fetch(self, offset: int, length: int) -> bool:
        """Read a piece; False when there is nothing at `offset`."""
        length = min(length, self._size - offset)
        if length <= 0:
            return False
        self._piece = memoryview(self._read(offset, length))
        self._piece_at = offset
        return True

    def _judge(self, offset: int) -> None:
        """Tell a torn tail, which begins at `offset`, from damage."""
        tail = self._read(offset, self._size - offset) if offset < self._size else b""
        self._piece = memoryview(b"")
        batch = self.batch_count + 1
        self.is_short = _ends_inside(tail, batch) if offset else self._size < SEGMENT_HEADER_BYTES
        for later, of_batch in _valid_after(tail, offset, self._sequence):
            self.is_short = False
            if of_batch > batch:
                raise Corrupt(
                    f"{self._name} is damaged at offset {offset} (valid records follow at {later}):"
                    " remove this replica and let its peers rebuild it",
                    file=self._name,
                    offset=offset,
                )


class _Found(NamedTuple):
    record: Record
    flags: int
    batch: int
    size: int


def _record_at(view: memoryview, at: int, sequence: int, view_at: int) -> _Found | None:
    """Give the valid record that begins at `at` of a view of a segment from `view_at` on."""
    size = _length_at(view, at)
    if not size or at + size > len(view):
        return None
    _, _, batch, group, kind, flags = _RECORD.unpack_from(view, at)
    body = view[at + RECORD_HEADER_BYTES : at + size]
    head = bytes(view[at : at + _RECORD.size])
    crc = crc32c(body, crc32c(_POSITION.pack(sequence, view_at + at) + head))
    if crc != _CRC.unpack_from(view, at + _RECORD.size)[0] or kind not in _DECODE:
        return None
    return _Found(Record(Kind(kind), group, _DECODE[kind](body)), flags, batch, size)


def _length_at(view: memoryview, at: int) -> int:
    """Give how long the record at `at` says it is, header included; 0 when there is none."""
    if at + RECORD_HEADER_BYTES > len(view):
        return 0
    magic, length = _RECORD.unpack_from(view, at)[:2]
    if magic != RECORD_MAGIC or length > BODY_BYTES_MAX:
        return 0
    return int(length) + RECORD_HEADER_BYTES


def _ends_inside(tail: bytes, batch: int) -> bool:
    """Tell whether the file ends inside what looks like a record of `batch`, or before it."""
    if len(tail) < RECORD_HEADER_BYTES:
        return _MAGIC_BYTES.startswith(tail[:4])
    magic, length, of_batch, _, kind, _ = _RECORD.unpack_from(tail)
    return (
        magic == RECORD_MAGIC
        and of_batch == batch
        and kind in _DECODE
        and len(tail) < RECORD_HEADER_BYTES + length <= BODY_BYTES_MAX
    )


def _valid_after(tail: bytes, offset: int, sequence: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, batch) of the valid records after a bad place, where `tail` begins."""
    view = memoryview(tail)
    at = tail.find(_MAGIC_BYTES)
    while at >= 0:
        if (found := _record_at(view, at, sequence, offset)) is not None:
            yield offset + at, found.batch
        at = tail.find(_MAGIC_BYTES, at + 1)


def _header_is_foreign(data: bytes) -> bool:
    """Tell whether the header is whole but of another version."""
    head = data[: _SEGMENT.size]
    stored = data[_SEGMENT.size : _SEGMENT.size + 4]
    return (
        len(data) >= SEGMENT_HEADER_BYTES
        and stored == _CRC.pack(crc32c(head))
        and not head.startswith(SEGMENT_MAGIC)
    )
