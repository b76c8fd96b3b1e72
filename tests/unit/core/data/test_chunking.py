"""Cut points are frozen, and only bytes before a cut decide it."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.data import chunking

GOLDEN_NOISE = [168661, 262144, 154378, 125415, 134887, 175400, 27691]
GOLDEN_TEXT = [208348, 141460, 162108, 68084]


def _noise(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def test_golden_cut_points() -> None:
    assert list(chunking.cut(_noise(1 << 20))) == GOLDEN_NOISE
    text = b"".join(b"%08d the quick brown fox\n" % i for i in range(20000))
    assert list(chunking.cut(text)) == GOLDEN_TEXT
    assert list(chunking.cut(bytes(600_000))) == [262144, 262144, 75712]


def test_lengths_cover_the_data_and_keep_the_bounds() -> None:
    for size in (0, 1, 65535, 65536, 65537, 131072, 262144, 262145, 700_001):
        lengths = list(chunking.cut(_noise(size)))
        assert sum(lengths) == size
        assert all(chunking.CHUNK_BYTES_MIN <= n <= chunking.CHUNK_BYTES_MAX for n in lengths[:-1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 500_000), st.integers(0, 300_000))
def test_complete_cuts_stand_whatever_follows(seed: int, size: int, more: int) -> None:
    data = _noise(size + more, seed)
    kept = chunking.complete(data[:size])
    edges = [0]
    for length in chunking.cut(data):
        edges.append(edges[-1] + length)
    assert kept in edges


def test_complete_keeps_a_largest_chunk_at_the_end() -> None:
    assert chunking.complete(bytes(262144)) == 262144
    assert chunking.complete(bytes(262143)) == 0
    assert chunking.complete(b"") == 0
