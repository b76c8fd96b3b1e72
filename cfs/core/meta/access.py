"""Who may do what: the one decision for shards, for clients under delegations, for every gateway.

A *caller* is a user, a group and supplementary groups; None is the cluster itself, or root of a
mount that is not squashed: nothing is checked. User 0 may do what root may. Decisions look only at
what an inode says (mode, owner, access list) and at the operation, so a client that holds an
inode's lease decides as its shard does.

What Linux checks before it calls a file system (path_resolution(7), `fs/namei.c`, `fs/attr.c`,
`fs/xattr.c`), with its errno: EACCES where permission bits say no, EPERM where ownership does. A
shard checks the directory or inode that an operation names; the directories on the way there are
checked by whoever walks, name by name. What a descriptor was opened for is decided at open.

Capabilities of others than root are not known here: a process that has CAP_DAC_OVERRIDE but is not
user 0 gets what its user may.
"""

from __future__ import annotations

import errno
import stat
from typing import Protocol

from cfs.core.api.meta import Caller, Create, MakeOrphan, RemoveXattr, SetAttr, SetXattr
from cfs.core.errors import FsError
from cfs.core.meta import acl as lists

READ, WRITE, SEARCH = 4, 2, 1
_CHANGE = WRITE | SEARCH
_HOW, _READ_ONLY, _WRITE_ONLY, _TRUNCATE, _FOR_EXECUTION = 3, 0, 1, 0o1000, 0x20
"""Linux's O_ACCMODE, O_RDONLY, O_WRONLY, O_TRUNC, and what it adds for a file to be executed."""
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_SPACES = frozenset({b"user", b"trusted", b"security"})
_WITH_USER_XATTRS = frozenset({stat.S_IFREG, stat.S_IFDIR})


class Subject(Protocol):
    """What a decision looks at: `Inode` and `Attr` have it."""

    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def acl(self) -> bytes: ...


def permits(there: Subject, caller: Caller, want: int) -> bool:
    """Tell whether the caller has all of `want` (READ, WRITE, SEARCH), by mode or access list."""
    mode, uid = there.mode, caller.uid
    if not uid:
        return want != SEARCH or bool(mode & 0o111) or stat.S_ISDIR(mode)
    if uid == there.uid:
        return mode >> 6 & want == want
    if there.acl and mode & 0o070:  # as Linux: a mask of nothing leaves group and other bits
        return _by_list(there, caller, want)
    if in_group(caller, there.gid):
        mode >>= 3
    return mode & want == want


def _by_list(there: Subject, caller: Caller, want: int) -> bool:
    acl = lists.of_mode(there.mode, there.acl)
    mask = acl.mask or 0
    for number, bits in acl.users:
        if number == caller.uid:
            return bits & mask & want == want
    member = False
    for number, bits in ((there.gid, acl.group), *acl.groups):
        if in_group(caller, number):
            if bits & mask & want == want:
                return True
            member = True
    return not member and acl.other & want == want


def in_group(caller: Caller, gid: int) -> bool:
    """Tell whether the caller is in a group."""
    return gid == caller.gid or gid in caller.groups


def check(there: Subject, caller: Caller | None, want: int) -> None:
    """Raise EACCES unless the caller has all of `want`."""
    if caller is not None and not permits(there, caller, want):
        raise FsError(errno.EACCES, f"user {caller.uid} may not: mode {there.mode & 0o7777:o}")


def may_enter(directory: Subject, caller: Caller | None) -> None:
    """Let a name be looked up. Raises EACCES."""
    if caller is not None:
        check(directory, caller, SEARCH)


def wanted(flags: int) -> int:
    """Give what open(2) with these flags wants of the file."""
    how = flags & _HOW
    if how == _READ_ONLY:
        want = SEARCH if flags & _FOR_EXECUTION else READ
    else:
        want = WRITE if how == _WRITE_ONLY else READ | WRITE
    return want | WRITE if flags & _TRUNCATE else want


# --- names ---------------------------------------------------------------------------------------


def may_add(directory: Subject, caller: Caller | None) -> None:
    """Let a name come into a directory. Raises EACCES."""
    if caller is not None:
        check(directory, caller, _CHANGE)


def may_make(directory: Subject, op: Create | MakeOrphan) -> None:
    """Let an inode be made. Raises EACCES, EPERM (a device; another owner than the caller)."""
    caller = op.caller
    if caller is None:
        return
    check(directory, caller, _CHANGE)
    if not caller.uid:
        return
    if stat.S_IFMT(op.mode) in _DEVICES:
        raise FsError(errno.EPERM, f"user {caller.uid} may not make a device")
    if op.uid != caller.uid or not in_group(caller, op.gid):
        raise FsError(errno.EPERM, f"user {caller.uid} may not make what is another's")


def may_remove(directory: Subject, there: Subject, caller: Caller | None) -> None:
    """Let a name go from a directory. Raises EACCES, EPERM (sticky, and neither is theirs)."""
    if caller is None:
        return
    check(directory, caller, _CHANGE)
    if (
        directory.mode & stat.S_ISVTX
        and caller.uid
        and caller.uid not in {there.uid, directory.uid}
    ):
        raise FsError(errno.EPERM, f"user {caller.uid} may not: the directory is sticky")


def may_rename(
    caller: Caller | None, old: Subject, new: Subject, moved: Subject, there: Subject | None, *,
    crosses: bool, exchange: bool = False,
) -> None:  # fmt: skip
    """Let `moved` go from `old` to `new`, over `there`, if any; `crosses`: the two are not one.

    Raises EACCES, EPERM.
    """
    if caller is None:
        return
    may_remove(old, moved, caller)
    if there is None:
        may_add(new, caller)
    else:
        may_remove(new, there, caller)
    if crosses and stat.S_ISDIR(moved.mode):
        check(moved, caller, WRITE)  # its `..` changes
    if crosses and exchange and there is not None and stat.S_ISDIR(there.mode):
        check(there, caller, WRITE)


# --- attributes ----------------------------------------------------------------------------------


def may_set(there: Subject, op: SetAttr) -> None:
    """Let attributes be set. Raises EPERM (not the owner), EACCES (size, and times of now)."""
    caller = op.caller
    if caller is None or not caller.uid:
        return
    owner = caller.uid == there.uid
    given = op.gid is None or (owner and (op.gid == there.gid or in_group(caller, op.gid)))
    kept = op.uid is None or (owner and op.uid == there.uid)
    if not given or not kept or not (owner or op.mode is None):
        raise FsError(errno.EPERM, f"user {caller.uid} may not change owner or mode")
    if op.size is not None:
        check(there, caller, WRITE)
    elif not owner and (op.atime_ns is not None or op.mtime_ns is not None):
        if not op.now or op.atime_ns is None or op.mtime_ns is None:
            raise FsError(errno.EPERM, f"user {caller.uid} may not set times")
        check(there, caller, WRITE)


def mode_after(there: Subject, op: SetAttr) -> int:
    """Give the mode that an operation leaves.

    Set-user-id, and set-group-id of what its group may execute, go with a change of owner and,
    where asked for, of the size; set-group-id is not for a group that the caller is not in.
    """
    mode = there.mode if op.mode is None else stat.S_IFMT(there.mode) | op.mode & 0o7777
    caller = op.caller
    if op.mode is not None and mode & stat.S_ISGID and caller is not None and caller.uid:
        gid = there.gid if op.gid is None else op.gid
        if not in_group(caller, gid):
            mode &= ~stat.S_ISGID
    if (op.drop_ids or op.uid is not None or op.gid is not None) and not stat.S_ISDIR(mode):
        mode = without_ids(mode)
        if op.drop_ids and not keeps_group_id(there, caller):
            mode &= ~stat.S_ISGID
    return mode


def keeps_group_id(there: Subject, caller: Caller | None) -> bool:
    """Tell whether one who changes a file may leave it set-group-id that its group cannot use."""
    return caller is None or not caller.uid or in_group(caller, there.gid)


def without_ids(mode: int) -> int:
    """Give the mode of a file that was written by one who may not keep its set-id bits."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


# --- extended attributes -------------------------------------------------------------------------


def may_set_xattr(there: Subject, op: SetXattr | RemoveXattr) -> None:
    """Let an extended attribute be set or removed. Raises EPERM, EACCES, EOPNOTSUPP."""
    caller = op.caller
    if caller is None or not caller.uid:
        return
    space = op.name.partition(b".")[0]
    owner = caller.uid == there.uid
    if op.name in lists.NAMES:
        if not owner:
            raise FsError(errno.EPERM, f"user {caller.uid} may not set an access list")
    elif space == b"user":
        kind = stat.S_IFMT(there.mode)
        sticky = kind == stat.S_IFDIR and there.mode & stat.S_ISVTX
        if kind not in _WITH_USER_XATTRS or (sticky and not owner):
            raise FsError(errno.EPERM, f"user {caller.uid} may not set {op.name!r} here")
        check(there, caller, WRITE)
    elif space in {b"trusted", b"security"}:
        raise FsError(errno.EPERM, f"only root sets {op.name!r}")
    else:
        check_namespace(op.name)


def check_namespace(name: bytes) -> None:
    """Refuse to set what is in no namespace of extended attributes. Raises EOPNOTSUPP."""
    if name not in lists.NAMES and name.partition(b".")[0] not in _SPACES:
        raise FsError(errno.EOPNOTSUPP, f"{name!r} is in no namespace of extended attributes")


def may_get_xattr(there: Subject, name: bytes, caller: Caller | None) -> None:
    """Let an extended attribute be read. Raises EACCES, ENODATA (what only root sees)."""
    if caller is None or not caller.uid:
        return
    if name.startswith(b"trusted."):
        raise FsError(errno.ENODATA)
    if name.startswith(b"user."):
        if stat.S_IFMT(there.mode) not in _WITH_USER_XATTRS:
            raise FsError(errno.ENODATA)
        check(there, caller, READ)
