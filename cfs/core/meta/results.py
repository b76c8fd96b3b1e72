"""Results of a shard's commands: tagged msgpack arrays, so that they can cross between meta nodes.

`Failed` stands for any other when a command is refused.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from cfs.core.api.meta import Attr, OpResult
from cfs.core.api.quota import Domain
from cfs.core.errors import CfsError, Malformed


class Failed(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="failed"):
    """Refused; nothing changed. `error` is `CfsError.to_wire()`."""

    error: list[Any]


class Done(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="done"):
    """It is so now, whether it was before or not."""


class Opened(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="opened"):
    """`expired`: the session had been expired (its WRITE leases are gone)."""

    applied_seq: int
    expired: bool
    leases: tuple[int, ...]
    """Inodes on which it holds WRITE."""


class Refused(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="refused"):
    """The answer that stands under the operation's number."""

    answer: OpResult


class Reclaimed(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="reclaimed"):
    """`done`: the inode is gone."""

    done: bool


class Emptied(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="emptied"):
    """The inodes that are orphans now."""

    inos: tuple[int, ...]


class Packed(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="packed"):
    """How many of the inline chunks were still there and are packed now."""

    replaced: int


class Relocated(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="relocated"):
    """How many extents refer to other segments now; `after`: go on there, empty at the end."""

    replaced: int
    after: bytes = b""


class Condemned(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="condemned"):
    """For each segment its extents here; -1: not condemned, another round stands or this ended."""

    live: tuple[int, ...]


class Stands(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="stands"):
    """How many segments the round condemns."""

    count: int


class Gone(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="gone"):
    """Segments that were *not* taken as deleted because extents here still refer to them."""

    live: tuple[bytes, ...]


class Prepared(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="prepared"):
    """Locked. For each step the inode it makes, else 0; `token` names this preparation."""

    inos: tuple[int, ...]
    token: int = 0


class Decided(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="decided"):
    """The decision, made now or before; `error` says why a wish to commit was not fulfilled.

    `attrs` and `inos` are of the coordinator's own part, when it was finished in this entry.
    """

    commit: bool
    error: list[Any] | None = None
    attrs: tuple[Attr | None, ...] = ()
    inos: tuple[int, ...] = ()


class Finished(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="finished"):
    """For each step of a committed part the inode it changed; empty when finished before."""

    attrs: tuple[Attr | None, ...] = ()


class CappedRow(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a domain uses in a shard and is promised, and its caps there."""

    domain: Domain
    bytes: int
    inodes: int
    held: int
    promised: int
    cap_bytes: int
    cap_inodes: int


class Capped(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="capped"):
    """How it is now, in the order of the caps."""

    rows: tuple[CappedRow, ...]


class Marked(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="marked"):
    """How many inodes were marked; `ino`, if any, is to be marked next, before going on there."""

    marked: int
    end: bool
    ino: int = 0
    hash58: int = 0
    slot: int = -1


Result: TypeAlias = (
    Failed
    | Done
    | Opened
    | Refused
    | Reclaimed
    | Packed
    | Relocated
    | Emptied
    | Condemned
    | Stands
    | Gone
    | Prepared
    | Decided
    | Finished
    | Capped
    | Marked
)

_encode = msgspec.msgpack.Encoder().encode
_decode: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)


def encode_result(result: Result) -> bytes:
    """Give the bytes of one result."""
    return _encode(result)


def decode_result(result: bytes) -> Result:
    """Read one result. Raises `Malformed`."""
    try:
        return _decode.decode(result)
    except msgspec.DecodeError as error:
        raise Malformed(f"result does not decode: {error}") from error


def failed(error: CfsError) -> Failed:
    """Wrap an error as a result."""
    return Failed(error=error.to_wire())
