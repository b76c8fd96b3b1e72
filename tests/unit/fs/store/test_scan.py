"""Scanning a volume: what is found tiles it, whatever was damaged or punched."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.segment.record import (
    ALIGNMENT,
    Record,
    RecordKind,
    checksum_blocks,
    encode_header,
    place_of,
)
from cfs.fs.store.scan import Found, Gap, scan_volume

from .rig import DISK_ID, segment_of


def build(chance: random.Random, count: int) -> tuple[bytearray, list[tuple[int, Record]]]:
    data = bytearray()
    records = []
    for number in range(count):
        payload = chance.randbytes(chance.choice([1, 4000, 5000, 70_000]))
        record = Record(
            kind=RecordKind.FRAGMENT,
            segment=segment_of(number),
            payload_length=len(payload),
            block_crcs=checksum_blocks(payload),
        )
        records.append((len(data), record))
        raw = encode_header(record, place_of(DISK_ID, 3, len(data))) + payload
        data += raw + bytes(record.span - len(raw))
    return data, records


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 32), verify=st.booleans())
def test_damage_hides_only_what_it_hits(*, seed: int, verify: bool):
    chance = random.Random(seed)
    data, records = build(chance, 8)
    hit: set[int] = set()
    punched: set[int] = set()
    for offset, record in chance.sample(records, 3):
        if chance.random() < 0.4:
            data[offset : offset + record.span] = bytes(record.span)
            punched.add(offset)
        else:
            at = chance.randrange(64) if not verify else chance.randrange(record.length)
            data[offset + at] ^= 1 << chance.randrange(8)
            hit.add(offset)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    events = list(
        scan_volume(
            lambda offset, length: bytes(data[offset : offset + length]),
            disk_id=DISK_ID,
            volume=3,
            start=0,
            size=len(data),
            verify=verify,
        )
    )
    at = 0
    for event in events:
        assert event.offset == at
        at += event.record.span if isinstance(event, Found) else event.length
    assert len(data) <= at < len(data) + ALIGNMENT
    found = {e.offset for e in events if isinstance(e, Found)}
    assert found == {
        offset
        for offset, record in records
        if offset not in hit | punched and offset + record.length <= len(data)
    }
    damaged = [e for e in events if isinstance(e, Gap) and e.damaged]
    for offset in hit:
        if offset + 64 <= len(data):
            assert any(g.offset <= offset < g.offset + g.length for g in damaged)
    if not hit and len(data) == sum(record.span for _, record in records):
        assert not damaged
