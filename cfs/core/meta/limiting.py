"""Applying the commands about quotas, and `Charge`; what counts is decided in `quota`.

A directory is marked before what is in it. From then on what is made in it has its mark, and what
is not marked yet cannot be moved out of it: so a walk from the top down, a page at a time, meets
everything, whatever others do meanwhile.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api.meta import Attr
from cfs.core.api.quota import GROUP, TREE, UNLIMITED, USER, Charge, Domain
from cfs.core.errors import FsError, Refused
from cfs.core.meta import files, keys, leases, locks, quota
from cfs.core.meta.draft import Draft
from cfs.core.meta.quota_commands import KEEP, Cap, MarkTree, Recount, SetCaps
from cfs.core.meta.records import ENTRIES, Inode, Slot, Usage
from cfs.core.meta.results import Capped, CappedRow, Marked, Reclaimed

AMPLE = 8
"""Of the room left, a file is promised beyond its need at most one part in so many."""


def charge(draft: Draft, session: int, op: Charge) -> tuple[Attr, ...]:
    """Apply `Charge`. Raises ENOENT, EISDIR, ESTALE (no lease), EFBIG, EDQUOT."""
    inode = files.regular(draft, op.ino)
    if leases.holder(draft, op.ino) != session:
        raise FsError(errno.ESTALE, f"session {session} does not hold WRITE on inode {op.ino}")
    if op.size > files.SIZE_MAX:
        raise FsError(errno.EFBIG, f"size {op.size} is beyond {files.SIZE_MAX}")
    charged = 0
    if op.size > inode.size:
        left = min(quota.room(draft.ledger.usage(d))[0] for d in quota.domains(inode))
        spare = left - (op.size - max(inode.size, inode.charged))
        charged = op.size + max(0, min(op.want - op.size, spare // AMPLE))
    if charged != inode.charged:
        inode = replace(inode, charged=charged)
    return (draft.set_inode(op.ino, inode),)


def set_caps(draft: Draft, command: SetCaps) -> Capped:
    """Apply `SetCaps`. Raises Refused for a leader of the past, and while inodes do not count."""
    state = draft.state
    if command.term < state.quota_term:
        later = state.quota_term
        raise Refused(f"a leader of term {later} sets the caps", quota_term=later)
    state.quota_term = command.term
    if state.counted != quota.ALL:
        raise Refused("the shard still counts what is there: try again in a moment")
    if command.version:
        state.limits = max(state.limits, command.version)
    rows: list[CappedRow] = []
    for cap in command.caps:
        there = _capped(draft.ledger.usage(cap.domain), cap)
        draft.ledger.set_usage(cap.domain, there)
        rows.append(
            CappedRow(
                domain=cap.domain,
                bytes=there.bytes,
                inodes=there.inodes,
                held=there.held,
                promised=there.promised,
                cap_bytes=there.cap_bytes,
                cap_inodes=there.cap_inodes,
            )
        )
    return Capped(rows=tuple(rows))


def _capped(there: Usage, cap: Cap) -> Usage:
    return replace(
        there,
        cap_bytes=_cap(there.cap_bytes, cap.bytes, there.bytes + there.held),
        cap_inodes=_cap(there.cap_inodes, cap.inodes, there.inodes + there.promised),
    )


def _cap(before: int, wanted: int, taken: int) -> int:
    if wanted == KEEP:
        return before
    if wanted == UNLIMITED:
        return UNLIMITED
    rises = before != UNLIMITED and wanted >= before
    return wanted if rises else max(wanted, taken)


def mark(draft: Draft, command: MarkTree) -> Marked:
    """Apply `MarkTree`. Raises Refused where another tree begins, `Locked`."""
    directory = draft.find(command.ino)
    if directory is None or not directory.nlink:
        return Marked(marked=0, end=True)
    marked = 0
    if directory.project != command.project:
        locks.check_removable(draft, command.ino)
        if directory.project != command.was:
            raise Refused(f"directory {command.ino} has a quota of its own: trees do not nest")
        draft.set_inode(command.ino, replace(directory, project=command.project))
        marked = 1
    if not stat.S_ISDIR(directory.mode):
        return Marked(marked=marked, end=True)
    looked = 0
    start, stop = keys.entries_range(command.ino, command.hash58)
    for key, value in draft.scan(start, stop):
        hash58 = keys.number_at(key, 9)
        for entry in ENTRIES.decode(value).slots:
            if hash58 == command.hash58 and entry.slot <= command.slot:
                continue
            at = {"hash58": hash58, "slot": entry.slot}
            if entry.kind == stat.S_IFDIR or not draft.is_local(entry.ino):
                return Marked(marked=marked, end=False, ino=entry.ino, **at)
            marked += _mark_one(draft, entry, command)
            looked += 1
            if looked >= command.budget:
                return Marked(marked=marked, end=False, **at)
    return Marked(marked=marked, end=True)


def _mark_one(draft: Draft, entry: Slot, command: MarkTree) -> int:
    inode: Inode | None = draft.find(entry.ino)
    if inode is None or inode.project != command.was:
        return 0  # in another tree by another name, or marked already
    locks.check_ino_free(draft, entry.ino)
    draft.set_inode(entry.ino, replace(inode, project=command.project))
    return 1


def recount(draft: Draft, command: Recount) -> Reclaimed:
    """Apply `Recount`."""
    if command.begin:
        draft.state.counted = 0
        for domain, there in list(quota.usages(draft.kv)):
            draft.ledger.set_usage(domain, replace(there, bytes=0, inodes=0, held=0))
    return Reclaimed(done=draft.state.counted == quota.ALL)


def hold(draft: Draft, project: int, uid: int, gid: int, inodes: int) -> None:
    """Promise an inode that a transaction is to make, or take the promise back."""
    if project:
        draft.ledger.promise(Domain(TREE, project), inodes)
    draft.ledger.promise(Domain(USER, uid), inodes)
    draft.ledger.promise(Domain(GROUP, gid), inodes)
