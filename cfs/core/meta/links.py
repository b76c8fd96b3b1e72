"""Links between directories and inodes: the counting that every namespace change shares.

A directory's nlink is 2 and one per subdirectory, its size its number of entries; an inode whose
last link goes is an orphan, kept until nobody pins it. A change of a directory's entries is a
change of its data: mtime, ctime and both versions move.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api.meta import Attr
from cfs.core.errors import FsError
from cfs.core.meta import change, keys
from cfs.core.meta.draft import Draft, cross_shard
from cfs.core.meta.locks import check_open
from cfs.core.meta.records import Inode
from cfs.core.meta.trash import take_out

NLINK_MAX = 65_000
"""Names of a file, as on ext4. Directories may have any number of subdirectories."""
LINKABLE = 1
"""Flag of an inode that was made without a name and may get its first."""


def directory(draft: Draft, ino: int) -> Inode:
    """Give a directory that still has a name. Raises ENOENT, ENOTDIR, EXDEV (another shard)."""
    inode = draft.inode(ino)
    if not stat.S_ISDIR(inode.mode):
        raise FsError(errno.ENOTDIR, f"inode {ino} is not a directory")
    if not inode.nlink:
        raise FsError(errno.ENOENT, f"directory {ino} is removed")
    return inode


def open_directory(draft: Draft, ino: int) -> Inode:
    """Give a directory that takes new entries. Raises as `directory`, and `Locked`."""
    inode = directory(draft, ino)
    check_open(draft, ino)
    return inode


def local(draft: Draft, ino: int) -> Inode:
    """Give the inode of an entry. Raises EXDEV when it lives in another shard."""
    if not draft.is_local(ino):
        raise cross_shard(ino)
    return draft.inode(ino)


def change_entries(
    draft: Draft, ino: int, *, entries: int, subdirectories: int, now: int = 0
) -> Attr:
    """Count entries and subdirectories that came (or, negative, went); `now` 0: the draft's."""
    inode = draft.inode(ino)
    fields = change.entries(inode, now or draft.now, came=entries, subdirectories=subdirectories)
    return draft.set_inode(ino, replace(inode, **fields, hlc=draft.now))


def change_links(
    draft: Draft, ino: int, difference: int, parent: int | None = None, *, now: int = 0
) -> Attr:
    """Count names of an inode that came or went; the last one gone makes it an orphan.

    A directory loses its own `.` with its only name. `parent` is a directory's new `..`.
    """
    inode = draft.inode(ino)
    fields = change.links(inode, now or draft.now, difference, parent)
    if not fields["nlink"]:
        draft.set_orphan(ino)
    elif inode.trashed:
        inode = take_out(draft, ino, inode)
    elif not inode.nlink:
        draft.delete(keys.orphan(ino))
    flags = inode.flags & ~LINKABLE
    return draft.set_inode(ino, replace(inode, **fields, flags=flags, hlc=draft.now))


def check_links(inode: Inode, ino: int) -> None:
    """Raise ENOENT when an inode is removed, EMLINK when it takes no more links."""
    if not inode.nlink and not inode.flags & LINKABLE and not inode.trashed:
        raise FsError(errno.ENOENT, f"inode {ino} is removed")
    if inode.nlink >= NLINK_MAX and not stat.S_ISDIR(inode.mode):
        raise FsError(errno.EMLINK, f"inode {ino} has {inode.nlink} links, the most there can be")
