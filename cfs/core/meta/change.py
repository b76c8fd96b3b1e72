"""What an operation makes of an inode's attributes: the one rule for the shard and for a client.

The shard keeps `Inode`, a client that works under a delegation keeps `Attr`; both have these fields
and both replace exactly what is given here, so what the client shows before the shard has heard of
the operation is what the shard will say. `now` is the operation's time, nanoseconds.
"""

from __future__ import annotations

import stat
from typing import Any

from cfs.core.api.attr import Attr
from cfs.core.api.meta import Create, MakeOrphan, SetAttr
from cfs.core.meta import access
from cfs.core.meta import acl as lists
from cfs.core.meta.records import Inode


def born(
    now: int, *, mode: int, uid: int, gid: int, rdev: int = 0, parent: int = 0,
    target: bytes = b"", acl: bytes = b"", default_acl: bytes = b"", project: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Give the fields of a new inode with its first link (a directory: two)."""
    return {
        "mode": mode,
        "nlink": 2 if stat.S_ISDIR(mode) else 1,
        "uid": uid,
        "gid": gid,
        "rdev": rdev,
        "size": len(target),
        "allocated": 0,
        "atime_ns": now,
        "mtime_ns": now,
        "ctime_ns": now,
        "btime_ns": now,
        "generation": now,
        "version": 1,
        "data_version": 1,
        "parent": parent,
        "target": target,
        "acl": acl,
        "default_acl": default_acl,
        "project": project,
    }


def entries(there: Inode | Attr, now: int, *, came: int, subdirectories: int) -> dict[str, Any]:
    """Give what changes in a directory when entries come or, negative, go."""
    return {
        "nlink": there.nlink + subdirectories,
        "size": there.size + came,
        "mtime_ns": now,
        "ctime_ns": now,
        "version": there.version + 1,
        "data_version": there.data_version + 1,
    }


def links(
    there: Inode | Attr, now: int, difference: int, parent: int | None = None
) -> dict[str, Any]:
    """Give what changes in an inode when names come or go; `parent`: a directory's new `..`.

    A directory loses its own `.` with its only name.
    """
    gone = difference < 0 and stat.S_ISDIR(there.mode)
    return {
        "nlink": 0 if gone else there.nlink + difference,
        "parent": there.parent if parent is None else parent,
        "ctime_ns": now,
        "version": there.version + 1,
    }


def attributes(there: Inode | Attr, op: SetAttr, now: int, *, resized: bool) -> dict[str, Any]:
    """Give what `op` changes, but for `size` and `allocated`."""
    mtime_ns = there.mtime_ns if op.size is None else now
    return {
        "mode": there.mode if _keeps_mode(op) else access.mode_after(there, op),
        "uid": there.uid if op.uid is None else op.uid,
        "gid": there.gid if op.gid is None else op.gid,
        "atime_ns": there.atime_ns if op.atime_ns is None else op.atime_ns,
        "mtime_ns": mtime_ns if op.mtime_ns is None else op.mtime_ns,
        "ctime_ns": now,
        "version": there.version + 1,
        "data_version": there.data_version + resized,
    }


def _keeps_mode(op: SetAttr) -> bool:
    return op.mode is None and op.uid is None and op.gid is None and not op.drop_ids


def inherit(parent: Inode | Attr, op: Create | MakeOrphan) -> dict[str, Any]:
    """Give mode, owner, access lists and quota tree of a new inode.

    A setgid directory passes its group on, and itself to directories. A directory with a default
    access list gives what it makes that list instead of the umask, and directories the default too.
    """
    mode, gid, acl, default = op.mode, op.gid, b"", b""
    if parent.default_acl and not stat.S_ISLNK(mode):
        mode, acl = lists.inherit(parent.default_acl, mode)
        default = parent.default_acl if stat.S_ISDIR(mode) else b""
    elif op.umask and not stat.S_ISLNK(mode):
        mode &= ~(op.umask & 0o777)
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
        elif mode & stat.S_ISGID and mode & stat.S_IXGRP and not _keeps_group(parent, op):
            mode &= ~stat.S_ISGID
    return {
        "mode": mode, "uid": op.uid, "gid": gid, "acl": acl, "default_acl": default,
        "project": parent.project,
    }  # fmt: skip


def _keeps_group(parent: Inode | Attr, op: Create | MakeOrphan) -> bool:
    caller = op.caller
    return caller is None or not caller.uid or access.in_group(caller, parent.gid)


def heritage(parent: Inode | Attr) -> bytes:
    """Name what a directory passes on: two that pass on the same have the same."""
    passed = parent.gid if parent.mode & stat.S_ISGID else -1
    tree = parent.project.to_bytes(8, "big") if parent.project else b""
    return passed.to_bytes(5, "big", signed=True) + tree + parent.default_acl
