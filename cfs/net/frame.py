"""The frame: what every message looks like on a connection. Owns this format, version 1.

All integers big endian; 40 bytes of header, then `message_bytes` of msgpack, then `payload_bytes`
of raw bytes that never enter msgpack:

    offset  size  field
         0     3  magic      "CFS"
         3     1  version    1
         4     1  kind       see `Kind`
         5     1  flags      0; a bit that is not known is malformed
         6     2  method     number in `cfs.core.api.methods`; 0 where none applies
         8     8  request    id, chosen by the caller, unique among its calls on this connection
        16     4  message    length of the msgpack part, at most 8 MiB
        20     4  payload    length of the raw part, at most 16 MiB
        24     8  epoch      of the sender's cluster map
        32     4  deadline   ms the caller still waits; 0: no limit (requests only)
        36     4  crc32c     of bytes 0..35

Kinds: a connection starts with one HELLO from each side. A REQUEST is answered by one REPLY or
ERROR with its id, or not at all after a CANCEL. An ERROR with request id 0 tells why the
connection is closed. ONEWAY is not answered. PING is answered by PONG at once.

Bytes are protected by the transport (TLS); the checksum tells a stray stream from a corrupt one.
"""

from __future__ import annotations

import enum
import struct
from typing import Any, NamedTuple

import msgspec
from crc32c import crc32c

from cfs.core.errors import Malformed

Buffer = bytes | bytearray | memoryview
"""What may be sent."""
Received = bytes | memoryview
"""What arrives: the receiver's own, never overwritten."""

MAGIC = b"CFS\x01"
HEADER_BYTES = 40
MESSAGE_BYTES_MAX = 8 << 20
"""A reply of `meta.readdir` or `meta.layout` is bounded well below."""
PAYLOAD_BYTES_MAX = 16 << 20
"""A fragment is at most one replicated segment of 4 MiB; snapshots chunk themselves."""

_HEADER = struct.Struct(">4sBBHQIIQII")
_CRC = struct.Struct(">I")
_CRC_AT = HEADER_BYTES - 4
assert _HEADER.size == HEADER_BYTES

_ENCODER = msgspec.msgpack.Encoder()
_BLANK = bytes(HEADER_BYTES)
_DEADLINE_MS_MAX = 0xFFFF_FFFF


class Kind(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    REQUEST = 2
    REPLY = 3
    ERROR = 4
    CANCEL = 5
    ONEWAY = 6
    PING = 7
    PONG = 8


_KINDS = frozenset(int(kind) for kind in Kind)


class Header(NamedTuple):
    """A header that was checked."""

    kind: int
    method: int
    request: int
    message_bytes: int
    payload_bytes: int
    epoch: int
    deadline_ms: int


def encode(
    kind: int,
    message: Any = None,
    *,
    method: int = 0,
    request: int = 0,
    payload_bytes: int = 0,
    epoch: int = 0,
    deadline_ms: int = 0,
) -> bytearray:
    """Give header and msgpack part as one buffer; the payload follows it on the wire.

    `message` None leaves the msgpack part out. Raises Malformed when a bound is exceeded.
    """
    frame = bytearray(_BLANK)
    if message is not None:
        _ENCODER.encode_into(message, frame, HEADER_BYTES)
    message_bytes = len(frame) - HEADER_BYTES
    if message_bytes > MESSAGE_BYTES_MAX or payload_bytes > PAYLOAD_BYTES_MAX:
        raise Malformed(
            f"message of {message_bytes} and payload of {payload_bytes} bytes exceed the bounds "
            f"of a frame ({MESSAGE_BYTES_MAX}, {PAYLOAD_BYTES_MAX}): send less at a time"
        )
    _HEADER.pack_into(
        frame, 0, MAGIC, kind, 0, method, request, message_bytes, payload_bytes, epoch,
        min(deadline_ms, _DEADLINE_MS_MAX), 0,
    )  # fmt: skip
    with memoryview(frame) as view:
        _CRC.pack_into(frame, _CRC_AT, crc32c(view[:_CRC_AT]))
    return frame


def parse_header(buffer: bytearray | bytes | memoryview, offset: int = 0) -> Header:
    """Check and read the header at `offset`. Raises Malformed; `detail["reason"]` counts it."""
    magic, kind, flags, method, request, message_bytes, payload_bytes, epoch, deadline_ms, crc = (
        _HEADER.unpack_from(buffer, offset)
    )
    if magic != MAGIC:
        reason = "version" if magic[:3] == MAGIC[:3] else "magic"
        raise Malformed("the bytes are no frame of this protocol version", reason=reason)
    with memoryview(buffer) as view:
        if crc != crc32c(view[offset : offset + _CRC_AT]):
            raise Malformed("the header's checksum does not match", reason="checksum")
    if kind not in _KINDS or flags:
        raise Malformed(f"frame of unknown kind {kind} or flags {flags}", reason="kind")
    if message_bytes > MESSAGE_BYTES_MAX or payload_bytes > PAYLOAD_BYTES_MAX:
        raise Malformed(
            f"frame of {message_bytes} + {payload_bytes} bytes exceeds the bounds",
            reason="oversized",
        )
    return Header(kind, method, request, message_bytes, payload_bytes, epoch, deadline_ms)
