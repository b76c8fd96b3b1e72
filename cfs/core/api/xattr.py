"""Reading extended attributes; `cfs.core.api.meta` gives these names on."""

from __future__ import annotations

import msgspec


class GetXattr(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Read one extended attribute; ENODATA."""

    shard: int
    session: int
    ino: int
    name: bytes
    snapshot: int = 0


class ListXattr(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """List the names of extended attributes."""

    shard: int
    session: int
    ino: int
    snapshot: int = 0


class XattrReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The value, or all names."""

    at: int
    value: bytes = b""
    names: tuple[bytes, ...] = ()
