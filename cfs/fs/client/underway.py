"""What own changes that are under way may have changed already.

A change takes effect before its answer is here: others can see it by then, and its own client,
which a shard recalls nothing from, must not go on seeing what was before. So from when a change is
sent until its answer is taken in what it touches is not answered from the cache: names, absent ones
too, listings of their directories, attributes; and nothing is carried out ahead of the shard on
what it names or ends. (On nothing at all while it may end what this client does not know: a name
that others have changed may lead to a directory delegated to this client.) What is known stays
where it is: it counts again when the change was refused, and the answer to one that took effect
replaces it. Bounded by the operations under way.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from cfs.core.api import meta
from cfs.core.ids import Ino, shard_of
from cfs.fs.client.lane import Lane


class Touched(msgspec.Struct, frozen=True):
    """What an operation changes, as far as it is known before its answer."""

    names: tuple[tuple[int, bytes], ...] = ()
    """(directory, name)."""
    inos: tuple[int, ...] = ()
    """Inodes whose attributes change."""
    kept: tuple[int, ...] = ()
    """Those on which nothing may be put in line meanwhile: what it names, what it may end."""
    ends: tuple[tuple[int, bytes], ...] = ()
    """Names of which it may end what they lead to."""
    crosses: bool = False
    """It may concern two shards: it can be in effect long before it is answered."""


class Touching(Protocol):
    """What is asked of the `Holder` of leases."""

    def touched(self, op: Any) -> Touched:
        """Tell what an operation changes."""
        ...

    async def begins(self, inos: Iterable[int]) -> None:
        """Drop the attributes that a kernel has of what a change is about to touch."""
        ...


class Underway:
    """What is touched by changes under way, counted."""

    def __init__(self) -> None:
        self.names: dict[tuple[int, bytes], int] = {}
        self.inos: dict[int, int] = {}
        self.kept: dict[int, int] = {}
        self.ends: dict[tuple[int, bytes], int] = {}
        self.known: Callable[[int, bytes], tuple[int, bool]] = _unknown
        """See `touched_by`; of this moment."""

    def may_end(self, inos: Iterable[int]) -> bool:
        """Tell whether a change that is in its place in the order may end one of these inodes."""
        for name in self.ends:
            ino, ends = self.known(*name)
            if ends and (not ino or ino in inos):
                return True
        return False

    async def answer(
        self, lane: Lane, op: Any, touched: Touched, holder: Touching, deadline: float
    ) -> tuple[int, meta.OpResult]:
        """Send an operation and give its answer, as `Lane.answer`.

        The caller takes it in before it waits for anything: then what it touches is told again.
        """
        self.begin(touched)
        waiting = None
        try:
            if touched.crosses:
                await holder.begins(touched.inos)
            waiting = lane.enqueue(op)
            return await lane.answer(waiting, deadline=deadline)
        finally:
            if waiting is None or waiting.over:
                self.end(touched)
            else:
                waiting.told = lambda _: self.end(touched)

    def begin(self, touched: Touched) -> None:
        """Hide what an operation that is about to be sent touches."""
        for name in touched.names:
            self.names[name] = self.names.get(name, 0) + 1
        for ino in touched.inos:
            self.inos[ino] = self.inos.get(ino, 0) + 1
        for ino in touched.kept:
            self.kept[ino] = self.kept.get(ino, 0) + 1
        self.ending(touched.ends)

    def end(self, touched: Touched) -> None:
        """End `begin`: the answer was taken in, or nothing was sent."""
        _count_down(self.names, touched.names)
        _count_down(self.inos, touched.inos)
        _count_down(self.kept, touched.kept)
        self.ended(touched.ends)

    def ending(self, ends: Iterable[tuple[int, bytes]]) -> None:
        """Note that what these names lead to may end."""
        for name in ends:
            self.ends[name] = self.ends.get(name, 0) + 1

    def ended(self, ends: Iterable[tuple[int, bytes]]) -> None:
        """End `ending`."""
        _count_down(self.ends, ends)


def touched_by(op: Any, known: Callable[[int, bytes], tuple[int, bool]]) -> Touched:
    """Tell what an operation touches.

    `known` gives the inode that a name leads to, or 0, and whether it may end with that name: so
    may what is not known.
    """
    names: tuple[tuple[int, bytes], ...] = ()
    ends: tuple[tuple[int, bytes], ...] = ()
    inos: list[int] = []
    crosses = False
    match op:
        case meta.Create():
            names = ((op.parent, op.name),)
            crosses = stat.S_ISDIR(op.mode)
        case meta.Unlink() | meta.Rmdir():
            names = ends = ((op.parent, op.name),)
        case meta.Link():
            names, inos = ((op.parent, op.name),), [op.ino]
        case meta.Rename():
            names = ((op.parent, op.name), (op.new_parent, op.new_name))
            ends = names[1:]
        case meta.SetAttr() | meta.SetXattr() | meta.RemoveXattr() | meta.Commit():
            inos = [op.ino]
        case meta.CopyRange():
            inos = [op.ino]
    kept = dict.fromkeys([*inos, *(parent for parent, _ in names)])
    found = {name: known(*name) for name in names}
    touched = dict.fromkeys([*kept, *(ino for ino, _ in found.values() if ino)])
    kept |= dict.fromkeys(found[name][0] for name in ends if all(found[name]))
    crosses = crosses or len({shard_of(Ino(ino)) for ino in touched}) > 1
    return Touched(names, tuple(touched), tuple(kept), ends, crosses)


def _unknown(_parent: int, _name: bytes) -> tuple[int, bool]:
    return 0, True


def _count_down(counts: dict[Any, int], keys: Iterable[Any]) -> None:
    for key in keys:
        left = counts[key] - 1
        if left:
            counts[key] = left
        else:
            del counts[key]
