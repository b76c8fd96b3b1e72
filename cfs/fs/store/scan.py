"""Reading a volume log from a position on: what is there, record by record, damage or not.

Decides where the next record begins when the bytes at hand are none: at the next multiple of the
alignment whose header matches its checksum at that place. A place that reads as zeroes up to there
was punched (or never written); anything else is damage.

With `verify` payloads are read and checked too: for the part of a log that may not have been
synced, where a header can be whole and its payload not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from cfs.core.segment.record import (
    ALIGNMENT,
    HEADER_BYTES_MAX,
    RECORD_MAGIC,
    Record,
    RecordKind,
    aligned,
    blocks_match,
    decode_header,
    place_of,
)

_CHUNK_BYTES = 1 << 20
_ZEROES = bytes(_CHUNK_BYTES)

Read = Callable[[int, int], bytes]
"""`read(offset, length)` of one volume; short only at its end."""


class Found(msgspec.Struct, frozen=True):
    """A record; `payload` only of a tombstone."""

    offset: int
    record: Record
    payload: bytes = b""


class Gap(msgspec.Struct, frozen=True):
    """Bytes that are no record. `damaged`: not all zeroes."""

    offset: int
    length: int
    damaged: bool
    headed: bool = False
    """A fragment's whole header, and a payload that does not match it."""


def scan_volume(
    read: Read, *, disk_id: bytes, volume: int, start: int, size: int, verify: bool
) -> Iterator[Found | Gap]:
    """Yield what tiles `[start, size)`, in order; the last record's padding may be missing."""
    offset = start
    while offset < size:
        found = _record_at(read, disk_id, volume, offset, size)
        if found is None:
            gap = _gap_at(read, disk_id, volume, offset, size)
        elif (payload := _payload(read, found, offset, verify=verify)) is None:
            gap = Gap(
                offset,
                min(found.span, size - offset),
                damaged=True,
                headed=found.kind is RecordKind.FRAGMENT,
            )
        else:
            yield Found(offset, found, payload)
            offset += found.span
            continue
        yield gap
        offset += gap.length


def _record_at(read: Read, disk_id: bytes, volume: int, offset: int, size: int) -> Record | None:
    record = decode_header(read(offset, HEADER_BYTES_MAX), place_of(disk_id, volume, offset))
    if record is None or offset + record.length > size:
        return None
    return record


def _payload(read: Read, record: Record, offset: int, *, verify: bool) -> bytes | None:
    tombstone = record.kind is RecordKind.TOMBSTONE
    if not verify and not tombstone:
        return b""
    payload = read(offset + record.payload_start, record.payload_length)
    if len(payload) < record.payload_length or not blocks_match(record.block_crcs, 0, payload):
        return None
    return payload if tombstone else b""


def _gap_at(read: Read, disk_id: bytes, volume: int, offset: int, size: int) -> Gap:
    """Find how far the bytes from `offset` on (no record) reach."""
    damaged = False
    at = offset
    while at < size:
        chunk = read(at, min(_CHUNK_BYTES, size - at))
        if not chunk:
            break
        if chunk == (_ZEROES if len(chunk) == _CHUNK_BYTES else bytes(len(chunk))):
            at += len(chunk)
            continue
        for inner in range(0, len(chunk), ALIGNMENT):
            if chunk[inner : inner + 4] == RECORD_MAGIC:
                place = at + inner
                if place > offset and _record_at(read, disk_id, volume, place, size) is not None:
                    damaged = damaged or chunk[:inner] != bytes(inner)
                    return Gap(offset, place - offset, damaged)
        damaged = True
        at += len(chunk)
    return Gap(offset, aligned(size) - offset, damaged)
