"""Whether and how a chunk is compressed.

zstd level 1 without checksum (the seal has a tag). Measured on one core, 96 KiB chunks:

    level   Python sources     programs           half random, half text   random
    -1      3.07:1 2.5 ms/MiB  2.89:1 1.9 ms/MiB  1.98:1 0.27 ms/MiB       0.21 ms/MiB
     1      3.68:1 2.5 ms/MiB  3.10:1 2.0 ms/MiB  1.98:1 0.66 ms/MiB       0.17 ms/MiB
     3      3.89:1 3.1 ms/MiB  3.26:1 2.7 ms/MiB  1.98:1 0.65 ms/MiB       0.20 ms/MiB

so level 1 buys the reduction of real data for no more time than -1. Beside everything else a
stream does, though, its tables do not stay in the cache: 384 MiB of the half random kind were
written and synced at 130 to 167 MB/s with level 1 and at 198 to 201 with -1, so long streams take
-1 (`fast`). What is read back does not depend on it, nor does a chunk's name. zstd's own
look-ahead is the probe for incompressible data: it gives up at 6 GB/s, and a separate probe of
samples costs half of that on every chunk. A result that saves less than 1/16 is dropped: reading
raw bytes is cheaper.
Compressor objects are not for two threads at once: each thread keeps its own.
"""

from __future__ import annotations

import enum
import threading

import zstandard

from cfs.core.errors import Corrupt

_LEVEL = 1
_LEVEL_FAST = -1
_SAVING_SHIFT = 4
_WORTH_TRYING_BYTES = 64
_thread = threading.local()


class Codec(enum.IntEnum):
    """How the body of a sealed chunk is encoded."""

    RAW = 0
    ZSTD = 1


def compress(
    plain: bytes | bytearray | memoryview, *, fast: bool = False
) -> tuple[Codec, bytes | bytearray | memoryview]:
    """Give the codec and the body: `plain` itself when compression does not pay."""
    size = len(plain)
    if size < _WORTH_TRYING_BYTES:
        return Codec.RAW, plain
    name = "fast" if fast else "normal"
    compressor: zstandard.ZstdCompressor | None = getattr(_thread, name, None)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(
            level=_LEVEL_FAST if fast else _LEVEL, write_checksum=False, write_content_size=True
        )
        setattr(_thread, name, compressor)
    body = compressor.compress(plain)
    if len(body) > size - (size >> _SAVING_SHIFT):
        return Codec.RAW, plain
    return Codec.ZSTD, body


def expand(codec: int, body: bytes, raw: int) -> bytes:
    """Undo `compress`; `raw` is the plain length. Raises Corrupt; allocates `raw` bytes at most."""
    if codec == Codec.RAW:
        if len(body) != raw:
            raise Corrupt(f"chunk: {len(body)} plain bytes where {raw} are named")
        return body
    if codec != Codec.ZSTD:
        raise Corrupt(f"chunk: unknown codec {codec}")
    decompressor: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if decompressor is None:
        decompressor = _thread.decompressor = zstandard.ZstdDecompressor()
    try:
        if zstandard.frame_content_size(body) != raw:
            raise Corrupt(f"chunk: its zstd frame does not hold the {raw} bytes that are named")
        return decompressor.decompress(body, max_output_size=raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"chunk: zstd: {error}") from error
