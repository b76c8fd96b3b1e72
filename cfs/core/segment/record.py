"""The record of a volume log: one fragment, or one list of deletions, that describes itself.

A record starts at a multiple of `ALIGNMENT` in its file. Big endian:

    offset  size  field
    0       4     magic "CFSr"
    4       1     version (1)
    5       1     kind: 1 fragment, 2 tombstone, 3 pad
    6       2     fragment index
    8       16    segment id
    24      2     data fragments of the segment
    26      2     parity fragments
    28      4     segment length
    32      8     plain bytes of the segment
    40      8     sealed bytes of the segment
    48      8     write time, nanoseconds since the epoch
    56      4     payload length
    60      4     crc32c over the place, bytes 0..59, then the block checksums
    64      4*n   crc32c of each 64 KiB block of the payload, the last one shorter
    64+4*n  ...   payload, then zeroes up to the next multiple of `ALIGNMENT`

The *place* (disk id, volume number, offset) is covered and not stored: a record that was moved,
or that hides inside another record's payload, is no record. A partial read verifies just the
blocks it touches.

The payload of a tombstone is a list of the records that died, 30 bytes each:

    0       16    segment id
    16      2     fragment index
    18      4     volume number
    22      8     offset

It names positions, so a fragment that is stored here again after its deletion is not meant. The
header of a tombstone or a pad has zeroes where it has nothing to say. A pad is skipped.

Alignment. The file system frees whole 4 KiB blocks; a record that owns all its blocks gives all of
them back when it dies, whatever its neighbours do, and no neighbour need be known. The price is
half a block a record on average: 0.8 % at 256 KiB, 0.1 % at 2 MiB, at worst 1.5 % (256 KiB exactly:
the header opens a 65th block); at 16 KiB it is 12 %. Packing small records tighter would spare
that while they live and strand up to two blocks for each that dies between living ones, or need a
reverse index of neighbours. Small records are few (synced singles, tombstones share one record a
call) and are compacted into full segments by their owner, so 4 KiB for all it is.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator

import msgspec
from crc32c import crc32c

from cfs.core.ids import SEGMENT_ID_BYTES, SegmentId

ALIGNMENT = 4096
BLOCK_BYTES = 1 << 16
"""Payload bytes under one checksum."""
HEADER_BYTES = 64
"""Fixed part of the header."""
HEADER_BYTES_MAX = ALIGNMENT
"""One aligned read has the whole header."""
PAYLOAD_BYTES_MAX = 32 << 20
"""32 MiB: 512 block checksums, a header of 2,112 bytes. Segments are up to 4 MiB."""
RECORD_VERSION = 1
RECORD_MAGIC = b"CFSr"
TOMBSTONES_MAX = PAYLOAD_BYTES_MAX // 30

_header = struct.Struct(">4sBBH16sHHIQQQI")
_crc = struct.Struct(">I")
_place = struct.Struct(">16sIQ")
_tombstone = struct.Struct(">16sHIQ")
assert _header.size + _crc.size == HEADER_BYTES


class RecordKind(enum.IntEnum):
    """What a record is."""

    FRAGMENT = 1
    TOMBSTONE = 2
    PAD = 3


_KINDS = {int(kind): kind for kind in RecordKind}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A header, decoded; the payload is apart."""

    kind: RecordKind
    segment: SegmentId = SegmentId(bytes(SEGMENT_ID_BYTES))
    index: int = 0
    data: int = 0
    parity: int = 0
    segment_length: int = 0
    raw_bytes: int = 0
    sealed_bytes: int = 0
    written_ns: int = 0
    payload_length: int = 0
    block_crcs: bytes = b""
    """4 bytes for each block."""

    @property
    def payload_start(self) -> int:
        """Bytes before the payload."""
        return HEADER_BYTES + len(self.block_crcs)

    @property
    def length(self) -> int:
        """Bytes of header and payload."""
        return HEADER_BYTES + len(self.block_crcs) + self.payload_length

    @property
    def span(self) -> int:
        """Bytes the record occupies, its padding included."""
        return aligned(self.length)


class Tombstone(msgspec.Struct, frozen=True):
    """Names a record that died."""

    segment: SegmentId
    index: int
    volume: int
    offset: int


def aligned(length: int) -> int:
    """Round up to the alignment."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def record_length(payload_length: int) -> int:
    """Give the bytes of header and payload for a payload of that length."""
    return HEADER_BYTES + 4 * -(-payload_length // BLOCK_BYTES) + payload_length


def place_of(disk_id: bytes, volume: int, offset: int) -> bytes:
    """Give the place bytes that a header's checksum covers."""
    return _place.pack(disk_id, volume, offset)


def checksum_blocks(payload: bytes | bytearray | memoryview) -> bytes:
    """Give the checksums of a payload's blocks, packed."""
    length = len(payload)
    if length <= BLOCK_BYTES:
        return _crc.pack(_crc32c(payload)) if length else b""
    view = memoryview(payload)
    crcs = [_crc32c(view[at : at + BLOCK_BYTES]) for at in range(0, length, BLOCK_BYTES)]
    return struct.pack(f">{len(crcs)}I", *crcs)


def blocks_match(crcs: bytes, first: int, data: bytes | bytearray | memoryview) -> bool:
    """Tell whether `data`, whole blocks from block `first` on, matches the payload's checksums."""
    wanted = crcs[4 * first : 4 * first + 4 * -(-len(data) // BLOCK_BYTES)]
    return checksum_blocks(data) == wanted


def encode_header(record: Record, place: bytes) -> bytes:
    """Give the header's bytes, block checksums included."""
    assert len(record.block_crcs) == 4 * -(-record.payload_length // BLOCK_BYTES)
    assert record.payload_length <= PAYLOAD_BYTES_MAX
    fixed = _header.pack(
        RECORD_MAGIC,
        RECORD_VERSION,
        record.kind,
        record.index,
        record.segment,
        record.data,
        record.parity,
        record.segment_length,
        record.raw_bytes,
        record.sealed_bytes,
        record.written_ns,
        record.payload_length,
    )
    crc = _crc32c(record.block_crcs, _crc32c(fixed, _crc32c(place)))
    return fixed + _crc.pack(crc) + record.block_crcs


def decode_header(buffer: bytes | memoryview, place: bytes) -> Record | None:
    """Read a header; None when these bytes at this place are none. Says nothing of the payload."""
    if len(buffer) < HEADER_BYTES or buffer[:4] != RECORD_MAGIC:
        return None
    (_, version, kind, index, segment, data, parity, segment_length, raw_bytes, sealed_bytes,
     written_ns, payload_length) = _header.unpack_from(buffer)  # fmt: skip
    if version != RECORD_VERSION or kind not in _KINDS or payload_length > PAYLOAD_BYTES_MAX:
        return None
    end = HEADER_BYTES + 4 * -(-payload_length // BLOCK_BYTES)
    crcs = bytes(buffer[HEADER_BYTES:end])
    fixed = buffer[: _header.size]
    if len(buffer) < end or _crc.unpack_from(buffer, _header.size)[0] != _crc32c(
        crcs, _crc32c(fixed, _crc32c(place))
    ):
        return None
    return Record(
        kind=_KINDS[kind],
        segment=SegmentId(segment),
        index=index,
        data=data,
        parity=parity,
        segment_length=segment_length,
        raw_bytes=raw_bytes,
        sealed_bytes=sealed_bytes,
        written_ns=written_ns,
        payload_length=payload_length,
        block_crcs=crcs,
    )


def encode_tombstones(dead: Iterable[Tombstone]) -> bytes:
    """Give the payload of a tombstone record."""
    return b"".join(_tombstone.pack(d.segment, d.index, d.volume, d.offset) for d in dead)


def decode_tombstones(payload: bytes) -> Iterator[Tombstone]:
    """Read the payload of a tombstone record that matched its checksums."""
    for segment, index, volume, offset in _tombstone.iter_unpack(payload):
        yield Tombstone(SegmentId(segment), index, volume, offset)


def _crc32c(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    # Never gives the GIL away: a block takes 4 us at 17 GB/s, getting the GIL back up to 5 ms.
    return _crc32c_native(data, value, 0)


_crc32c_native: Callable[[bytes | bytearray | memoryview, int, int], int] = crc32c
