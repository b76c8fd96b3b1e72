"""Messages about the trash of a shard: what lies in it, and throwing it out for good."""

from __future__ import annotations

import msgspec

from cfs.core.api.attr import Attr


class ListTrash(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """List what lies in a shard's trash, oldest first: up to `limit` after `(stamp, ino)`."""

    shard: int
    stamp: int = 0
    ino: int = 0
    limit: int = 1024


class Thrown(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What lies in the trash."""

    stamp: int
    """When it came, ns; a stamp of the shard's clock."""
    attr: Attr
    parent: int
    """The directory that had its last name; that may lie in a trash too."""
    name: bytes


class ListTrashReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The page; `end`: nothing follows."""

    thrown: tuple[Thrown, ...]
    end: bool


class PurgeTrash(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Take inodes out of a shard's trash for good."""

    shard: int
    inos: tuple[int, ...]
