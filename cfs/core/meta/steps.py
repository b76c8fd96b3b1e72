"""The steps of a cross-shard transaction: checked, held, then applied or released.

`check` validates against the state and everybody's locks and changes nothing; `hold` takes the
locks a step needs; `release` drops them; `apply` makes the change, which the locks have kept
possible. What each holds:

    Attach, Detach   the name; a pin on the directory
    MakeInode        room in its quotas: its number is unknown to anyone
    Adjust           the inode
    Empty            the inode, shut: no entry comes in
    Stay             a pin on the directory and on its parent
    RenameLock       the rename lock
"""

from __future__ import annotations

import errno
import stat
from typing import assert_never

from cfs.core.errors import FsError, Unavailable
from cfs.core.meta import change, keys, limiting, links, locks, namespace, trash
from cfs.core.meta.commands import Adjust, Attach, Detach, Empty, MakeInode, RenameLock, Stay, Step
from cfs.core.meta.draft import Draft
from cfs.core.meta.entries import check_name, find, remove_entry, require, set_entry
from cfs.core.meta.records import Inode, Lock, Pin
from cfs.core.meta.renaming import check_kinds


def check(draft: Draft, step: Step) -> None:
    """Raise the step's errno, `Locked`, or `Unavailable` when what it expects has changed."""
    match step:
        case Attach():
            _check_attach(draft, step)
        case Detach():
            _check_detach(draft, step)
        case MakeInode():
            _check_make(step)
        case Adjust():
            _check_adjust(draft, step)
        case Empty():
            namespace.check_empty(links.directory(draft, step.ino), step.ino)
            locks.check_removable(draft, step.ino)
        case Stay():
            _check_stay(draft, step)
        case RenameLock():
            locks.check_rename_lock_free(draft)
        case _:
            assert_never(step)


def hold(draft: Draft, txid: bytes, coordinator: int, step: Step) -> int:
    """Take the step's locks; give the number of the inode it will make, else 0."""
    lock = Lock(txid, coordinator)
    match step:
        case Attach() | Detach():
            locks.take(draft, keys.name_lock(step.parent, step.name), lock)
            locks.pin(draft, step.parent, Pin(txid, coordinator, stay=False))
        case MakeInode():
            limiting.hold(draft, step.project, step.uid, step.gid, 1)
            return draft.new_ino()
        case Adjust():
            locks.take(draft, keys.ino_lock(step.ino), lock)
        case Empty():
            locks.take(draft, keys.ino_lock(step.ino), Lock(txid, coordinator, shut=True))
        case Stay():
            locks.pin(draft, step.ino, Pin(txid, coordinator, stay=True))
        case RenameLock():
            locks.take(draft, keys.RENAME_LOCK, lock)
        case _:
            assert_never(step)
    return 0


def release(draft: Draft, txid: bytes, step: Step) -> None:
    """Drop what `hold` took."""
    match step:
        case Attach() | Detach():
            locks.drop(draft, keys.name_lock(step.parent, step.name), txid)
            locks.unpin(draft, step.parent, txid)
        case MakeInode():
            limiting.hold(draft, step.project, step.uid, step.gid, -1)
        case Adjust() | Empty():
            locks.drop(draft, keys.ino_lock(step.ino), txid)
        case Stay():
            locks.unpin(draft, step.ino, txid)
        case RenameLock():
            locks.drop(draft, keys.RENAME_LOCK, txid)
        case _:
            assert_never(step)


def apply(draft: Draft, step: Step, made: int) -> int | None:
    """Make the step's change and give the inode it changed."""
    match step:
        case Attach():
            return _attach(draft, step)
        case Detach():
            slot = find(draft, step.parent, step.name)
            assert slot is not None
            remove_entry(draft, step.parent, step.name)
            subdirectories = -int(slot.kind == stat.S_IFDIR)
            links.change_entries(draft, step.parent, entries=-1, subdirectories=subdirectories)
            return step.parent
        case MakeInode():
            inode = namespace.new_inode(
                draft, mode=step.mode, uid=step.uid, gid=step.gid, parent=step.parent,
                acl=step.acl, default_acl=step.default_acl, project=step.project,
            )  # fmt: skip
            draft.set_inode(made, inode)
            return made
        case Adjust():
            links.change_links(draft, step.ino, step.nlink_delta, step.parent)
            _throw(draft, step)
            return step.ino
        case Empty():
            links.change_links(draft, step.ino, -1)
            _throw(draft, step)
            return step.ino
        case Stay() | RenameLock():
            return None
        case _:
            assert_never(step)


def _throw(draft: Draft, step: Adjust | Empty) -> None:
    parent, name = step.thrown_from
    if parent:
        trash.throw(draft, step.ino, parent, name)


def _check_attach(draft: Draft, step: Attach) -> None:
    parent = links.open_directory(draft, step.parent)
    check_name(step.name)
    locks.check_name_free(draft, step.parent, step.name)
    there = find(draft, step.parent, step.name)
    if there is not None and not step.replaces:
        raise namespace.exists(draft, step.parent, step.name, there.ino, there.kind)
    if (0 if there is None else there.ino) != step.replaces:
        raise _changed(f"{step.name!r} in directory {step.parent}")
    if there is not None and not step.exchange:
        check_kinds(step.kind, there.kind, step.name)
    if step.heritage and step.heritage != change.heritage(parent):
        raise _changed(f"what directory {step.parent} passes on")
    _check_project(parent, step.project, step.parent)
    if step.kind == stat.S_IFDIR and (there is None or there.kind != stat.S_IFDIR):
        links.check_links(parent, step.parent)


def _check_detach(draft: Draft, step: Detach) -> None:
    _check_project(links.directory(draft, step.parent), step.project, step.parent)
    locks.check_name_free(draft, step.parent, step.name)
    if require(draft, step.parent, step.name).ino != step.ino:
        raise _changed(f"{step.name!r} in directory {step.parent}")


def _check_make(step: MakeInode) -> None:
    namespace.check_owner(step.uid, step.gid)
    if not stat.S_ISDIR(step.mode) or step.mode >> 16:
        raise FsError(errno.EINVAL, f"mode {step.mode:o} is not a directory's")


def _check_stay(draft: Draft, step: Stay) -> None:
    inode = links.directory(draft, step.ino)
    locks.check_ino_free(draft, step.ino)
    if inode.parent != step.parent:
        raise _changed(f"the parent of directory {step.ino}")


def _check_adjust(draft: Draft, step: Adjust) -> None:
    inode = links.local(draft, step.ino)
    _check_project(inode, step.project, step.ino)
    if not inode.nlink and step.nlink_delta <= 0:
        raise FsError(errno.ENOENT, f"inode {step.ino} is removed")
    is_directory = stat.S_ISDIR(inode.mode)
    if step.nlink_delta not in {-1, 0, 1}:
        raise FsError(errno.EINVAL, f"links change by one, not {step.nlink_delta}")
    if step.nlink_delta and is_directory:
        raise FsError(errno.EPERM, f"inode {step.ino} is a directory: it has one name")
    if step.nlink_delta > 0:
        links.check_links(inode, step.ino)
    if step.parent is None:
        locks.check_ino_free(draft, step.ino)
        return
    if not is_directory:
        raise FsError(errno.ENOTDIR, f"inode {step.ino} is not a directory")
    locks.check_movable(draft, step.ino)


def _check_project(inode: Inode, expected: int, ino: int) -> None:
    if expected not in {-1, inode.project}:
        raise _changed(f"the quota tree of inode {ino}")


def _attach(draft: Draft, step: Attach) -> int:
    there = find(draft, step.parent, step.name)
    set_entry(draft, step.parent, step.name, step.ino, step.kind)
    was_directory = there is not None and there.kind == stat.S_IFDIR
    links.change_entries(
        draft,
        step.parent,
        entries=int(there is None),
        subdirectories=int(step.kind == stat.S_IFDIR) - int(was_directory),
    )
    return step.parent


def _changed(what: str) -> Unavailable:
    return Unavailable(f"{what} has changed meanwhile: look again")
