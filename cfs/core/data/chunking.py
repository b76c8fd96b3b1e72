"""Where a run of bytes is cut into chunks.

The rule is frozen: two clients, years apart, must cut the same bytes at the same places or
deduplication between them ends. It is FastCDC (Xia et al. 2020, the two-bytes-a-step form) with

    smallest 64 KiB, nominal 128 KiB, largest 256 KiB, normalised chunking level 2,
    the gear table of the paper's reference code, rolled from the smallest size on

as the `pyfastcdc` package computes it with seed 0. Golden cut points in the tests hold it there.
The mean of chunks of unlike data is about 150 KiB: the nominal size counts from the smallest.
Why these sizes: decision 0313.

A cut depends only on bytes before it, so every cut but the last of a buffer stands whatever
follows; the last stands when its chunk is of the largest size. Cutting costs 0.37 ms/MiB (one core)
and releases the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pyfastcdc import FastCDC

CHUNK_BYTES_MIN = 64 << 10
CHUNK_BYTES_NOMINAL = 128 << 10
CHUNK_BYTES_MAX = 256 << 10
_NORMALISATION: Literal[2] = 2


def cut(data: bytes | bytearray | memoryview) -> Iterator[int]:
    """Give the lengths of the chunks of `data`, in order; they sum to its length."""
    chunker = FastCDC(
        CHUNK_BYTES_NOMINAL,
        min_size=CHUNK_BYTES_MIN,
        max_size=CHUNK_BYTES_MAX,
        normalized_chunking=_NORMALISATION,
    )
    return (chunk.length for chunk in chunker.cut_buf(data))


def complete(data: bytes | bytearray | memoryview) -> int:
    """Count the leading bytes that end on a cut which stands whatever bytes follow."""
    total = 0
    last = 0
    for last in cut(data):
        total += last
    return total if last == CHUNK_BYTES_MAX else total - last
