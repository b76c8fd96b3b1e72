"""A shard of the namespace: a deterministic state machine over the ordered key-value port.

One Raft entry is a batch of commands; `apply` gives a result for each. A refused command changes
nothing and its result says why. Nothing is kept between entries but what is in the keys, so any
replica, started anywhere, goes on from them. Only `Corrupt` (a stored value fails its checksum)
leaves `apply` as an exception: that replica must stop and be rebuilt.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import Any

from cfs.core.errors import CfsError, Corrupt, FsError, Malformed
from cfs.core.ids import ROOT_INO, serial_of
from cfs.core.kv import Writer
from cfs.core.meta import (
    collection,
    limiting,
    mending,
    namespace,
    orphans,
    packing,
    quota,
    relocation,
    sessions,
    transactions,
    trash,
    trimming,
    versions,
)
from cfs.core.meta.commands import (
    ClientOps,
    Collected,
    Condemn,
    DropEntry,
    DropLeases,
    DropSnapshot,
    EmptyTrash,
    ExpireSession,
    InitShard,
    MarkTree,
    Mend,
    OpenSession,
    Pack,
    Reclaim,
    Recount,
    Refuse,
    Relocate,
    SetCaps,
    SetTrash,
    Standing,
    TakeSnapshot,
    TxnDecide,
    TxnFinish,
    TxnForget,
    TxnPrepare,
    Withdraw,
    decode_batch,
)
from cfs.core.meta.draft import Draft
from cfs.core.meta.results import Done, failed

ROOT_MODE = stat.S_IFDIR | 0o755


class Shard:
    """The machine of one shard; see `cfs.core.machine.StateMachine`."""

    def __init__(self, site: int, shard: int) -> None:
        self.site = site
        self.shard = shard

    def apply(self, kv: Writer, index: int, command: bytes) -> list[Any]:
        """Apply one entry and give a result a command."""
        del index
        try:
            batch = decode_batch(command)
        except Malformed as error:
            return [failed(error)]
        draft = Draft(kv, self.site, self.shard, batch.time_ns)
        results: list[Any] = []
        for one in batch.commands:
            if type(one) is ClientOps:
                results.append(sessions.run(draft, one))
            else:
                results.append(_run(draft, one))
        trimming.step(draft)
        quota.step(draft)
        versions.step(draft)
        draft.close()
        return results


def init(draft: Draft, command: InitShard) -> Done:
    """Apply `InitShard`."""
    if not draft.state.inodes and not draft.state.serial:
        draft.state.counted = quota.ALL  # as they are made
    if draft.is_local(ROOT_INO):
        draft.state.serial = max(draft.state.serial, serial_of(ROOT_INO))
        if command.root and draft.find(ROOT_INO) is None:
            root = namespace.new_inode(draft, mode=ROOT_MODE, uid=0, gid=0, parent=ROOT_INO)
            draft.set_inode(ROOT_INO, root)
    return Done()


def take_snapshot(draft: Draft, command: TakeSnapshot) -> Done:
    """Apply `TakeSnapshot`."""
    versions.take(draft, command.epoch)
    return Done()


def drop_snapshot(draft: Draft, command: DropSnapshot) -> Done:
    """Apply `DropSnapshot`."""
    versions.drop(draft, command.epoch)
    return Done()


_RUN: dict[type[Any], Callable[[Draft, Any], Any]] = {
    InitShard: init,
    OpenSession: sessions.open_session,
    ExpireSession: sessions.expire,
    DropLeases: sessions.drop_leases,
    Refuse: sessions.refuse,
    Reclaim: orphans.reclaim,
    Pack: packing.pack,
    Relocate: relocation.relocate,
    Condemn: collection.condemn,
    Withdraw: collection.withdraw,
    Standing: lambda draft, command: collection.standing(draft, command.round),
    Collected: collection.collected,
    SetCaps: limiting.set_caps,
    MarkTree: limiting.mark,
    Recount: limiting.recount,
    TxnPrepare: transactions.prepare,
    TxnDecide: transactions.decide,
    TxnFinish: transactions.finish,
    TxnForget: transactions.forget,
    Mend: mending.mend,
    DropEntry: mending.drop_entry,
    TakeSnapshot: take_snapshot,
    DropSnapshot: drop_snapshot,
    SetTrash: trash.set_trash,
    EmptyTrash: trash.empty,
}


def _run(draft: Draft, command: Any) -> Any:
    try:
        result = _RUN[type(command)](draft, command)
        draft.commit()
    except Corrupt:
        raise
    except CfsError as error:
        draft.rollback()
        return failed(error)
    except OverflowError as error:
        draft.rollback()
        return failed(FsError(errno.EINVAL, f"a number is out of range: {error}"))
    return result
