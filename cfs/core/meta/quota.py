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
from collections.abc import Iterable, Iterator, Mapping
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

_BYTES, _HELD, _INODES, _PROMISED, _ASKED = range(5)


def domains(there: Inode | Attr) -> tuple[Domain, ...]:
    """Give the domains an inode counts in."""
    owners = Domain(USER, there.uid), Domain(GROUP, there.gid)
    return (Domain(TREE, there.project), *owners) if there.project else owners


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


def count(
    draft: Draft, changed: Mapping[int, Inode | None], promised: Mapping[Domain, int],
    *, enforce: bool,
) -> dict[Domain, Usage]:  # fmt: skip
    """Give what the domains use after inodes have changed. Raises EDQUOT if `enforce`."""
    sums: dict[Domain, list[int]] = {}
    for ino, after in changed.items():
        if ino > draft.state.counted:
            continue
        before = draft.before(ino)
        if before is after or (before and after and _weighs_the_same(before, after)):
            continue
        if before is not None:
            _weigh(sums, before, -1)
        if after is not None:
            _weigh(sums, after, 1)
    for domain, number in promised.items():
        sums.setdefault(domain, [0] * 5)[_PROMISED] += number
    found: dict[Domain, Usage] = {}
    for domain, by in sums.items():
        if not any(by):
            continue
        there = draft.usage(domain)
        then = replace(
            there,
            bytes=there.bytes + by[_BYTES],
            held=there.held + by[_HELD],
            inodes=there.inodes + by[_INODES],
            promised=there.promised + by[_PROMISED],
        )
        assert min(then.bytes, then.held, then.inodes, then.promised) >= 0, domain
        if enforce and is_limited(then):
            _check(domain, then, by)
        found[domain] = then
    return found


def _check(domain: Domain, then: Usage, by: list[int]) -> None:
    bytes_left, inodes_left = room(then)
    short = "bytes" if by[_ASKED] > 0 > bytes_left else ""
    if by[_INODES] + by[_PROMISED] > 0 > inodes_left:
        short = "inodes"
    if short:
        raise exceeded(domain, short)


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


def _weigh(sums: dict[Domain, list[int]], inode: Inode, sign: int) -> None:
    if inode.trashed:
        return
    held = max(0, inode.charged - inode.size)
    asked = 0 if stat.S_ISDIR(inode.mode) else inode.size + held
    for domain in domains(inode):
        by = sums.get(domain)
        if by is None:
            by = sums[domain] = [0] * 5
        by[_BYTES] += sign * inode.size
        by[_HELD] += sign * held
        by[_INODES] += sign
        by[_ASKED] += sign * asked


def count_all(inodes: Iterable[Inode]) -> dict[Domain, tuple[int, int]]:
    """Count bytes and inodes of domains afresh, as a check."""
    sums: dict[Domain, list[int]] = {}
    for inode in inodes:
        _weigh(sums, inode, 1)
    return {domain: (by[_BYTES], by[_INODES]) for domain, by in sums.items()}


def step(draft: Draft) -> None:
    """Begin to count a few inodes of a shard older than quotas, if some do not count yet."""
    state = draft.state
    if state.counted == ALL:
        return
    scan = draft.kv.scan(keys.inode(state.counted + 1), prefix_end(b"i"))
    found = list(itertools.islice(scan, STEP_INODES))
    sums: dict[Domain, list[int]] = {}
    for _, value in found:
        _weigh(sums, INODE.decode(value), 1)
    for domain, by in sums.items():
        there = draft.usage(domain)
        draft.set_usage(
            domain,
            replace(
                there,
                bytes=there.bytes + by[_BYTES],
                held=there.held + by[_HELD],
                inodes=there.inodes + by[_INODES],
            ),
        )
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
