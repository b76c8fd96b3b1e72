"""Names: create, unlink, rmdir and link, to the letter of POSIX, within one shard.

Whatever needs an inode of another shard is refused with EXDEV and `cross=True`; the service runs
it as a transaction. Every function validates first and changes then. Renaming is in `renaming`.
"""

from __future__ import annotations

import errno
import stat

import msgspec

from cfs.core.api.meta import Attr, Create, Lease, Link, MakeOrphan, Rmdir, Unlink
from cfs.core.errors import FsError
from cfs.core.meta import access, change, leases, links, locks, quota, trash
from cfs.core.meta.draft import Draft
from cfs.core.meta.entries import check_name, find, remove_entry, require, set_entry
from cfs.core.meta.records import Inode

TARGET_BYTES_MAX = 4095
_UID_MAX = (1 << 32) - 1
_KINDS = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    }
)


def create(draft: Draft, session: int, op: Create) -> tuple[Attr, ...]:
    """Apply `Create`: the new inode, then its directory."""
    now = draft.stamp(op.time_ns)
    parent = links.open_directory(draft, op.parent)
    check_name(op.name)
    access.may_enter(parent, op.caller)
    locks.check_name_free(draft, op.parent, op.name)
    if (there := find(draft, op.parent, op.name)) is not None:
        raise exists(draft, op.parent, op.name, there.ino, there.kind)
    kind = check_new(op)
    access.may_make(parent, op)
    is_directory = kind == stat.S_IFDIR
    if is_directory:
        links.check_links(parent, op.parent)
    ino = draft.take_ino(op.ino) if op.ino else draft.new_ino()
    attr = draft.set_inode(
        ino,
        new_inode(
            draft, **change.inherit(parent, op), rdev=op.rdev, target=op.target,
            parent=op.parent if is_directory else 0, now=now,
        ),
    )  # fmt: skip
    set_entry(draft, op.parent, op.name, ino, kind)
    if op.lease & Lease.WRITE:
        leases.grant(draft, session, ino)
    after = links.change_entries(
        draft, op.parent, entries=1, subdirectories=int(is_directory), now=now
    )
    return attr, after


def make_orphan(draft: Draft, session: int, op: MakeOrphan) -> tuple[Attr, ...]:
    """Apply `MakeOrphan`: the inode; its directory does not change."""
    parent = links.open_directory(draft, op.parent)
    check_owner(op.uid, op.gid)
    if not stat.S_ISREG(op.mode) or op.mode >> 16:
        raise FsError(errno.EINVAL, f"mode {op.mode:o} is not a file's")
    access.may_make(parent, op)
    ino = draft.new_ino()
    inode = new_inode(draft, **change.inherit(parent, op))
    flags = links.LINKABLE if op.linkable else 0
    attr = draft.set_inode(ino, msgspec.structs.replace(inode, nlink=0, flags=flags))
    draft.set_orphan(ino)
    if op.lease & Lease.WRITE:
        leases.grant(draft, session, ino)
    return (attr,)


def unlink(draft: Draft, op: Unlink) -> tuple[Attr, ...]:
    """Apply `Unlink`: the inode with its new nlink, then the directory."""
    now = draft.stamp(op.time_ns)
    parent = links.directory(draft, op.parent)
    access.may_enter(parent, op.caller)
    locks.check_name_free(draft, op.parent, op.name)
    slot = require(draft, op.parent, op.name)
    if slot.kind == stat.S_IFDIR:
        raise FsError(errno.EISDIR, f"{op.name!r} in directory {op.parent} is a directory")
    check_same(slot.ino, op.ino, op.name)
    access.may_remove(parent, links.local(draft, slot.ino), op.caller)
    locks.check_ino_free(draft, slot.ino)
    remove_entry(draft, op.parent, op.name)
    attr = links.change_links(draft, slot.ino, -1, now=now)
    trash.throw(draft, slot.ino, op.parent, op.name)
    return attr, links.change_entries(draft, op.parent, entries=-1, subdirectories=0, now=now)


def rmdir(draft: Draft, op: Rmdir) -> tuple[Attr, ...]:
    """Apply `Rmdir`: the removed directory, then its parent."""
    now = draft.stamp(op.time_ns)
    parent = links.directory(draft, op.parent)
    access.may_enter(parent, op.caller)
    if op.name == b".":
        raise FsError(errno.EINVAL, "'.' cannot be removed")
    if op.name == b"..":
        raise FsError(errno.ENOTEMPTY, "'..' cannot be removed")
    locks.check_name_free(draft, op.parent, op.name)
    slot = require(draft, op.parent, op.name)
    if slot.kind != stat.S_IFDIR:
        raise FsError(errno.ENOTDIR, f"{op.name!r} in directory {op.parent} is not a directory")
    check_same(slot.ino, op.ino, op.name)
    removed = links.local(draft, slot.ino)
    access.may_remove(parent, removed, op.caller)
    check_empty(removed, slot.ino)
    locks.check_removable(draft, slot.ino)
    remove_entry(draft, op.parent, op.name)
    attr = links.change_links(draft, slot.ino, -1, now=now)
    trash.throw(draft, slot.ino, op.parent, op.name)
    return attr, links.change_entries(draft, op.parent, entries=-1, subdirectories=-1, now=now)


def link(draft: Draft, op: Link) -> tuple[Attr, ...]:
    """Apply `Link`: the inode, then the directory."""
    now = draft.stamp(op.time_ns)
    parent = links.open_directory(draft, op.parent)
    check_name(op.name)
    access.may_enter(parent, op.caller)
    locks.check_name_free(draft, op.parent, op.name)
    inode = links.local(draft, op.ino)
    if stat.S_ISDIR(inode.mode):
        raise FsError(errno.EPERM, f"inode {op.ino} is a directory: it has one name")
    if (there := find(draft, op.parent, op.name)) is not None:
        raise exists(draft, op.parent, op.name, there.ino, there.kind)
    access.may_add(parent, op.caller)
    links.check_links(inode, op.ino)
    locks.check_ino_free(draft, op.ino)
    if inode.project != parent.project:
        if inode.nlink:
            raise quota.crossing(op.ino)
        # without a name it belongs nowhere yet
        draft.set_inode(op.ino, msgspec.structs.replace(inode, project=parent.project))
    set_entry(draft, op.parent, op.name, op.ino, stat.S_IFMT(inode.mode))
    attr = links.change_links(draft, op.ino, 1, now=now)
    return attr, links.change_entries(draft, op.parent, entries=1, subdirectories=0, now=now)


def new_inode(
    draft: Draft, *, mode: int, uid: int, gid: int, rdev: int = 0, parent: int = 0,
    target: bytes = b"", now: int = 0, acl: bytes = b"", default_acl: bytes = b"",
    project: int = 0,
) -> Inode:  # fmt: skip
    """Make an inode with its first link (a directory: two), and count it."""
    draft.state.inodes += 1
    fields = change.born(
        now or draft.now, mode=mode, uid=uid, gid=gid, rdev=rdev, parent=parent, target=target,
        acl=acl, default_acl=default_acl, project=project,
    )  # fmt: skip
    return Inode(**fields, hlc=draft.now)


def check_same(ino: int, expected: int, name: bytes) -> None:
    """Raise ESTALE when a name is not the inode its client removed it as (0: whatever it is)."""
    if expected not in {0, ino}:
        raise FsError(errno.ESTALE, f"{name!r} is inode {ino} now, not {expected}")


def check_empty(inode: Inode | Attr, ino: int) -> None:
    """Raise ENOTEMPTY when a directory has entries."""
    if inode.size:
        raise FsError(errno.ENOTEMPTY, f"directory {ino} has {inode.size} entries")


def exists(draft: Draft, parent: int, name: bytes, ino: int, kind: int) -> FsError:
    """Make EEXIST; `ino`, `kind` and, in this shard, `attr` (an `Attr` as a list) say who is there.

    `msgspec.convert(detail["attr"], Attr)` gives the attributes.
    """
    detail: dict[str, object] = {"ino": ino, "kind": kind}
    if (inode := draft.find(ino)) is not None:
        detail["attr"] = msgspec.to_builtins(inode.attr(ino), builtin_types=(bytes,))
    return FsError(errno.EEXIST, f"{name!r} is in directory {parent} already", **detail)


def check_owner(uid: int | None, gid: int | None) -> None:
    """Raise EINVAL for numbers that are no user or group."""
    for number in (uid, gid):
        if number is not None and not 0 <= number <= _UID_MAX:
            raise FsError(errno.EINVAL, f"{number} is no user or group")


def check_new(op: Create) -> int:
    kind = stat.S_IFMT(op.mode)
    if kind not in _KINDS or op.mode >> 16:
        raise FsError(errno.EINVAL, f"mode {op.mode:o} has no file type")
    check_owner(op.uid, op.gid)
    if kind == stat.S_IFLNK:
        if not op.target:
            raise FsError(errno.ENOENT, "a symbolic link needs a target")
        if len(op.target) > TARGET_BYTES_MAX:
            raise FsError(errno.ENAMETOOLONG, f"target has {len(op.target)} bytes")
    elif op.target:
        raise FsError(errno.EINVAL, "only a symbolic link has a target")
    if not 0 <= op.rdev < 1 << 64:
        raise FsError(errno.EINVAL, f"{op.rdev} is no device")
    return kind
