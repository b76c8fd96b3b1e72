"""The room in quotas that an operation needs, seen before it is applied.

An estimate, made from the state so that a shard's leader can fetch more of a limit first; what
decides is the count when the operation is applied (`quota`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

from cfs.core.api.meta import Commit, CopyRange, Create, Link, MakeOrphan, SetAttr
from cfs.core.api.quota import GROUP, TREE, USER, Charge, Domain, Want
from cfs.core.kv import Reader
from cfs.core.meta import keys, quota
from cfs.core.meta.commands import ClientOp, MakeInode, Step
from cfs.core.meta.records import INODE, Inode

_Sums = dict[Domain, tuple[int, int]]


def lacking(kv: Reader, ops: Iterable[ClientOp], steps: Iterable[Step] = ()) -> tuple[Want, ...]:
    """Give what limited domains have not enough room for."""
    sums: _Sums = {}
    for op in ops:
        _of_op(kv, op, sums)
    for step in steps:
        if isinstance(step, MakeInode):
            _add(sums, _owned(step.project, step.uid, step.gid), 0, 1)
    short: list[Want] = []
    for domain, (count, inodes) in sums.items():
        bytes_left, inodes_left = quota.room(quota.usage(kv, domain))
        if count > max(0, bytes_left) or inodes > max(0, inodes_left):
            short.append(Want(domain=domain, bytes=count, inodes=inodes))
    return tuple(short)


def _of_op(kv: Reader, op: ClientOp, sums: _Sums) -> None:
    match op:
        case Create() | MakeOrphan():
            parent = _inode(kv, op.parent)
            if parent is not None:
                gid = parent.gid if parent.mode & stat.S_ISGID else op.gid
                length = len(op.target) if isinstance(op, Create) else 0
                _add(sums, _owned(parent.project, op.uid, gid), length, 1)
        case Charge(ino=ino, size=size):
            _grow(kv, ino, size, sums)
        case Commit(ino=ino, extents=extents, size=size):
            end = extents[-1].offset + extents[-1].length if extents else 0
            _grow(kv, ino, max(end, size or 0), sums)
        case CopyRange(ino=ino, to=to, length=length, source=source, start=start):
            there = _inode(kv, source)
            length = min(length, there.size - start) if there is not None else 0
            _grow(kv, ino, to + length, sums)
        case SetAttr():
            _of_setattr(kv, op, sums)
        case Link(ino=ino, parent=directory):
            inode, above = _inode(kv, ino), _inode(kv, directory)
            if inode is not None and above is not None and inode.trashed:
                _add(sums, _owned(above.project, inode.uid, inode.gid), inode.size, 1)
        case _:
            pass


def _of_setattr(kv: Reader, op: SetAttr, sums: _Sums) -> None:
    if op.size is not None:
        _grow(kv, op.ino, op.size, sums)
    inode = _inode(kv, op.ino)
    if inode is None:
        return
    size = 0 if stat.S_ISDIR(inode.mode) else max(inode.size, inode.charged)
    if op.uid is not None and op.uid != inode.uid:
        _add(sums, (Domain(USER, op.uid),), size, 1)
    if op.gid is not None and op.gid != inode.gid:
        _add(sums, (Domain(GROUP, op.gid),), size, 1)


def _grow(kv: Reader, ino: int, size: int, sums: _Sums) -> None:
    inode = _inode(kv, ino)
    if inode is not None and size > max(inode.size, inode.charged):
        _add(sums, quota.domains(inode), size - max(inode.size, inode.charged), 0)


def _owned(project: int, uid: int, gid: int) -> tuple[Domain, ...]:
    owners = Domain(USER, uid), Domain(GROUP, gid)
    return (Domain(TREE, project), *owners) if project else owners


def _add(sums: _Sums, of: tuple[Domain, ...], count: int, inodes: int) -> None:
    for domain in of:
        before = sums.get(domain, (0, 0))
        sums[domain] = before[0] + count, before[1] + inodes


def _inode(kv: Reader, ino: int) -> Inode | None:
    value = kv.get(keys.inode(ino))
    return None if value is None else INODE.decode(value)
