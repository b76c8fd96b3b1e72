"""What an operation would touch: whose leases to recall, which names to latch, which shards join.

Computed from the state before the operation, under the leader's latches; conservative: an inode
named here may turn out unchanged, one not named here is not changed.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cfs.core.api.meta import (
    Acquire,
    Commit,
    CopyRange,
    Create,
    Link,
    Lock,
    MakeOrphan,
    Release,
    RemoveXattr,
    Rename,
    ReserveInos,
    Rmdir,
    SetAttr,
    SetXattr,
    Unlink,
)
from cfs.core.api.quota import Charge
from cfs.core.ids import Ino, ShardId, shard_of
from cfs.core.kv import Reader
from cfs.core.meta import entries
from cfs.core.meta.commands import Adjust, Attach, ClientOp, Detach, Empty, Step
from cfs.core.meta.records import Slot


class Touched(msgspec.Struct, frozen=True, array_like=True):
    """`inos` are of the shard asked only; `shards` all that take part."""

    inos: tuple[int, ...]
    names: tuple[tuple[int, bytes], ...]
    shards: frozenset[int]


def touched(kv: Reader, op: ClientOp) -> Touched:
    """Tell what an operation touches, seen from the shard of its (first) directory or inode."""
    match op:
        case Create():
            return _name(op.parent, op.name, None)
        case Unlink() | Rmdir():
            return _name(op.parent, op.name, _find(kv, op.parent, op.name))
        case Link():
            return _make(op.parent, [op.parent, op.ino], [(op.parent, op.name)])
        case Rename():
            source = _find(kv, op.parent, op.name)
            there = _find(kv, op.new_parent, op.new_name)
            inos = [op.parent, op.new_parent]
            inos += [slot.ino for slot in (source, there) if slot is not None]
            names = [(op.parent, op.name), (op.new_parent, op.new_name)]
            return _make(op.parent, inos, names)
        case SetAttr() | SetXattr() | RemoveXattr() | Commit() | CopyRange() | Charge():
            return Touched((op.ino,), (), frozenset({shard_of(Ino(op.ino))}))
        case Acquire() | Lock():
            held = (op.ino, *op.more) if isinstance(op, Acquire) else ()
            return Touched(held, (), frozenset({shard_of(Ino(op.ino))}))
        case MakeOrphan():
            return Touched((), (), frozenset({shard_of(Ino(op.parent))}))
        case Release():
            return Touched((), (), frozenset(shard_of(Ino(ino)) for ino in op.inos))
        case ReserveInos():
            return Touched((), (), frozenset())


def inos_of(steps: Iterable[Step]) -> tuple[int, ...]:
    """List the inodes whose attributes or entries the steps of one shard change."""
    inos: dict[int, None] = {}
    for step in steps:
        if isinstance(step, (Attach, Detach)):
            inos[step.parent] = None
        elif isinstance(step, (Adjust, Empty)):
            inos[step.ino] = None
    return tuple(inos)


def names_of(steps: Iterable[Step]) -> tuple[tuple[int, bytes], ...]:
    """List the names the steps of one shard change."""
    return tuple((s.parent, s.name) for s in steps if isinstance(s, (Attach, Detach)))


def _find(kv: Reader, parent: int, name: bytes) -> Slot | None:
    return entries.find(kv, parent, name) if len(name) <= entries.NAME_BYTES_MAX else None


def _name(parent: int, name: bytes, slot: Slot | None) -> Touched:
    inos = [parent] if slot is None else [parent, slot.ino]
    return _make(parent, inos, [(parent, name)])


def _make(home_ino: int, inos: list[int], names: list[tuple[int, bytes]]) -> Touched:
    home: ShardId = shard_of(Ino(home_ino))
    shards = frozenset(shard_of(Ino(ino)) for ino in inos)
    here = dict.fromkeys(ino for ino in inos if shard_of(Ino(ino)) == home)
    return Touched(tuple(here), tuple(dict.fromkeys(names)), shards)
