"""What is known of an inode, and what a directory says of a name. Kept by `cache`."""

from __future__ import annotations

import msgspec

from cfs.core.api.meta import Attr
from cfs.core.ids import Ino, shard_of
from cfs.core.meta.name_filter import NameFilter

UNKNOWN_COOKIE = 0


class Name(msgspec.Struct, frozen=True, gc=False):
    """What a directory says of a name; `ino` 0: absent."""

    name: bytes
    ino: int
    kind: int
    cookie: int
    at: int


class Node:
    """What is known of an inode."""

    __slots__ = (
        "atime_ns", "attr", "complete", "entries", "epoch", "folded", "ino", "listing", "modes",
        "pins", "shard", "xattr_names", "xattrs",
    )  # fmt: skip

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.shard = shard_of(Ino(ino))
        self.attr: Attr | None = None
        self.atime_ns = 0
        """When a directory or symbolic link was last read here, if later than `attr` says."""
        self.modes = 0
        self.epoch = 0
        """New whenever what was learnt is dropped: the same value means one continuous lease."""
        self.pins = 0
        self.entries: dict[bytes, Name] = {}
        self.complete = False
        self.folded: NameFilter | None = None
        """Names that were there, beside `entries`, where `complete`; none that is in line."""
        self.listing: list[Name] | None = None
        self.xattr_names: frozenset[bytes] | None = None
        self.xattrs: dict[bytes, bytes] = {}

    def decides(self, name: bytes) -> bool:
        """Tell whether it says of a name that it is there, or is not (where `complete`)."""
        return self.folded is None or name in self.entries or name not in self.folded
