"""What is known of an inode, and what a directory says of a name. Kept by `cache`."""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from cfs.core.api.meta import Attr
from cfs.core.ids import Ino, shard_of
from cfs.core.meta.name_filter import NameFilter

if TYPE_CHECKING:
    from cfs.fs.client.following import Following

COOKIE = attrgetter("cookie")
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
        "atime_ns", "attr", "complete", "entries", "epoch", "folded", "following", "ino",
        "listing", "modes", "parent", "pins", "shard", "xattr_names", "xattrs",
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
        self.parent = 0
        """A directory that listed it lately, if any: a hint."""
        self.entries: dict[bytes, Name] = {}
        self.complete = False
        self.folded: NameFilter | None = None
        """Names that were there, beside `entries`, where `complete`; none that is in line."""
        self.listing: list[Name] | None = None
        """The names that are there, in cookie order."""
        self.following: Following | None = None
        self.xattr_names: frozenset[bytes] | None = None
        self.xattrs: dict[bytes, bytes] = {}

    def decides(self, name: bytes) -> bool:
        """Tell whether it says of a name that it is there, or is not (where `complete`)."""
        return self.folded is None or name in self.entries or name not in self.folded

    def fold(self, name: bytes) -> None:
        """Know of a name only that it may be there."""
        if self.folded is None:
            self.folded = NameFilter()
        del self.entries[name]
        self.folded.add(name)
        self.listing = None

    def relist(self, old: Name | None, new: Name) -> None:
        """Bring `listing` up to date where that is cheap, else let it be sorted again.

        Who lists and removes in turn does not sort what is left after each removal.
        """
        listing = self.listing
        if listing is None:
            return
        if old is None or not old.ino:
            self.listing = None if new.ino else listing
        elif old.ino != new.ino or old.cookie != new.cookie:
            index = bisect_left(listing, old.cookie, key=COOKIE)
            if new.ino or index == len(listing) or listing[index].name != old.name:
                self.listing = None
            else:
                del listing[index]
