"""WRITE leases: who alone may change an inode. Replicated, dropped with the session.

On a file: its data and attributes. On a directory it is a *delegation*: its attributes and entries.

READ and OPEN leases are volatile and the leader's business. Recalling others comes first, at the
leader; here a lease that another session still holds is only refused, with a retryable error.
"""

from __future__ import annotations

from msgspec.structs import replace

from cfs.core.api.meta import Acquire, Attr, Release
from cfs.core.errors import Unavailable
from cfs.core.kv import Reader
from cfs.core.meta import keys
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import HOLDER, PRESENT, Holder, Present


def holder(kv: Reader, ino: int) -> int | None:
    """Give the session that holds WRITE on an inode."""
    value = kv.get(keys.lease(ino))
    return None if value is None else HOLDER.decode(value).session


def acquire(draft: Draft, session: int, op: Acquire) -> tuple[Attr, ...]:
    """Apply `Acquire`. Raises ENOENT, Unavailable (held by another)."""
    inode = draft.inode(op.ino)
    held = holder(draft, op.ino)
    if held is not None and held != session:
        raise Unavailable(f"session {held} holds WRITE on inode {op.ino}", session=held)
    if held is None:
        grant(draft, session, op.ino)
    shown = [inode.attr(op.ino)]
    for ino in op.more:
        there = draft.find(ino)
        held = holder(draft, ino)
        if there is None or held not in {None, session}:
            continue
        if held is None:
            grant(draft, session, ino)
        shown.append(there.attr(ino))
    return tuple(shown)


def release(draft: Draft, session: int, op: Release) -> tuple[Attr, ...]:
    """Apply `Release`; what the session does not hold is passed over."""
    for ino in op.inos:
        if holder(draft, ino) == session:
            revoke(draft, session, ino)
    return ()


def grant(draft: Draft, session: int, ino: int) -> None:
    """Give WRITE on an inode nobody holds it on."""
    since = draft.state.epoch
    draft.put(keys.lease(ino), HOLDER.encode(Holder(session), since))
    draft.put(keys.lease_of(session, ino), PRESENT.encode(Present(draft.now), since))


def revoke(draft: Draft, session: int, ino: int) -> None:
    """Take WRITE away from its holder, and what the file was promised with it."""
    if draft.state.limits:
        inode = draft.find(ino)
        if inode is not None and inode.charged:
            draft.set_inode(ino, replace(inode, charged=0))
    draft.delete(keys.lease(ino))
    draft.delete(keys.lease_of(session, ino))


def held_by(kv: Reader, session: int) -> list[int]:
    """List the inodes a session holds WRITE on."""
    return [keys.number_at(key, 9) for key, _ in kv.scan(*keys.leases_range(session))]
