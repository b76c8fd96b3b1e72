"""Renaming within one shard, as rename(2) and renameat2(2), atomic.

No directory may become its own ancestor. Within the shard that is seen by walking up from the new
parent; where the walk leaves the shard (other than at the root) the operation is refused with EXDEV
and `cross=True`, and the service runs it as a transaction that holds every ancestor in place. A
walk that meets a directory which a transaction is moving answers `Locked`.
"""

from __future__ import annotations

import errno
import stat

from cfs.core.api.meta import Attr, Rename
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.core.meta import access, links, locks, quota
from cfs.core.meta.draft import Draft, cross_shard
from cfs.core.meta.entries import NAME_BYTES_MAX, RESERVED, find, remove_entry, require, set_entry
from cfs.core.meta.namespace import check_empty, check_same, exists
from cfs.core.meta.records import Slot

NOREPLACE = 1
EXCHANGE = 2
_DEPTH_MAX = 1 << 20


def rename(draft: Draft, op: Rename) -> tuple[Attr, ...]:
    """Apply `Rename`: moved, old directory, new directory, then the other inode if any."""
    if op.flags not in {0, NOREPLACE, EXCHANGE}:
        raise FsError(errno.EINVAL, f"rename flags {op.flags} are unknown or contradict")
    now = draft.stamp(op.time_ns)
    access.may_enter(links.directory(draft, op.parent), op.caller)
    access.may_enter(links.open_directory(draft, op.new_parent), op.caller)
    for name in (op.name, op.new_name):
        check_renamed(name)
    locks.check_name_free(draft, op.parent, op.name)
    locks.check_name_free(draft, op.new_parent, op.new_name)
    source = require(draft, op.parent, op.name)
    there = find(draft, op.new_parent, op.new_name)
    check_same(source.ino, op.ino, op.name)
    if op.replaces not in {-1, 0 if there is None else there.ino}:
        raise FsError(errno.ESTALE, f"{op.new_name!r} is not inode {op.replaces}")
    if there is not None and op.flags & NOREPLACE:
        raise exists(draft, op.new_parent, op.new_name, there.ino, there.kind)
    if op.flags & EXCHANGE:
        if there is None:
            raise FsError(errno.ENOENT, f"{op.new_name!r} is not in directory {op.new_parent}")
        links.open_directory(draft, op.parent)
        return _exchange(draft, op, source, there, now)
    if there is not None and there.ino == source.ino:
        moved = links.local(draft, source.ino).attr(source.ino)
        return moved, _show(draft, op.parent), _show(draft, op.new_parent)
    return _move(draft, op, source, there, now)


def check_renamed(name: bytes) -> None:
    """Refuse what cannot be renamed or renamed to. Raises ENAMETOOLONG, EINVAL, EBUSY."""
    if len(name) > NAME_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG, f"name has {len(name)} bytes, at most {NAME_BYTES_MAX}")
    if not name or b"/" in name or b"\0" in name:
        raise FsError(errno.EINVAL, f"{name!r} is no name")
    if name in RESERVED:
        raise FsError(errno.EBUSY, f"{name!r} cannot be renamed")


def check_kinds(source: int, there: int, name: bytes) -> None:
    """Raise ENOTDIR or EISDIR when one of two kinds is a directory and the other is not."""
    if source == stat.S_IFDIR != there:
        raise FsError(errno.ENOTDIR, f"{name!r} is not a directory, what would replace it is")
    if there == stat.S_IFDIR != source:
        raise FsError(errno.EISDIR, f"{name!r} is a directory, what would replace it is not")


def _move(draft: Draft, op: Rename, source: Slot, there: Slot | None, now: int) -> tuple[Attr, ...]:
    is_directory = source.kind == stat.S_IFDIR
    crosses = op.parent != op.new_parent
    links.local(draft, source.ino)
    _check_allowed(draft, op, source, there)
    if crosses:
        _check_tree(draft, source.ino, op.parent, op.new_parent)
    if is_directory and crosses:
        _check_ancestry(draft, source.ino, op.parent, op.new_parent)
        locks.check_movable(draft, source.ino)
    else:
        locks.check_ino_free(draft, source.ino)
    if there is not None:
        check_kinds(source.kind, there.kind, op.new_name)
        replaced = links.local(draft, there.ino)
        if there.kind == stat.S_IFDIR:
            check_empty(replaced, there.ino)
            locks.check_removable(draft, there.ino)
        else:
            locks.check_ino_free(draft, there.ino)
    elif is_directory and crosses:
        links.check_links(draft.inode(op.new_parent), op.new_parent)
    remove_entry(draft, op.parent, op.name)
    set_entry(draft, op.new_parent, op.new_name, source.ino, source.kind)
    new_parent = op.new_parent if is_directory else None
    moved = links.change_links(draft, source.ino, 0, new_parent, now=now)
    removed = () if there is None else (links.change_links(draft, there.ino, -1, now=now),)
    came = int(is_directory) - int(there is not None and there.kind == stat.S_IFDIR)
    links.change_entries(draft, op.parent, entries=-1, subdirectories=-int(is_directory), now=now)
    links.change_entries(
        draft, op.new_parent, entries=int(there is None), subdirectories=came, now=now
    )
    return moved, _show(draft, op.parent), _show(draft, op.new_parent), *removed


def _exchange(draft: Draft, op: Rename, source: Slot, there: Slot, now: int) -> tuple[Attr, ...]:
    links.local(draft, source.ino)
    links.local(draft, there.ino)
    _check_allowed(draft, op, source, there)
    pairs = ((source, op.parent, op.new_parent), (there, op.new_parent, op.parent))
    for slot, old, new in pairs:
        if old != new:
            _check_tree(draft, slot.ino, old, new)
        if slot.kind == stat.S_IFDIR and old != new:
            _check_ancestry(draft, slot.ino, old, new)
            locks.check_movable(draft, slot.ino)
        else:
            locks.check_ino_free(draft, slot.ino)
    if source.ino == there.ino:
        shown = draft.inode(source.ino).attr(source.ino)
        return shown, _show(draft, op.parent), _show(draft, op.new_parent), shown
    came = int(source.kind == stat.S_IFDIR) - int(there.kind == stat.S_IFDIR)
    if came and op.parent != op.new_parent:
        gaining = op.new_parent if came > 0 else op.parent
        links.check_links(draft.inode(gaining), gaining)
    set_entry(draft, op.parent, op.name, there.ino, there.kind)
    set_entry(draft, op.new_parent, op.new_name, source.ino, source.kind)
    for slot, _, new in pairs:
        links.change_links(draft, slot.ino, 0, new if slot.kind == stat.S_IFDIR else None, now=now)
    links.change_entries(draft, op.parent, entries=0, subdirectories=-came, now=now)
    links.change_entries(draft, op.new_parent, entries=0, subdirectories=came, now=now)
    return (
        draft.inode(source.ino).attr(source.ino),
        _show(draft, op.parent),
        _show(draft, op.new_parent),
        draft.inode(there.ino).attr(there.ino),
    )


def _check_allowed(draft: Draft, op: Rename, source: Slot, there: Slot | None) -> None:
    if op.caller is not None:
        access.may_rename(
            op.caller, draft.inode(op.parent), draft.inode(op.new_parent),
            draft.inode(source.ino), None if there is None else links.local(draft, there.ino),
            crosses=op.parent != op.new_parent, exchange=bool(op.flags & EXCHANGE),
        )  # fmt: skip


def _check_tree(draft: Draft, moved: int, old_parent: int, new_parent: int) -> None:
    quota.check_move(draft.inode(moved), moved, draft.inode(old_parent), draft.inode(new_parent))


def _check_ancestry(draft: Draft, moved: int, old_parent: int, new_parent: int) -> None:
    """Raise EINVAL when `moved` is `new_parent` or above it; EXDEV when that cannot be seen here.

    Reaching the root or the old parent without having met `moved` proves that it is not above.
    """
    ino = new_parent
    for _ in range(_DEPTH_MAX):
        if ino == moved:
            raise FsError(errno.EINVAL, f"directory {moved} cannot go into its own subtree")
        if ino in {ROOT_INO, old_parent}:
            return
        if not draft.is_local(ino):
            raise cross_shard(ino)
        locks.check_ino_free(draft, ino)
        ino = draft.inode(ino).parent
    raise FsError(errno.ELOOP, f"directory {new_parent} is nested too deeply")


def _show(draft: Draft, ino: int) -> Attr:
    return draft.inode(ino).attr(ino)
