"""The record format: its golden bytes, and that no damage passes."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.ids import SegmentId
from cfs.core.segment.record import (
    ALIGNMENT,
    BLOCK_BYTES,
    HEADER_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Record,
    RecordKind,
    Tombstone,
    blocks_match,
    checksum_blocks,
    decode_header,
    decode_tombstones,
    encode_header,
    encode_tombstones,
    place_of,
    record_length,
)

SEGMENT = SegmentId(bytes(range(16)))
PLACE = place_of(b"d" * 16, 7, 8192)
RECORD = Record(
    kind=RecordKind.FRAGMENT,
    segment=SEGMENT,
    index=2,
    data=4,
    parity=2,
    segment_length=0x123456,
    raw_bytes=0x1122334455,
    sealed_bytes=0x0102030405,
    written_ns=0x1817161514131211,
    payload_length=70000,
    block_crcs=checksum_blocks(bytes(70000)),
)
GOLDEN_HEADER = (
    "4346537201010002000102030405060708090a0b0c0d0e0f0004000200123456"
    "0000001122334455000000010203040518171615141312110001117005175840"
    "72c0c4a45569102f"
)
GOLDEN_TOMBSTONE = "000102030405060708090a0b0c0d0e0f0003000000050000000000003000"


def test_golden_header():
    assert encode_header(RECORD, PLACE).hex() == GOLDEN_HEADER
    assert decode_header(bytes.fromhex(GOLDEN_HEADER), PLACE) == RECORD


def test_golden_tombstone():
    dead = Tombstone(SEGMENT, 3, 5, 12288)
    assert encode_tombstones([dead]).hex() == GOLDEN_TOMBSTONE
    assert list(decode_tombstones(bytes.fromhex(GOLDEN_TOMBSTONE))) == [dead]


def test_every_flipped_bit_of_a_header_is_noticed():
    header = bytearray(encode_header(RECORD, PLACE))
    for bit in range(len(header) * 8):
        header[bit // 8] ^= 1 << bit % 8
        assert decode_header(bytes(header), PLACE) is None, bit
        header[bit // 8] ^= 1 << bit % 8
    assert decode_header(bytes(header), PLACE) == RECORD


def test_a_record_counts_only_at_its_place():
    header = encode_header(RECORD, PLACE)
    for other in (
        place_of(b"e" * 16, 7, 8192),
        place_of(b"d" * 16, 8, 8192),
        place_of(b"d" * 16, 7, 12288),
    ):
        assert decode_header(header, other) is None


def test_a_cut_header_is_none():
    header = encode_header(RECORD, PLACE)
    assert all(decode_header(header[:end], PLACE) is None for end in range(len(header)))


def test_the_largest_header_fits_one_aligned_read():
    assert record_length(PAYLOAD_BYTES_MAX) - PAYLOAD_BYTES_MAX <= HEADER_BYTES_MAX


@settings(deadline=None, max_examples=50)
@given(length=st.integers(0, 5 * BLOCK_BYTES), seed=st.integers(0, 1000))
def test_each_block_is_verified_alone(length: int, seed: int):
    chance = random.Random(seed)
    payload = chance.randbytes(length)
    crcs = checksum_blocks(payload)
    assert len(crcs) == 4 * -(-length // BLOCK_BYTES)
    for first in range(len(crcs) // 4):
        part = payload[first * BLOCK_BYTES : (first + 2) * BLOCK_BYTES]
        assert blocks_match(crcs, first, part)
        damaged = bytearray(part)
        damaged[chance.randrange(len(part))] ^= 1 << chance.randrange(8)
        assert not blocks_match(crcs, first, bytes(damaged))


def test_spans_are_aligned_and_cost_under_two_percent_from_256_kib():
    for length in (1, 4000, ALIGNMENT, 1 << 18, (1 << 18) + 4000, 2 << 20):
        record = Record(
            kind=RecordKind.FRAGMENT,
            payload_length=length,
            block_crcs=bytes(4 * -(-length // BLOCK_BYTES)),
        )
        assert record.length == record_length(length)
        assert record.span % ALIGNMENT == 0
        assert 0 <= record.span - record.length < ALIGNMENT
        if length >= 1 << 18:
            assert record.length / record.span > 0.98
