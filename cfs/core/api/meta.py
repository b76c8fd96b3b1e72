"""Messages between a client and the leader of a metadata shard.

A client *mutates* with numbered operations (exactly once per session and shard), *reads* with or
without being granted leases, *renews* its session, and answers *recalls* the leader sends it.

Lease modes on an inode (one lease covers attributes, and for a directory all its entries,
absent ones too; for a file its extents and data; for both the extended attributes):

    READ   shared: what was learnt may be cached
    WRITE  exclusive: changes are made at the client first; on a directory a *delegation*
    OPEN   a pin: an unlinked inode lives until it is dropped; never recalled, never conflicts

Every reply carries `at`, the shard's applied index it reflects; a cache keeps the newest.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

# ruff: noqa: PLC0414 - these names are given on
from cfs.core.api.attr import Attr as Attr
from cfs.core.api.attr import Caller as Caller
from cfs.core.api.attr import Entry as Entry
from cfs.core.api.holding import Acquire as Acquire
from cfs.core.api.holding import Release as Release
from cfs.core.api.holding import ReserveInos as ReserveInos
from cfs.core.api.locking import GetLock as GetLock
from cfs.core.api.locking import GetLockReply as GetLockReply
from cfs.core.api.locking import Lock as Lock
from cfs.core.api.locking import LockHolder as LockHolder
from cfs.core.api.locking import LockKind as LockKind
from cfs.core.api.locking import LockWait as LockWait
from cfs.core.api.locking import LockWaitReply as LockWaitReply
from cfs.core.api.quota import Charge as Charge
from cfs.core.api.ranges import CopyRange as CopyRange
from cfs.core.api.ranges import MakeOrphan as MakeOrphan
from cfs.core.api.session import Empty as Empty
from cfs.core.api.session import Held as Held
from cfs.core.api.session import OpenSession as OpenSession
from cfs.core.api.session import OpenSessionReply as OpenSessionReply
from cfs.core.api.session import Recall as Recall
from cfs.core.api.session import Renew as Renew
from cfs.core.api.session import RenewReply as RenewReply
from cfs.core.api.xattr import GetXattr as GetXattr
from cfs.core.api.xattr import ListXattr as ListXattr
from cfs.core.api.xattr import XattrReply as XattrReply


class Lease(enum.IntFlag):
    """Lease modes; see the module."""

    NONE = 0
    READ = 1
    WRITE = 2
    OPEN = 4


class ExtentKind(enum.IntEnum):
    """Where the bytes of an extent are."""

    HOLE = 0
    CHUNK = 1
    INLINE = 2


class Extent(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A run of a file's bytes. The extents of a file tile `[0, size)`, holes explicit.

    Bytes `[skip, skip + length)` of the chunk's plain text are the file's
    `[offset, offset + length)`.
    """

    offset: int
    length: int
    kind: ExtentKind = ExtentKind.HOLE
    chunk_id: bytes = b""
    raw: int = 0
    """Plain length of the whole chunk."""
    skip: int = 0
    key_version: int = 0
    segment: bytes = b""
    data: int = 0
    """Data fragments of the segment (1: replicated)."""
    parity: int = 0
    segment_length: int = 0
    at: int = 0
    """Offset of the sealed chunk in the segment."""
    stored: int = 0
    """Sealed length."""
    inline: bytes = b""
    """The sealed chunk itself, when INLINE."""
    inline_id: int = 0
    """Names the stored sealed bytes within the inode; assigned by the shard."""


# --- mutations ---------------------------------------------------------------------------------


class Op(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag=True):
    """Base of the operations that go through Raft.

    `caller`: for whom, where that is to be checked; None: it is not. Raises EACCES, EPERM.
    """


class Create(Op, frozen=True, kw_only=True, tag="create"):
    """Make a file, directory, symlink or node in `parent`, its inode in the parent's shard.

    Raises ENOENT (parent gone), ENOTDIR, EEXIST (detail `attr`: who is there), ENAMETOOLONG,
    EMLINK, EINVAL. `mode` has the type bits. A setgid parent passes its group on, and to
    directories its setgid bit. With `lease` the creating session gets these modes on the new inode.
    """

    parent: int
    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    target: bytes = b""
    lease: int = 0
    ino: int = 0
    """A number of `ReserveInos` for the new inode, in this shard; 0: the shard takes one."""
    time_ns: int = 0
    """When it happened, as its client showed it under a delegation; 0: when it is applied."""
    umask: int = 0
    """Taken from the mode where the directory has no default access list."""
    caller: Caller | None = None


class Unlink(Op, frozen=True, kw_only=True, tag="unlink"):
    """Remove a name that is not a directory. Raises ENOENT, EISDIR."""

    parent: int
    name: bytes
    ino: int = 0
    """Who must be there; else ESTALE. 0: whoever is."""
    time_ns: int = 0
    caller: Caller | None = None


class Rmdir(Op, frozen=True, kw_only=True, tag="rmdir"):
    """Remove an empty directory. Raises ENOENT, ENOTDIR, ENOTEMPTY."""

    parent: int
    name: bytes
    ino: int = 0
    """Who must be there; else ESTALE. 0: whoever is."""
    time_ns: int = 0
    caller: Caller | None = None


class Link(Op, frozen=True, kw_only=True, tag="link"):
    """Give a non-directory another name. Raises EEXIST, ENOENT, EPERM (directory), EMLINK."""

    ino: int
    parent: int
    name: bytes
    time_ns: int = 0
    caller: Caller | None = None


class Rename(Op, frozen=True, kw_only=True, tag="rename"):
    """Rename as rename(2); `flags`: 1 NOREPLACE, 2 EXCHANGE. Replacing is atomic.

    Raises ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, EINVAL (into its own subtree).
    """

    parent: int
    name: bytes
    new_parent: int
    new_name: bytes
    flags: int = 0
    ino: int = 0
    """Who must be moved; else ESTALE. 0: whoever it is."""
    replaces: int = -1
    """Who must be at the new name, 0: nobody; else ESTALE. -1: whoever is."""
    time_ns: int = 0
    caller: Caller | None = None


class SetAttr(Op, frozen=True, kw_only=True, tag="setattr"):
    """Change attributes; None leaves one as it is. ctime becomes the operation's time.

    The group bits of `mode` are the mask of an access list. A new owner or group takes set-id bits
    away. `size` truncates or extends with a hole. Raises EFBIG, EINVAL, EISDIR, ENOENT.
    """

    ino: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    time_ns: int = 0
    caller: Caller | None = None
    now: bool = False
    """The times given are of this moment: who may write may set both."""
    drop_ids: bool = False
    """Set-id bits go, as when a file is written by others than root."""


class SetXattr(Op, frozen=True, kw_only=True, tag="setxattr"):
    """Set an extended attribute; `flags`: 1 CREATE, 2 REPLACE. Raises EEXIST, ENODATA, E2BIG...

    Those named in `core.meta.acl` are the inode's access lists.
    """

    ino: int
    name: bytes
    value: bytes
    flags: int = 0
    caller: Caller | None = None


class RemoveXattr(Op, frozen=True, kw_only=True, tag="rmxattr"):
    """Remove an extended attribute. Raises ENODATA."""

    ino: int
    name: bytes
    caller: Caller | None = None


class Commit(Op, frozen=True, kw_only=True, tag="commit"):
    """Replace ranges of a file by `extents` (ordered, disjoint, not nec. adjacent).

    `size` is the new size at least (None: grows only as the extents reach). Requires the WRITE
    lease (else ESTALE). Raises Condemned when a segment may no longer be referred to. Gaps that
    growth leaves are holes. ctime becomes `mtime_ns` if that is later: the time of the write.
    """

    ino: int
    extents: tuple[Extent, ...]
    size: int | None = None
    mtime_ns: int | None = None


class Mutate(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Apply operations in order, each exactly once, in one Raft entry when they can be.

    `first_seq` numbers `ops[0]`, the next ones follow. Every answer below `acked` has been seen.
    """

    shard: int
    session: int
    first_seq: int
    acked: int
    ops: tuple[Create | Unlink | Rmdir | Link | Rename | SetAttr | SetXattr | RemoveXattr | Commit
               | Acquire | Release | Lock | CopyRange | MakeOrphan | ReserveInos
               | Charge, ...]  # fmt: skip
    caller: Caller = Caller()
    """Not looked at: operations carry their own. Older log entries and clients have it."""
    chained: bool = False
    """Behind the first operation that fails, all fail with EIO."""


class OpResult(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The answer to one operation: an error, or the attributes of every inode it changed."""

    error: list[Any] | None = None
    """`CfsError.to_wire()`."""
    attrs: tuple[Attr, ...] = ()
    """Create, Link: the inode first, then the directory. Unlink, Rmdir: the removed inode (with
    its new nlink) first, then the directory. Rename: moved, old directory, new directory, then the
    replaced inode if any. Others: the inode. Cross-shard ones likewise, or none at all: when
    nothing had to be done, or when whoever drove it is gone; the effect is there all the same."""
    ino: int = 0
    """ReserveInos: the first number. A cross-shard Create: the new inode."""


class MutateReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Answers in the order of the operations."""

    at: int
    results: tuple[OpResult, ...]
    limits: int = 0
    """Version of the set of what is limited by quotas; 0: nothing ever was. See `GetLimits`."""


# --- reads -------------------------------------------------------------------------------------


class Lookup(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Find a name. `lease` asks for READ on the directory and on the inode (if in this shard)."""

    shard: int
    session: int
    parent: int
    name: bytes
    lease: bool = True
    snapshot: int = 0
    """Epoch of the snapshot to look at, 0: none. Nothing of it is leased. Raises ESTALE."""


class LookupReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """`entry` None: the name is absent (ENOENT for a missing directory is an error instead)."""

    at: int
    entry: Entry | None
    directory_lease: int
    """Lease modes now held on the directory."""
    lease: int
    """Lease modes now held on the inode."""


class GetAttr(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Read attributes. `lease` may ask READ and OPEN. Raises ENOENT."""

    shard: int
    session: int
    ino: int
    lease: int = 0
    snapshot: int = 0


class GetAttrReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The attributes and the lease modes now held."""

    at: int
    attr: Attr
    lease: int


class ReadDir(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """List up to `limit` entries after `cookie` (0: from the start), with attributes and leases."""

    shard: int
    session: int
    ino: int
    cookie: int
    limit: int
    lease: bool = True
    snapshot: int = 0


class ReadDirReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Entries in cookie order.

    `lease`: modes held on the directory; `leased`: per entry, on its inode.
    """

    at: int
    entries: tuple[Entry, ...]
    end: bool
    lease: int
    leased: tuple[int, ...]


class Layout(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Read extents overlapping `[offset, offset + length)`.

    `lease` as in GetAttr (OPEN to open).
    """

    shard: int
    session: int
    ino: int
    offset: int
    length: int
    lease: int = 0
    snapshot: int = 0


class LayoutReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Attributes and whole extents, inline bytes included, from `offset` on.

    `end` is how far the answer reaches (a reply is bounded in bytes): ask again from there.
    """

    at: int
    attr: Attr
    extents: tuple[Extent, ...]
    end: int
    lease: int


class StatFs(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask a shard for its totals."""

    shard: int


class StatFsReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Totals of one shard."""

    inodes: int
    logical_bytes: int
    """Sum of file sizes less holes (allocated)."""
    inline_bytes: int
    """Sealed bytes stored in the shard itself."""
