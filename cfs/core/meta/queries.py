"""Questions one meta node asks a shard's leader, answered from its state without proposing.

They travel as `Internal(read=True)`: one tagged msgpack array each way. The answers are hints for
the collector; what makes collection safe are the commands `Condemn` and `Standing`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.errors import Malformed
from cfs.core.ids import SEGMENT_ID_BYTES
from cfs.core.kv import Reader
from cfs.core.meta import keys, read

SEGMENTS_MAX = 4096


class Candidates(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="candidates"):
    """Ask which segments nothing here refers to any more: at most `limit`, after `after`."""

    limit: int
    after: bytes = b""


class Unreferred(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="unreferred"):
    """Ask which of these segments nothing here refers to."""

    segments: tuple[bytes, ...]


class Segments(msgspec.Struct, frozen=True, array_like=True):
    """The answer."""

    segments: tuple[bytes, ...]


_ENCODER = msgspec.msgpack.Encoder()
_QUERY: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Candidates | Unreferred)
_SEGMENTS = msgspec.msgpack.Decoder(Segments)


def encode(query: Candidates | Unreferred) -> bytes:
    """Give the bytes of a question."""
    return _ENCODER.encode(query)


def decode_segments(answer: bytes) -> tuple[bytes, ...]:
    """Read an answer. Raises Malformed."""
    try:
        return _SEGMENTS.decode(answer).segments
    except msgspec.DecodeError as error:
        raise Malformed(f"answer does not decode: {error}") from error


def answer(kv: Reader, query: bytes) -> bytes:
    """Answer an encoded question from a shard's state. Raises Malformed."""
    try:
        asked = _QUERY.decode(query)
    except msgspec.DecodeError as error:
        raise Malformed(f"question does not decode: {error}") from error
    if isinstance(asked, Candidates):
        limit = min(max(asked.limit, 0), SEGMENTS_MAX)
        segments = read.candidates(kv, limit, asked.after)
    else:
        if len(asked.segments) > SEGMENTS_MAX:
            raise Malformed(f"at most {SEGMENTS_MAX} segments can be asked after at once")
        if any(len(s) != SEGMENT_ID_BYTES for s in asked.segments):
            raise Malformed("a segment id has 16 bytes")
        segments = tuple(
            s
            for s in asked.segments
            if next(iter(kv.scan(*keys.references_range(s))), None) is None
        )
    return _ENCODER.encode(Segments(segments))
