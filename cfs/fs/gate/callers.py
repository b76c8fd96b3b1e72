"""Who a request of a kernel comes from.

A request says user, group and thread; supplementary groups stand in /proc and are remembered for a
second: a thread that changes its groups alone, keeping user and group, may be taken for what it was
that long. The kernel itself checks with what is true at the moment, so this only delays what a
shard's own check would refuse.

Root is nobody to check (None), unless the mount is *squashed*: then user 0 and group 0 are
everywhere nobody's. A thread whose process is not visible from here, in another pid namespace,
counts without supplementary groups.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, TypeVar

from cfs.core.api.meta import Caller

ROOT_NODE = 1
"""What a kernel calls the root of a mount."""
NOBODY = 65_534
REMEMBERED_S = 1.0
REMEMBERED_MAX = 1024
"""Threads whose groups are remembered: 12 µs of CPU each to read again."""
GROUPS_MAX = 256
"""Groups of a caller that count and travel; the first ones. NFS carries 16."""

_Key = tuple[int, int, int]
_T = TypeVar("_T")


def groups_of(pid: int) -> tuple[int, ...]:
    """Read the supplementary groups of a thread; none when it cannot be seen."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return ()
    _, found, rest = status.partition(b"\nGroups:")
    words = rest.partition(b"\n")[0].split() if found else []
    return tuple(int(word) for word in words[:GROUPS_MAX])


class Maker(TypedDict):
    """Whose something new is, and on whose behalf it is made."""

    uid: int
    gid: int
    caller: Caller | None


class Callers:
    """The callers of one mount."""

    def __init__(
        self, *, squash: bool = False, groups: Callable[[int], tuple[int, ...]] = groups_of,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.squash = squash
        self._groups = groups
        self._now = now
        self._known: dict[_Key, tuple[float, Caller]] = {}

    def of(self, uid: int, gid: int, pid: int) -> Caller | None:
        """Give whose rights count for a request; None: root's, nothing is checked."""
        if not uid:
            return Caller(NOBODY, NOBODY) if self.squash else None
        key = uid, gid, pid
        known = self._known.get(key)
        if known is not None and self._now() < known[0]:
            return known[1]
        groups = self._groups(pid) if pid else ()
        if self.squash:
            gid = gid or NOBODY
            groups = tuple(group for group in groups if group)
        caller = Caller(uid, gid, groups)
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[key] = self._now() + REMEMBERED_S, caller
        return caller


def outward(root: int, tell: Callable[[int, _T], None]) -> Callable[[int, _T], None]:
    """Let notifications about the root name the kernel's root node."""

    def told(ino: int, what: _T) -> None:
        tell(ROOT_NODE if ino == root else ino, what)

    return told
