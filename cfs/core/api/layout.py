"""Messages that ask a shard where the bytes of many files are."""

from __future__ import annotations

import msgspec

from cfs.core.api.meta import LayoutReply


class Layouts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask for the extents of the first `length` bytes of files that may be read next."""

    shard: int
    session: int
    inos: tuple[int, ...]
    length: int


class LayoutsReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Those that could be told at once, with READ leases; bounded in bytes."""

    layouts: tuple[LayoutReply, ...]
