"""What a directory entry and an inode show of themselves; `cfs.core.api.meta` gives them on."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True, array_like=True):
    """On whose behalf something is done; what that may do is decided by `core.meta.access`."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    """Supplementary groups."""


class Attr(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An inode as `stat` shows it. Times are nanoseconds since the epoch."""

    ino: int
    mode: int
    """File type and permission bits."""
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    allocated: int
    """Bytes of the file that are not holes."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    generation: int
    version: int
    """Rises with every change of attributes or data."""
    data_version: int
    """Rises with every change of data or size."""
    parent: int = 0
    """Directories: the parent directory. Others: 0."""
    target: bytes = b""
    """Symbolic links: where they point."""
    acl: bytes = b""
    """The access list, as far as the mode does not say it; see `core.meta.acl`."""
    default_acl: bytes = b""
    """Directories: the list that what is made in them inherits."""
    project: int = 0
    """The quota tree it belongs to, by the inode of its top; 0: none."""
    charged: int = 0
    """Files: the size that room was promised for; see `cfs.core.api.quota`."""


class Entry(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A directory entry, with attributes when the inode lives in the directory's shard."""

    name: bytes
    ino: int
    kind: int
    """File type bits (`S_IFMT`) of the inode."""
    cookie: int
    """Where a listing continues after this entry: stable while others change the directory."""
    attr: Attr | None = None
