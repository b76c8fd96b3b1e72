"""Extended attributes: raw names in the key, values up to 64 KiB; access lists in the inode."""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api.meta import Attr, RemoveXattr, SetXattr
from cfs.core.errors import FsError
from cfs.core.meta import access, keys
from cfs.core.meta import acl as lists
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import XATTR, Inode, Xattr

CREATE = 1
REPLACE = 2
XATTR_NAME_BYTES_MAX = 255
VALUE_BYTES_MAX = 64 << 10
LIST_BYTES_MAX = 64 << 10
"""Names of one inode, with their ends: a longer list no system call could give."""
TOTAL_BYTES_MAX = 1 << 20
"""Values of one inode: setting another looks at all."""
SPACES = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")
"""What the names of extended attributes begin with."""


def check_space(name: bytes) -> None:
    """Refuse names of no known space: ENOTSUP, and EINVAL for one that only names its space."""
    for space in SPACES:
        if name.startswith(space):
            if len(name) == len(space):
                raise FsError(errno.EINVAL, f"xattr name {name!r} is only a prefix")
            return
    raise FsError(errno.ENOTSUP, f"xattr name {name!r} begins with none of {SPACES}")


def set_xattr(draft: Draft, op: SetXattr) -> tuple[Attr, ...]:
    """Apply `SetXattr`. Raises ERANGE (name), E2BIG (value), EEXIST, ENODATA, EINVAL, ENOENT."""
    inode = draft.inode(op.ino)
    if not 0 < len(op.name) <= XATTR_NAME_BYTES_MAX or b"\0" in op.name:
        raise FsError(errno.ERANGE, f"xattr name has {len(op.name)} bytes")
    if len(op.value) > VALUE_BYTES_MAX:
        raise FsError(errno.E2BIG, f"xattr value has {len(op.value)} bytes")
    if op.flags not in {0, CREATE, REPLACE}:
        raise FsError(errno.EINVAL, f"xattr flags {op.flags} are unknown or contradict")
    access.may_set_xattr(inode, op)
    if op.name in lists.NAMES:
        return (_set_list(draft, inode, op),)
    key = keys.xattr(op.ino, op.name)
    there = draft.get(key) is not None if op.flags else False
    if op.flags & CREATE and there:
        raise FsError(errno.EEXIST, f"inode {op.ino} has xattr {op.name!r} already")
    if op.flags & REPLACE and not there:
        raise FsError(errno.ENODATA, f"inode {op.ino} has no xattr {op.name!r}")
    _check_room(draft, op, key)
    draft.put(key, XATTR.encode(Xattr(op.value), draft.state.epoch))
    return (_touch(draft, op.ino),)


def remove_xattr(draft: Draft, op: RemoveXattr) -> tuple[Attr, ...]:
    """Apply `RemoveXattr`. Raises ENODATA, ENOENT."""
    inode = draft.inode(op.ino)
    if not 0 < len(op.name) <= XATTR_NAME_BYTES_MAX:
        raise FsError(errno.ERANGE, f"xattr name has {len(op.name)} bytes")
    access.may_set_xattr(inode, op)
    if op.name in lists.NAMES:
        if not (inode.acl if op.name == lists.ACCESS else inode.default_acl):
            raise FsError(errno.ENODATA, f"inode {op.ino} has no xattr {op.name!r}")
        return (_keep_list(draft, op.ino, inode, op.name, b"", inode.mode),)
    key = keys.xattr(op.ino, op.name)
    if draft.get(key) is None:
        raise FsError(errno.ENODATA, f"inode {op.ino} has no xattr {op.name!r}")
    draft.delete(key)
    return (_touch(draft, op.ino),)


def _check_room(draft: Draft, op: SetXattr, key: bytes) -> None:
    """Raise ENOSPC when the inode would have too many extended attributes, or too large ones."""
    listed, total = len(op.name) + 1, len(op.value)
    for other, value in draft.scan(*keys.xattrs_range(op.ino)):
        if other != key:
            listed += len(other) - len(key) + len(op.name) + 1
            total += len(value)
    if listed > LIST_BYTES_MAX or total > TOTAL_BYTES_MAX:
        raise FsError(errno.ENOSPC, f"inode {op.ino} has no room for xattr {op.name!r}")


def _set_list(draft: Draft, inode: Inode, op: SetXattr) -> Attr:
    """Replace an access list; an access list sets the mode's nine bits too."""
    acl = lists.from_xattr(op.value)
    lists.settable(stat.S_IFMT(inode.mode), op.name, clears=acl is None)
    there = inode.acl if op.name == lists.ACCESS else inode.default_acl
    if op.flags & CREATE and there:
        raise FsError(errno.EEXIST, f"inode {op.ino} has xattr {op.name!r} already")
    if op.flags & REPLACE and not there:
        raise FsError(errno.ENODATA, f"inode {op.ino} has no xattr {op.name!r}")
    if acl is None:
        return _keep_list(draft, op.ino, inode, op.name, b"", inode.mode)
    if op.name == lists.DEFAULT:
        return _keep_list(draft, op.ino, inode, op.name, lists.whole(acl), inode.mode)
    mode = inode.mode & ~0o777 | acl.bits
    caller = op.caller
    if caller is not None and caller.uid and not access.in_group(caller, inode.gid):
        mode &= ~stat.S_ISGID
    return _keep_list(draft, op.ino, inode, op.name, lists.beside_mode(acl), mode)


def _keep_list(draft: Draft, ino: int, inode: Inode, name: bytes, stored: bytes, mode: int) -> Attr:
    after = replace(
        inode,
        mode=mode,
        acl=stored if name == lists.ACCESS else inode.acl,
        default_acl=stored if name == lists.DEFAULT else inode.default_acl,
        ctime_ns=draft.now,
        version=inode.version + 1,
        hlc=draft.now,
    )
    return draft.set_inode(ino, after)


def _touch(draft: Draft, ino: int) -> Attr:
    inode = draft.inode(ino)
    return draft.set_inode(
        ino,
        replace(inode, ctime_ns=draft.now, version=inode.version + 1, hlc=draft.now),
    )
