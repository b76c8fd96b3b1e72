"""Orphans: inodes without a name, removed in bounded steps once nobody pins them.

Pins are volatile and the leader's: it proposes `Reclaim` only when it knows of none. The file
shrinks from its end, so at every step what is left is a well-formed file.
"""

from __future__ import annotations

import errno

from msgspec.structs import replace

from cfs.core.errors import FsError
from cfs.core.meta import file_locks, keys, leases, locks, trimming
from cfs.core.meta.commands import Reclaim
from cfs.core.meta.draft import Draft
from cfs.core.meta.results import Reclaimed


def reclaim(draft: Draft, command: Reclaim) -> Reclaimed:
    """Apply `Reclaim`. Raises EBUSY while the inode has a name, `Locked`."""
    ino, budget = command.ino, max(1, command.budget)
    inode = draft.find(ino)
    if inode is None or inode.trashed:
        return Reclaimed(done=True)  # there is nothing to do, or not yet
    if inode.nlink:
        raise FsError(errno.EBUSY, f"inode {ino} has {inode.nlink} links")
    locks.check_removable(draft, ino)
    if (session := leases.holder(draft, ino)) is not None:
        leases.revoke(draft, session, ino)
        inode = draft.inode(ino)
    size, allocated = inode.size, inode.allocated
    start, end = keys.page(ino, 0), keys.page(ino, keys.OFFSET_MAX)
    for key, value in draft.scan(start, end, reverse=True):
        if not budget:
            draft.set_inode(ino, replace(inode, size=size, allocated=allocated, hlc=draft.now))
            return Reclaimed(done=False)
        budget -= 1
        size = min(size, keys.number_at(key, 9))
        allocated += trimming.discard(draft, ino, key, value)
    for key, _ in draft.scan(*keys.xattrs_range(ino)):
        if not budget:
            draft.set_inode(ino, replace(inode, size=size, allocated=allocated, hlc=draft.now))
            return Reclaimed(done=False)
        budget -= 1
        draft.delete(key)
    if inode.doomed:
        trimming.forget(draft, ino)
    file_locks.drop_inode(draft, ino)
    draft.drop_inode(ino)
    draft.delete(keys.orphan(ino))
    draft.state.inodes -= 1
    return Reclaimed(done=True)
