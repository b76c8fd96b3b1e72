"""Attributes: chmod, chown, truncate and utimes in one operation, all or nothing."""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api.meta import Attr, SetAttr
from cfs.core.errors import FsError
from cfs.core.meta import access, change, files
from cfs.core.meta.draft import Draft
from cfs.core.meta.namespace import check_owner
from cfs.core.meta.records import Inode

_TIME_MAX = (1 << 63) - 1


def set_attributes(draft: Draft, op: SetAttr) -> tuple[Attr, ...]:
    """Apply `SetAttr`; ctime becomes the operation's time, with `size` mtime too if not given."""
    now = draft.stamp(op.time_ns)
    inode = draft.inode(op.ino)
    check(inode, op)
    resized = op.size is not None and op.size != inode.size
    if op.size is not None and resized:
        inode = files.resize(draft, op.ino, inode, op.size)
    fields = change.attributes(inode, op, now, resized=resized)
    return (draft.set_inode(op.ino, replace(inode, **fields, hlc=draft.now)),)


def check(inode: Inode | Attr, op: SetAttr) -> None:
    """Refuse what cannot or may not be set. Raises EFBIG, EINVAL, EISDIR, EACCES, EPERM."""
    check_values(op)
    if op.size is not None:
        _check_size(inode, op.ino, op.size)
    access.may_set(inode, op)


def check_values(op: SetAttr) -> None:
    """Refuse numbers that nothing can have. Raises EFBIG, EINVAL."""
    check_owner(op.uid, op.gid)
    for time_ns in (op.atime_ns, op.mtime_ns):
        if time_ns is not None and not -_TIME_MAX <= time_ns <= _TIME_MAX:
            raise FsError(errno.EINVAL, f"{time_ns} ns is no time")
    if op.mode is not None and op.mode >> 16:
        raise FsError(errno.EINVAL, f"{op.mode:o} is no mode")
    if op.size is not None and op.size < 0:
        raise FsError(errno.EINVAL, f"{op.size} is no size")
    if op.size is not None and op.size > files.SIZE_MAX:
        raise FsError(errno.EFBIG, f"size {op.size} is beyond {files.SIZE_MAX}")


def _check_size(inode: Inode | Attr, ino: int, size: int) -> None:
    if stat.S_ISDIR(inode.mode):
        raise FsError(errno.EISDIR, f"inode {ino} is a directory")
    if not stat.S_ISREG(inode.mode):
        raise FsError(errno.EINVAL, f"inode {ino} cannot have size {size}")
