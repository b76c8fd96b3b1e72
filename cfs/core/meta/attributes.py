"""Attributes: chmod, chown, truncate and utimes in one operation, all or nothing."""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api.meta import Attr, SetAttr
from cfs.core.errors import FsError
from cfs.core.meta import files
from cfs.core.meta.draft import Draft
from cfs.core.meta.namespace import check_owner
from cfs.core.meta.records import Inode

_PERMISSIONS = 0o7777
_TIME_MAX = (1 << 63) - 1


def set_attributes(draft: Draft, op: SetAttr) -> tuple[Attr, ...]:
    """Apply `SetAttr`; ctime becomes the operation's time, with `size` mtime too if not given."""
    inode = draft.inode(op.ino)
    check_owner(op.uid, op.gid)
    for time_ns in (op.atime_ns, op.mtime_ns):
        if time_ns is not None and not -_TIME_MAX <= time_ns <= _TIME_MAX:
            raise FsError(errno.EINVAL, f"{time_ns} ns is no time")
    if op.mode is not None and op.mode >> 16:
        raise FsError(errno.EINVAL, f"{op.mode:o} is no mode")
    data_version = inode.data_version
    if op.size is not None:
        size = _check_size(inode, op.ino, op.size)
        if size != inode.size:
            inode = files.resize(draft, op.ino, inode, size)
            data_version += 1
    mtime_ns = inode.mtime_ns if op.size is None else draft.now
    after = replace(
        inode,
        mode=inode.mode if op.mode is None else stat.S_IFMT(inode.mode) | op.mode & _PERMISSIONS,
        uid=inode.uid if op.uid is None else op.uid,
        gid=inode.gid if op.gid is None else op.gid,
        atime_ns=inode.atime_ns if op.atime_ns is None else op.atime_ns,
        mtime_ns=mtime_ns if op.mtime_ns is None else op.mtime_ns,
        ctime_ns=draft.now,
        version=inode.version + 1,
        data_version=data_version,
        hlc=draft.now,
    )
    return (draft.set_inode(op.ino, after),)


def _check_size(inode: Inode, ino: int, size: int) -> int:
    if stat.S_ISDIR(inode.mode):
        raise FsError(errno.EISDIR, f"inode {ino} is a directory")
    if not stat.S_ISREG(inode.mode) or size < 0:
        raise FsError(errno.EINVAL, f"inode {ino} cannot have size {size}")
    if size > files.SIZE_MAX:
        raise FsError(errno.EFBIG, f"size {size} is beyond {files.SIZE_MAX}")
    return size
