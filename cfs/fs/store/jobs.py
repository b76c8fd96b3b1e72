"""What is asked of a disk: puts and deletes as values, and the small rules they obey.

A fragment is immutable: the same bytes again (by the checksum of every block, and every parameter)
are a success, others are refused.
"""

from __future__ import annotations

import msgspec

from cfs.core.errors import CfsError, Refused
from cfs.core.ids import SegmentId
from cfs.core.segment.record import BLOCK_BYTES, Record, RecordKind, checksum_blocks
from cfs.fs.store.index import Entry

Buffer = bytes | bytearray | memoryview


class Put(msgspec.Struct, kw_only=True):
    """A fragment to store; `error` tells how it went once `commit` returned."""

    segment: SegmentId
    index: int
    data: int
    parity: int
    segment_length: int
    raw_bytes: int
    sealed_bytes: int
    repair: bool
    payload: bytes | memoryview
    replace: bool = False
    """Proven right: written even where other bytes, or the same, are stored."""
    error: CfsError | None = None


class Delete(msgspec.Struct, kw_only=True):
    """Segments to delete, dedupe entries included, and single fragments.

    `error` tells how it went once `commit` returned.
    """

    segments: tuple[bytes, ...]
    fragments: tuple[tuple[bytes, int], ...] = ()
    error: CfsError | None = None


def record_of(put: Put, now_ns: int) -> Record:
    """Make the record of a put; computes its checksums."""
    return Record(
        kind=RecordKind.FRAGMENT,
        segment=put.segment,
        index=put.index,
        data=put.data,
        parity=put.parity,
        segment_length=put.segment_length,
        raw_bytes=put.raw_bytes,
        sealed_bytes=put.sealed_bytes,
        written_ns=now_ns,
        payload_length=len(put.payload),
        block_crcs=checksum_blocks(put.payload),
    )


def is_same(known: Entry | Record, record: Record) -> bool:
    """Tell whether a stored fragment is the one a record describes."""
    return (
        known.payload_length == record.payload_length
        and known.block_crcs == record.block_crcs
        and known.data == record.data
        and known.parity == record.parity
        and known.segment_length == record.segment_length
    )


def differs(put: Put) -> Refused:
    """Give the answer to other bytes under a name that is taken."""
    return Refused(f"fragment {put.segment.hex()}.{put.index} is stored with other bytes")


def touched_blocks(entry: Entry, offset: int, length: int) -> tuple[int, int, int]:
    """Give the first block a range touches, its offset, and the bytes of all blocks it touches."""
    first = offset // BLOCK_BYTES
    at = first * BLOCK_BYTES
    end = min(-(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES, entry.payload_length)
    return first, at, end - at


def cut_range(data: bytes | bytearray, skip: int, length: int) -> Buffer:
    """Give `length` bytes after `skip`, without a copy."""
    return data if skip == 0 and length == len(data) else memoryview(data)[skip : skip + length]
