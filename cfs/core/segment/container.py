"""The segment container: what is erasure coded, and readable without any other index.

    offset      size    field (numbers big endian)
    0           4       magic "CFSG"
    4           1       version, 1
    5           3       zero
    8           4       chunk count c, 1 .. CHUNK_COUNT_MAX
    12          4       length of the whole segment
    16          52 * c  table, one row a chunk, in the order of the blobs:
                          32 chunk id, 4 at, 4 stored, 4 raw, 4 key version, 4 CRC-32C of the blob
    16 + 52c    4       CRC-32C of everything before
    20 + 52c            sealed blobs, adjacent, to the end

`at` counts from the start of the segment, as extents do. The first `16 + 52c + 4` bytes alone name
every chunk, so compaction and recovery read no further than they must. The checksums are for those
who hold no key (packers, compaction); readers verify the seal.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import crc32c

from cfs.core.data.pipeline import Sealed
from cfs.core.errors import Corrupt
from cfs.core.ids import CHUNK_ID_BYTES, ChunkId

SEGMENT_BYTES_MAX = 4 << 20
CHUNK_COUNT_MAX = 4096
"""Bounds the table to 208 KiB."""

MAGIC = b"CFSG"
VERSION = 1
_HEADER = struct.Struct(">4sB3xII")
_ROW = struct.Struct(f">{CHUNK_ID_BYTES}sIIIII")
_CRC = struct.Struct(">I")
PREFIX_BYTES = _HEADER.size
"""What `table_length` needs."""
ROW_BYTES = _ROW.size


@dataclass(frozen=True, slots=True)
class Row:
    """Where one chunk is in its segment."""

    chunk_id: ChunkId
    at: int
    stored: int
    raw: int
    key_version: int
    checksum: int


def built_length(chunk_count: int, blob_bytes: int) -> int:
    """Give the length of a segment of so many chunks whose blobs have so many bytes together."""
    return _HEADER.size + chunk_count * _ROW.size + _CRC.size + blob_bytes


def build(chunks: Sequence[Sealed]) -> tuple[bytes, list[Row]]:
    """Give the segment and its table. The caller keeps within the two bounds."""
    assert 0 < len(chunks) <= CHUNK_COUNT_MAX
    at = built_length(len(chunks), 0)
    rows = []
    for chunk in chunks:
        stored = len(chunk.blob)
        checksum = crc32c.crc32c(chunk.blob)
        rows.append(Row(chunk.chunk_id, at, stored, chunk.raw, chunk.key_version, checksum))
        at += stored
    assert at <= SEGMENT_BYTES_MAX
    head = bytearray(_HEADER.pack(MAGIC, VERSION, len(chunks), at))
    for row in rows:
        head += _ROW.pack(row.chunk_id, row.at, row.stored, row.raw, row.key_version, row.checksum)
    head += _CRC.pack(crc32c.crc32c(head))
    return b"".join((head, *(chunk.blob for chunk in chunks))), rows


def table_length(prefix: bytes | memoryview) -> int:
    """Tell from the first `PREFIX_BYTES` how many bytes `parse_table` needs. Raises Corrupt."""
    count, _ = _parse_header(prefix)
    return built_length(count, 0)


def parse_table(head: bytes | memoryview) -> list[Row]:
    """Read the table from the first `table_length` bytes. Raises Corrupt."""
    count, length = _parse_header(head)
    end = built_length(count, 0)
    if len(head) < end:
        raise Corrupt(f"segment: a table of {end} bytes is cut at {len(head)}")
    view = memoryview(head)
    (checksum,) = _CRC.unpack_from(view, end - _CRC.size)
    if checksum != crc32c.crc32c(view[: end - _CRC.size]):
        raise Corrupt("segment: its table's checksum does not match")
    rows = [Row(*fields) for fields in _ROW.iter_unpack(view[_HEADER.size : end - _CRC.size])]
    at = end
    for row in rows:
        if row.at != at:
            raise Corrupt(f"segment: a chunk at {row.at} where the one before ends at {at}")
        at += row.stored
    if at != length:
        raise Corrupt(f"segment: its chunks end at {at}, its header says {length}")
    return rows


def extract(segment: bytes | memoryview, row: Row) -> Sealed:
    """Cut one sealed chunk out of a whole segment, checked. Raises Corrupt."""
    return sealed_of(row, memoryview(segment)[row.at : row.at + row.stored])


def sealed_of(row: Row, blob: bytes | memoryview) -> Sealed:
    """Make a sealed chunk of its row and its bytes, checked against the row. Raises Corrupt."""
    if len(blob) != row.stored or crc32c.crc32c(blob) != row.checksum:
        raise Corrupt(
            f"chunk {row.chunk_id.hex()[:16]}: its checksum in the segment does not match"
        )
    return Sealed(row.chunk_id, row.key_version, row.raw, bytes(blob))


def _parse_header(prefix: bytes | memoryview) -> tuple[int, int]:
    if len(prefix) < _HEADER.size:
        raise Corrupt(f"segment: {len(prefix)} bytes are no header")
    magic, version, count, length = _HEADER.unpack_from(prefix)
    if magic != MAGIC or version != VERSION:
        raise Corrupt(f"segment: magic {magic!r}, version {version} are not ours")
    if not 0 < count <= CHUNK_COUNT_MAX or not built_length(count, 0) <= length:
        raise Corrupt(f"segment: {count} chunks in {length} bytes")
    if length > SEGMENT_BYTES_MAX:
        raise Corrupt(f"segment: {length} bytes are more than {SEGMENT_BYTES_MAX}")
    return count, length
