"""What a namespace operation that spans shards is made of: the steps, shard by shard.

The coordinator is the shard the client asked: the one of the directory that gains or loses the
name (of the new directory, for a rename). What the caller may do is decided here, on what is read
to plan; names, and what a directory passes on to a new one, the shards compare again. `Plan.order`
says which step's attributes stand where in the client's answer (see `meta.OpResult.attrs`).
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Entry
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO, Ino, shard_of
from cfs.core.meta import access, change, quota
from cfs.core.meta.commands import Adjust, Attach, Detach, Empty, MakeInode, Stay, Step

NOREPLACE, EXCHANGE = 1, 2
DEPTH_MAX = 4096
"""Ancestors of a directory at most: a path has no more components."""


class Namespace(Protocol):
    """Reads anywhere in the tree."""

    async def lookup(self, parent: int, name: bytes) -> Entry | None:
        """Find a name. Raises FsError for a bad parent."""
        ...

    async def attr(self, ino: int) -> Attr:
        """Read attributes. Raises FsError ENOENT."""
        ...


@dataclass(slots=True)
class Plan:
    """Steps by shard, and where each answer comes from: `(shard, index of the step)`."""

    steps: dict[int, list[Step]] = field(default_factory=dict)
    order: list[tuple[int, int]] = field(default_factory=list)

    def add(self, ino: int, step: Step, *, answers: bool = True) -> tuple[int, int]:
        """Add a step in the shard of `ino`."""
        return self.add_in(shard_of(Ino(ino)), step, answers=answers)

    def add_in(self, shard: int, step: Step, *, answers: bool = True) -> tuple[int, int]:
        """Add a step in a shard."""
        steps = self.steps.setdefault(shard, [])
        steps.append(step)
        place = (shard, len(steps) - 1)
        if answers:
            self.order.append(place)
        return place


def home_of_directory(parent: int, name: bytes, shard_count: int, *, spread: bool) -> int:
    """Choose the shard of a new directory's inode.

    Directories follow their parent; those at the top, and in a directory marked `cfs.spread`, are
    spread over all shards by a hash of parent and name.
    """
    if parent != ROOT_INO and not spread:
        return shard_of(Ino(parent))
    digest = blake2b(parent.to_bytes(8, "big") + name, digest_size=8).digest()
    return int.from_bytes(digest, "big") % shard_count


async def plan(space: Namespace, op: Any, home: int) -> Plan:
    """Compose the steps of `op`; `home` is the shard a new directory goes to. Raises FsError."""
    match op:
        case meta.Create():
            return await _plan_mkdir(space, op, home)
        case meta.Unlink():
            return await _plan_unlink(space, op)
        case meta.Rmdir():
            return await _plan_rmdir(space, op)
        case meta.Link():
            return await _plan_link(space, op)
        case meta.Rename(flags=flags) if flags & EXCHANGE:
            return await _plan_exchange(space, op)
        case meta.Rename():
            return await _plan_rename(space, op)
        case _:
            raise FsError(errno.EXDEV, f"{type(op).__name__} cannot span shards")


async def _plan_mkdir(space: Namespace, op: meta.Create, home: int) -> Plan:
    parent = await space.attr(op.parent)
    access.may_enter(parent, op.caller)
    if op.caller is not None and await space.lookup(op.parent, op.name) is None:
        access.may_make(parent, op)  # else it exists, which the attachment says
    made = Plan()
    made.add_in(home, MakeInode(parent=op.parent, **change.inherit(parent, op)))
    # the inode's number is known once it is prepared: the driver fills it in
    attach = Attach(
        parent=op.parent, name=op.name, ino=0, kind=stat.S_IFDIR,
        heritage=change.heritage(parent),
    )  # fmt: skip
    made.add(op.parent, attach)
    return made


async def _check_removal(space: Namespace, op: meta.Unlink | meta.Rmdir, ino: int) -> None:
    if op.caller is not None:
        access.may_remove(await space.attr(op.parent), await space.attr(ino), op.caller)


async def _check_move(space: Namespace, op: meta.Rename, moved: int, there: int) -> None:
    if op.caller is not None:
        access.may_rename(
            op.caller, await space.attr(op.parent), await space.attr(op.new_parent),
            await space.attr(moved), await space.attr(there) if there else None,
            crosses=op.parent != op.new_parent, exchange=bool(op.flags & EXCHANGE),
        )  # fmt: skip


async def _trees(space: Namespace, op: meta.Rename, moved: int) -> tuple[int, int]:
    """Give the quota trees of both directories (-1: any) and of what moves. Raises EXDEV."""
    if op.parent == op.new_parent:
        return -1, -1
    old, new = await space.attr(op.parent), await space.attr(op.new_parent)
    there = await space.attr(moved)
    quota.check_move(there, moved, old, new)
    return new.project, there.project


async def _found(space: Namespace, parent: int, name: bytes) -> Entry:
    entry = await space.lookup(parent, name)
    if entry is None:
        raise FsError(errno.ENOENT)
    return entry


async def _plan_unlink(space: Namespace, op: meta.Unlink) -> Plan:
    entry = await _found(space, op.parent, op.name)
    if entry.kind == stat.S_IFDIR:
        raise FsError(errno.EISDIR)
    await _check_removal(space, op, entry.ino)
    made = Plan()
    lost = (op.parent, op.name)
    made.add(entry.ino, Adjust(ino=entry.ino, nlink_delta=-1, thrown_from=lost))
    made.add(op.parent, Detach(parent=op.parent, name=op.name, ino=entry.ino))
    return made


async def _plan_rmdir(space: Namespace, op: meta.Rmdir) -> Plan:
    entry = await _found(space, op.parent, op.name)
    if entry.kind != stat.S_IFDIR:
        raise FsError(errno.ENOTDIR)
    await _check_removal(space, op, entry.ino)
    made = Plan()
    made.add(entry.ino, Empty(ino=entry.ino, thrown_from=(op.parent, op.name)))
    made.add(op.parent, Detach(parent=op.parent, name=op.name, ino=entry.ino))
    return made


async def _plan_link(space: Namespace, op: meta.Link) -> Plan:
    attr = await space.attr(op.ino)
    if stat.S_ISDIR(attr.mode):
        raise FsError(errno.EPERM)
    if await space.lookup(op.parent, op.name) is not None:
        raise FsError(errno.EEXIST)
    parent = await space.attr(op.parent)
    access.may_add(parent, op.caller)
    if attr.project != parent.project:
        raise quota.crossing(op.ino)
    kind, tree = stat.S_IFMT(attr.mode), attr.project
    made = Plan()
    made.add(op.ino, Adjust(ino=op.ino, nlink_delta=1, project=tree))
    attach = Attach(parent=op.parent, name=op.name, ino=op.ino, kind=kind, project=tree)
    made.add(op.parent, attach)
    return made


async def _plan_rename(space: Namespace, op: meta.Rename) -> Plan:
    source = await _found(space, op.parent, op.name)
    target = await space.lookup(op.new_parent, op.new_name)
    if target is not None and op.flags & NOREPLACE:
        raise FsError(errno.EEXIST)
    moves_directory = source.kind == stat.S_IFDIR
    if moves_directory and op.parent != op.new_parent:
        chain = await ancestry(space, op.new_parent, source.ino)
    else:
        chain = []
    made = Plan()
    if target is not None and target.ino == source.ino:
        return made  # two names of one inode: rename(2) does nothing
    if target is not None and (target.kind == stat.S_IFDIR) != moves_directory:
        raise FsError(errno.EISDIR if target.kind == stat.S_IFDIR else errno.ENOTDIR)
    await _check_move(space, op, source.ino, target.ino if target else 0)
    place, tree = await _trees(space, op, source.ino)
    parent = op.new_parent if moves_directory and op.parent != op.new_parent else None
    made.add(source.ino, Adjust(ino=source.ino, parent=parent, project=tree))
    made.add(op.parent, Detach(parent=op.parent, name=op.name, ino=source.ino, project=place))
    attach = Attach(
        parent=op.new_parent,
        name=op.new_name,
        ino=source.ino,
        kind=source.kind,
        replaces=target.ino if target else 0,
        project=place,
    )
    made.add(op.new_parent, attach)
    if target is not None:
        gone = (
            Empty(ino=target.ino)
            if target.kind == stat.S_IFDIR
            else Adjust(ino=target.ino, nlink_delta=-1)
        )
        made.add(target.ino, gone)
    for ino, above in chain:
        made.add(ino, Stay(ino=ino, parent=above), answers=False)
    return made


async def _plan_exchange(space: Namespace, op: meta.Rename) -> Plan:
    one = await _found(space, op.parent, op.name)
    other = await _found(space, op.new_parent, op.new_name)
    made = Plan()
    if one.ino == other.ino:
        return made
    await _check_move(space, op, one.ino, other.ino)
    apart = op.parent != op.new_parent
    place, tree_of_one = await _trees(space, op, one.ino)
    _, tree_of_other = await _trees(space, op, other.ino)
    trees = {one.ino: tree_of_one, other.ino: tree_of_other}
    chain: dict[int, int] = {}
    for entry, place in ((one, op.new_parent), (other, op.parent)):
        if apart and entry.kind == stat.S_IFDIR:
            chain.update(await ancestry(space, place, entry.ino))
    for entry, place in ((one, op.new_parent), (other, op.parent)):
        parent = place if apart and entry.kind == stat.S_IFDIR else None
        made.add(entry.ino, Adjust(ino=entry.ino, parent=parent, project=trees[entry.ino]))
    for parent, name, comes, goes in (
        (op.parent, op.name, other, one),
        (op.new_parent, op.new_name, one, other),
    ):
        attach = Attach(
            parent=parent,
            name=name,
            ino=comes.ino,
            kind=comes.kind,
            replaces=goes.ino,
            exchange=True,
            project=place,
        )
        made.add(parent, attach)
    made.order = [made.order[0], made.order[2], made.order[3], made.order[1]]
    for ino, above in chain.items():
        made.add(ino, Stay(ino=ino, parent=above), answers=False)
    return made


async def ancestry(space: Namespace, directory: int, moved: int) -> list[tuple[int, int]]:
    """List `(ino, parent)` from `directory` up to the root. EINVAL when `moved` is among them."""
    chain: list[tuple[int, int]] = []
    while directory != ROOT_INO:
        if directory == moved:
            raise FsError(errno.EINVAL, "a directory cannot move into itself")
        if len(chain) >= DEPTH_MAX:
            raise FsError(errno.ELOOP, "the directory lies too deep")
        attr = await space.attr(directory)
        chain.append((directory, attr.parent))
        directory = attr.parent
    if moved == ROOT_INO:
        raise FsError(errno.EBUSY)
    return chain
