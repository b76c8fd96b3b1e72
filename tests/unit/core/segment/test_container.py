"""A segment names its own chunks; damage to it is noticed without keys."""

import random

import crc32c
import pytest

from cfs.core.data.pipeline import Sealed
from cfs.core.errors import Corrupt
from cfs.core.ids import ChunkId
from cfs.core.segment import container

GOLDEN_SEGMENT = (
    "4346534701000000000000010000004c000102030405060708090a0b0c0d0e0f1011121314151617"
    "18191a1b1c1d1e1f00000048000000040000000900000002ec350e5671669a8a626c6f62"
)


def _chunks(count: int) -> list[Sealed]:
    rng = random.Random(count)
    return [
        Sealed(ChunkId(rng.randbytes(32)), 3, 5000 + i, rng.randbytes(rng.randrange(1, 300)))
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 50, container.CHUNK_COUNT_MAX])
def test_round_trip(count: int) -> None:
    chunks = _chunks(count)
    segment, rows = container.build(chunks)
    assert len(segment) == container.built_length(count, sum(len(c.blob) for c in chunks))
    need = container.table_length(segment[: container.PREFIX_BYTES])
    assert container.parse_table(segment[:need]) == rows
    assert [container.extract(segment, row) for row in rows] == chunks
    assert all(segment[r.at : r.at + r.stored] == c.blob for r, c in zip(rows, chunks, strict=True))


def test_golden_bytes() -> None:
    segment, _ = container.build([Sealed(ChunkId(bytes(range(32))), 2, 9, b"blob")])
    assert segment.hex() == GOLDEN_SEGMENT


def test_every_flipped_bit_is_noticed() -> None:
    segment, _ = container.build(_chunks(2))
    for at in range(len(segment) * 8):
        bad = bytearray(segment)
        bad[at // 8] ^= 1 << at % 8
        with pytest.raises(Corrupt):
            [container.extract(bad, row) for row in container.parse_table(bad)]


def test_a_cut_segment_is_noticed() -> None:
    segment, rows = container.build(_chunks(2))
    for end in range(len(segment)):
        with pytest.raises(Corrupt):
            [container.extract(segment[:end], r) for r in container.parse_table(segment[:end])]
    assert len(rows) == 2


def test_a_table_that_does_not_tile_its_segment_is_refused() -> None:
    chunks = _chunks(2)
    segment, rows = container.build(chunks)
    end = container.built_length(2, 0)
    for at, length in ((rows[1].at + 1, len(segment)), (rows[1].at, len(segment) + 1)):
        head = bytearray(segment[:end])
        head[12:16] = length.to_bytes(4, "big")
        place = container.PREFIX_BYTES + container.ROW_BYTES + 32
        head[place : place + 4] = at.to_bytes(4, "big")
        head[end - 4 :] = crc32c.crc32c(head[: end - 4]).to_bytes(4, "big")
        with pytest.raises(Corrupt):
            container.parse_table(head)
