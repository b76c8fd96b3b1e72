"""The hello: what each side says first, and what two versions agree on.

The message of a HELLO frame is a msgpack array `[protocol_min, protocol_max, format_min,
format_max, software]`; later fields go last. Both sides take the highest protocol both speak; when
there is none, or the formats do not overlap, the connection is refused by name.
"""

from __future__ import annotations

from importlib import metadata

import msgspec

from cfs.core.errors import Malformed, Refused
from cfs.net.frame import Buffer

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
FORMAT_MIN = 1
"""Oldest stored and wired record format this software reads."""
FORMAT_MAX = 1


def _software() -> str:
    try:
        return metadata.version("cfs")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "source"


SOFTWARE = _software()


class Hello(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What one side speaks."""

    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX
    format_min: int = FORMAT_MIN
    format_max: int = FORMAT_MAX
    software: str = SOFTWARE


_DECODER = msgspec.msgpack.Decoder(Hello)
OURS = Hello()


def decode(message: Buffer) -> Hello:
    """Read a hello. Raises Malformed."""
    try:
        return _DECODER.decode(message)
    except msgspec.DecodeError as error:
        raise Malformed(f"the hello cannot be read: {error}", reason="hello") from None


def agree(theirs: Hello, ours: Hello = OURS) -> int:
    """Give the protocol version to speak. Raises Refused naming both sides' versions."""
    protocol = min(ours.protocol_max, theirs.protocol_max)
    if protocol < max(ours.protocol_min, theirs.protocol_min):
        raise Refused(
            f"the peer runs cfs {theirs.software} and speaks protocol {theirs.protocol_min} to "
            f"{theirs.protocol_max}, this side {ours.protocol_min} to {ours.protocol_max}: "
            "upgrade the older one",
            reason="protocol",
        )
    if min(ours.format_max, theirs.format_max) < max(ours.format_min, theirs.format_min):
        raise Refused(
            f"the peer runs cfs {theirs.software} with record formats {theirs.format_min} to "
            f"{theirs.format_max}, this side {ours.format_min} to {ours.format_max}: "
            "upgrade the older one",
            reason="format",
        )
    return protocol
