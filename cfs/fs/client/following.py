"""Which entries of a directory come next for whoever goes through it.

A guess, from the order of listing and the order of inodes (as `rm -r` sorts). Both are sorted once
and used while the directory changes: names that went are for the caller to leave out, and names
that came are missed. Sorting is repeated when as much was missed as it costs, so going through a
directory of any size costs each entry about the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter, itemgetter

from cfs.core.meta import keys
from cfs.fs.client.nodes import UNKNOWN_COOKIE, Name

NAMES_A_MISS = 2_048
"""Sorting so many names costs about as much as asking the shard for one inode: 1.5 ms."""


class Following:
    """The entries of one directory as they were a while ago, in both orders."""

    __slots__ = ("_count", "_misses", "_ways")

    def __init__(self, names: list[Name]) -> None:
        self._count = len(names)
        self._misses = 0
        self._ways = [(key, sorted(names, key=key)) for key in _KEYS]

    @property
    def worn(self) -> bool:
        """Tell whether it pays to sort again."""
        return self._misses * NAMES_A_MISS > self._count

    def after(self, last: Name, there: Name, count: int) -> list[Name]:
        """Give up to `count` entries that come after `there`, in the order that led from `last`."""
        ways = []
        for key, names in self._ways:
            first = bisect_right(names, key(there), key=key)
            since = first - bisect_right(names, key(last), key=key)
            ways.append((since if since > 0 else self._count, names, first))
        _, names, first = min(ways, key=itemgetter(0))
        return names[first : first + count]

    def missed(self) -> None:
        """Note that what it gave was of no use."""
        self._misses += 1


def _place(name: Name) -> int:
    """Give where a listing has a name; of one made here, where the shard will put it."""
    return (
        name.cookie if name.cookie != UNKNOWN_COOKIE else keys.cookie(keys.name_hash(name.name), 0)
    )


_KEYS: tuple[Callable[[Name], int], ...] = (_place, attrgetter("ino"))
