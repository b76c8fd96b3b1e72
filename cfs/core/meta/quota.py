"""Counting what inodes use, by directory tree, user and group, and keeping it within the limits.

Every inode counts in three domains: the tree it belongs to (`project`: the inode of the tree's
top; 0: none), its owner and its group. It counts one inode, its `size` in bytes (a directory's is
its number of entries, as `stat` shows), and, a file, what it is *charged* beyond its size: room
its writer was promised. What lies in the trash does not count; what is unlinked but open does.

The counts follow from the inodes an operation changes, when its draft is committed: they are exact
by construction. A shard knows of each limit only its own part of it (`cap`); the parts together
never exceed the limit, so no shard asks another before it says yes. An operation of a client that
would pass a cap is refused with EDQUOT, whole. Entries of directories count, but are not refused:
they are bounded by inodes.

An inode whose number is above `State.counted` does not count yet: shards made before there were
quotas count their inodes step by step.

A tree's members are those below its top, by marks on the inodes: what is made in a directory gets
its mark, and names do not move from one tree to another (EXDEV, as on XFS: `mv` copies). Trees do
not nest.
"""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cfs.core.api.meta import Attr
from cfs.core.api.quota import GROUP, NAMES, TREE, UNLIMITED, USER, Domain
from cfs.core.errors import FsError
from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import keys
from cfs.core.meta.records import INODE, USAGE, Inode, Usage

if TYPE_CHECKING:
    from cfs.core.meta.draft import Draft

ALL = (1 << 64) - 1
"""`State.counted` of a shard that counts every inode."""
STEP_INODES = 256
"""Inodes that an entry begins to count beside its own work."""
_KIND, _DIRECTORY = 0o170000, stat.S_IFDIR

Owners = tuple[int, int, int]
"""Tree, user and group that an inode counts for."""
Sums = dict[Owners, list[int]]
"""Bytes, bytes held, inodes, and bytes that may be refused, by whom they count for."""


def domains(there: Inode | Attr) -> tuple[Domain, ...]:
    """Give the domains an inode counts in."""
    return _owned(there.project, there.uid, there.gid)


def usage(kv: Reader, domain: Domain) -> Usage:
    """Give what a domain uses in this shard, and its cap here."""
    value = kv.get(keys.usage(domain.kind, domain.id))
    return Usage() if value is None else USAGE.decode(value)


def usages(kv: Reader, after: Domain | None = None) -> Iterator[tuple[Domain, Usage]]:
    """Yield every domain that uses something or is limited here, in order after one."""
    start = b"q" if after is None else keys.usage(after.kind, after.id) + b"\0"
    for key, value in kv.scan(start, prefix_end(b"q")):
        yield Domain(key[1], keys.number_at(key, 2)), USAGE.decode(value)


def is_limited(there: Usage) -> bool:
    """Tell whether a domain has a cap."""
    return there.cap_bytes != UNLIMITED or there.cap_inodes != UNLIMITED


def room(there: Usage) -> tuple[int, int]:
    """Give the bytes and inodes that may still be taken; below 0: there are too many."""
    return (
        keys.OFFSET_MAX
        if there.cap_bytes == UNLIMITED
        else there.cap_bytes - there.bytes - there.held,
        keys.OFFSET_MAX
        if there.cap_inodes == UNLIMITED
        else there.cap_inodes - there.inodes - there.promised,
    )


# --- counting ------------------------------------------------------------------------------------


def count(draft: Draft, changed: Mapping[int, Inode | None]) -> Sums:
    """Give by how much what is used changes with these inodes."""
    sums: Sums = {}
    counted = draft.state.counted
    for ino, after in changed.items():
        if ino > counted:
            continue
        before = draft.before(ino)
        if before is None:
            if after is not None:
                _weigh(sums, after, 1)
        elif after is None:
            _weigh(sums, before, -1)
        elif not _weighs_the_same(before, after):
            _weigh(sums, before, -1)
            _weigh(sums, after, 1)
    return sums


def spread(sums: Sums) -> dict[Domain, list[int]]:
    """Give the sums of each domain."""
    found: dict[Domain, list[int]] = {}
    for (project, uid, gid), by in sums.items():
        for domain in _owned(project, uid, gid):
            there = found.get(domain)
            found[domain] = by if there is None else [x + y for x, y in zip(there, by, strict=True)]
    return found


def added(there: Usage, by: list[int]) -> Usage:
    """Give what a domain uses after a change."""
    then = replace(
        there, bytes=there.bytes + by[0], held=there.held + by[1], inodes=there.inodes + by[2]
    )
    assert min(then.bytes, then.held, then.inodes) >= 0, then
    return then


def check(usage_of: Callable[[Domain], Usage], sums: Sums, promised: Mapping[Domain, int]) -> None:
    """Raise EDQUOT when a change would pass a cap."""
    differences = spread(sums)
    for domain in {**differences, **promised}:
        there = usage_of(domain)
        if not is_limited(there):
            continue
        by = differences.get(domain, [0, 0, 0, 0])
        bytes_left, inodes_left = room(there)
        inodes = by[2] + promised.get(domain, 0)
        if by[3] > 0 > bytes_left - by[0] - by[1]:
            raise exceeded(domain, "bytes")
        if inodes > 0 > inodes_left - inodes:
            raise exceeded(domain, "inodes")


def exceeded(domain: Domain, what: str) -> FsError:
    """Make EDQUOT."""
    of = f"{NAMES[domain.kind]} {domain.id}"
    return FsError(errno.EDQUOT, f"the quota of {of} has no room for more {what}")


def _weighs_the_same(one: Inode, other: Inode) -> bool:
    return (
        one.size == other.size
        and one.charged == other.charged
        and one.uid == other.uid
        and one.gid == other.gid
        and one.project == other.project
        and bool(one.trashed) == bool(other.trashed)
    )


def _weigh(sums: Sums, inode: Inode, sign: int) -> None:
    if inode.trashed:
        return
    size, held = inode.size, 0
    if inode.charged > size:
        held = inode.charged - size
    owners = (inode.project, inode.uid, inode.gid)
    by = sums.get(owners)
    if by is None:
        by = sums[owners] = [0, 0, 0, 0]
    by[0] += sign * size
    by[1] += sign * held
    by[2] += sign
    if inode.mode & _KIND != _DIRECTORY:
        by[3] += sign * (size + held)


def _owned(project: int, uid: int, gid: int) -> tuple[Domain, ...]:
    owners = Domain(USER, uid), Domain(GROUP, gid)
    return (Domain(TREE, project), *owners) if project else owners


def count_all(inodes: Iterable[Inode]) -> dict[Domain, tuple[int, int]]:
    """Count bytes and inodes of domains afresh, as a check."""
    sums: Sums = {}
    for inode in inodes:
        _weigh(sums, inode, 1)
    return {domain: (by[0], by[2]) for domain, by in spread(sums).items()}


def step(draft: Draft) -> None:
    """Begin to count a few inodes of a shard older than quotas, if some do not count yet."""
    state = draft.state
    if state.counted == ALL:
        return
    scan = draft.kv.scan(keys.inode(state.counted + 1), prefix_end(b"i"))
    found = list(itertools.islice(scan, STEP_INODES))
    sums: Sums = {}
    for _, value in found:
        _weigh(sums, INODE.decode(value), 1)
    draft.ledger.take(sums)
    state.counted = keys.number_at(found[-1][0], 1) if len(found) == STEP_INODES else ALL
    draft.commit(changed=False)


# --- trees ---------------------------------------------------------------------------------------


def is_top(there: Inode | Attr, ino: int) -> bool:
    """Tell whether an inode is the top of a tree: it may be renamed where nothing changes tree."""
    return there.project == ino


def check_move(
    moved: Inode | Attr, ino: int, old_parent: Inode | Attr, new_parent: Inode | Attr
) -> None:
    """Raise EXDEV when a name would go from one tree to another, or out, or in."""
    if old_parent.project != new_parent.project:
        raise crossing(ino)
    if moved.project != new_parent.project and not is_top(moved, ino):
        raise crossing(ino)


def crossing(ino: int) -> FsError:
    """Make the error that has `mv` copy."""
    return FsError(errno.EXDEV, f"inode {ino} would change its quota tree: copy it")
