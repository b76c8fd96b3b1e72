"""Extended attributes: raw names in the key, values up to 64 KiB."""

from __future__ import annotations

import errno

from msgspec.structs import replace

from cfs.core.api.meta import Attr, RemoveXattr, SetXattr
from cfs.core.errors import FsError
from cfs.core.meta import keys
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import XATTR, Xattr

CREATE = 1
REPLACE = 2
XATTR_NAME_BYTES_MAX = 255
VALUE_BYTES_MAX = 64 << 10


def set_xattr(draft: Draft, op: SetXattr) -> tuple[Attr, ...]:
    """Apply `SetXattr`. Raises ERANGE (name), E2BIG (value), EEXIST, ENODATA, EINVAL, ENOENT."""
    draft.inode(op.ino)
    if not 0 < len(op.name) <= XATTR_NAME_BYTES_MAX or b"\0" in op.name:
        raise FsError(errno.ERANGE, f"xattr name has {len(op.name)} bytes")
    if len(op.value) > VALUE_BYTES_MAX:
        raise FsError(errno.E2BIG, f"xattr value has {len(op.value)} bytes")
    if op.flags not in {0, CREATE, REPLACE}:
        raise FsError(errno.EINVAL, f"xattr flags {op.flags} are unknown or contradict")
    key = keys.xattr(op.ino, op.name)
    there = draft.get(key) is not None if op.flags else False
    if op.flags & CREATE and there:
        raise FsError(errno.EEXIST, f"inode {op.ino} has xattr {op.name!r} already")
    if op.flags & REPLACE and not there:
        raise FsError(errno.ENODATA, f"inode {op.ino} has no xattr {op.name!r}")
    draft.put(key, XATTR.encode(Xattr(op.value), draft.state.epoch))
    return (_touch(draft, op.ino),)


def remove_xattr(draft: Draft, op: RemoveXattr) -> tuple[Attr, ...]:
    """Apply `RemoveXattr`. Raises ENODATA, ENOENT."""
    draft.inode(op.ino)
    if not 0 < len(op.name) <= XATTR_NAME_BYTES_MAX:
        raise FsError(errno.ERANGE, f"xattr name has {len(op.name)} bytes")
    key = keys.xattr(op.ino, op.name)
    if draft.get(key) is None:
        raise FsError(errno.ENODATA, f"inode {op.ino} has no xattr {op.name!r}")
    draft.delete(key)
    return (_touch(draft, op.ino),)


def _touch(draft: Draft, ino: int) -> Attr:
    inode = draft.inode(ino)
    return draft.set_inode(
        ino,
        replace(inode, ctime_ns=draft.now, version=inode.version + 1, hlc=draft.now),
    )
