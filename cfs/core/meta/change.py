"""What an operation makes of an inode's attributes: the one rule for the shard and for a client.

The shard keeps `Inode`, a client that works under a delegation keeps `Attr`; both have these fields
and both replace exactly what is given here, so what the client shows before the shard has heard of
the operation is what the shard will say. `now` is the operation's time, nanoseconds.
"""

from __future__ import annotations

import stat
from typing import Any

from cfs.core.api.attr import Attr
from cfs.core.api.meta import SetAttr
from cfs.core.meta.records import Inode

_PERMISSIONS = 0o7777


def born(
    now: int, *, mode: int, uid: int, gid: int, rdev: int = 0, parent: int = 0, target: bytes = b""
) -> dict[str, Any]:
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
        "mode": there.mode if op.mode is None else stat.S_IFMT(there.mode) | op.mode & _PERMISSIONS,
        "uid": there.uid if op.uid is None else op.uid,
        "gid": there.gid if op.gid is None else op.gid,
        "atime_ns": there.atime_ns if op.atime_ns is None else op.atime_ns,
        "mtime_ns": mtime_ns if op.mtime_ns is None else op.mtime_ns,
        "ctime_ns": now,
        "version": there.version + 1,
        "data_version": there.data_version + resized,
    }


def inherit(parent: Inode | Attr, mode: int, gid: int) -> tuple[int, int]:
    """Give mode and group of a new inode: a setgid directory passes its group, and itself, on."""
    if not parent.mode & stat.S_ISGID:
        return mode, gid
    return (mode | stat.S_ISGID if stat.S_ISDIR(mode) else mode), parent.gid
