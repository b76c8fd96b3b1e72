"""Locks that programs put on files: flock and POSIX byte ranges, released with the session.

One record holds what one owner has locked of one file: ranges in order, disjoint, those that touch
and are of one kind joined. A lock is taken whole or refused; waiting is the leader's business
(`cfs.fs.meta.lock_queue`). Flock and POSIX locks do not see each other. Locks are advisory and
change nothing a reader of the file could see, so no lease is involved.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from cfs.core.api.locking import OFFSET_MAX
from cfs.core.api.meta import Attr, Lock, LockHolder, LockKind
from cfs.core.errors import FsError
from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import keys
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import PRESENT, RANGES, Present, Range, Ranges

RANGES_MAX = 1024
"""Ranges an owner may have locked of one file: a record of 30 KiB."""
FILE_RANGES_MAX = 8192
"""With so many ranges locked of one file no other owner gets any: a conflict check reads them."""
_READ, _WRITE, _NONE = int(LockKind.READ), int(LockKind.WRITE), int(LockKind.NONE)


def apply(draft: Draft, session: int, op: Lock) -> tuple[Attr, ...]:
    """Apply `Lock`. Raises EAGAIN (held by another), EINVAL, ENOENT, ENOLCK."""
    _check(op)
    key = keys.file_lock(op.ino, session, op.owner, flock=op.flock)
    value = draft.get(key)
    own = () if value is None else RANGES.decode(value).ranges
    if op.kind == _NONE:
        if value is not None:
            _store(draft, session, op, before=own, after=set_range(own, op.start, op.end, _NONE, 0))
        return ()
    draft.inode(op.ino)
    if op.yields:
        raise FsError(errno.EAGAIN, f"others wait for locks on inode {op.ino}")
    if draft.state.file_locks:
        for count, holder in enumerate(holders(draft, op.ino, flock=op.flock)):
            other = holder.session != session or holder.owner != op.owner
            if other and overlaps(holder, op.start, op.end, op.kind):
                raise conflict(op.ino, holder)
            if not own and count >= FILE_RANGES_MAX:
                raise FsError(errno.ENOLCK, f"{count} ranges of inode {op.ino} are locked")
    after = set_range(own, op.start, op.end, op.kind, op.pid)
    if len(after) > RANGES_MAX:
        raise FsError(errno.ENOLCK, f"the owner has locked {RANGES_MAX} ranges of inode {op.ino}")
    _store(draft, session, op, before=own, after=after)
    return ()


def holders(kv: Reader, ino: int, *, flock: bool) -> Iterator[LockHolder]:
    """Yield every lock of one flavour on a file."""
    prefix = keys.file_locks(ino, flock=flock)
    for key, value in kv.scan(prefix, prefix_end(prefix)):
        session, owner = keys.number_at(key, 10), keys.number_at(key, 18)
        for r in RANGES.decode(value).ranges:
            yield LockHolder(
                session=session, owner=owner, start=r.start, end=r.end, kind=r.kind, pid=r.pid,
                flock=flock,
            )  # fmt: skip


def in_the_way(
    kv: Reader, ino: int, session: int, owner: int, start: int, end: int, kind: int, *, flock: bool
) -> Iterator[LockHolder]:
    """Yield the locks of others that a lock conflicts with."""
    for holder in holders(kv, ino, flock=flock):
        own = holder.session == session and holder.owner == owner
        if not own and overlaps(holder, start, end, kind):
            yield holder


def overlaps(held: LockHolder, start: int, end: int, kind: int) -> bool:
    """Tell whether a range of a kind conflicts with a lock of another owner."""
    if held.start > end or start > held.end:
        return False
    return _WRITE in (held.kind, kind)


def set_range(
    ranges: Sequence[Range], start: int, end: int, kind: int, pid: int
) -> tuple[Range, ...]:
    """Make `[start, end]` of kind (NONE: free): what is there is cut, what touches is joined."""
    below: list[Range] = []
    above: list[Range] = []
    for r in ranges:
        if r.start < start:
            below.append(r if r.end < start else Range(r.start, start - 1, r.kind, r.pid))
        if r.end > end:
            above.append(r if r.start > end else Range(end + 1, r.end, r.kind, r.pid))
    if kind == _NONE:
        return (*below, *above)
    if below and below[-1].end == start - 1 and below[-1].kind == kind:
        start = below.pop().start
    if above and above[0].start == end + 1 and above[0].kind == kind:
        end = above.pop(0).end
    return (*below, Range(start, end, kind, pid), *above)


def drop_session(draft: Draft, session: int) -> None:
    """Release every lock of a session."""
    if not draft.state.file_locks:
        return
    prefix = b"K" + keys.u64(session)
    for key, _ in list(draft.scan(prefix, prefix_end(prefix))):
        ino, owner = keys.number_at(key, 9), keys.number_at(key, 18)
        draft.delete(keys.file_lock(ino, session, owner, flock=bool(key[17])))
        draft.delete(key)
        draft.state.file_locks -= 1


def drop_inode(draft: Draft, ino: int) -> None:
    """Release every lock on an inode that goes."""
    if not draft.state.file_locks:
        return
    for flock in (False, True):
        prefix = keys.file_locks(ino, flock=flock)
        for key, _ in list(draft.scan(prefix, prefix_end(prefix))):
            session, owner = keys.number_at(key, 10), keys.number_at(key, 18)
            draft.delete(keys.file_lock_of(session, ino, owner, flock=flock))
            draft.delete(key)
            draft.state.file_locks -= 1


def conflict(ino: int, holder: LockHolder) -> FsError:
    """Make EAGAIN that names who holds the lock."""
    return FsError(
        errno.EAGAIN,
        f"process {holder.pid} of session {holder.session} has locked inode {ino}",
        session=holder.session, owner=holder.owner, start=holder.start, end=holder.end,
        kind=holder.kind, pid=holder.pid,
    )  # fmt: skip


def _check(op: Lock) -> None:
    if not 0 <= op.start <= op.end <= OFFSET_MAX:
        raise FsError(errno.EINVAL, f"[{op.start}, {op.end}] is no range")
    if op.kind not in (_READ, _WRITE, _NONE) or not 0 <= op.owner < 1 << 64:
        raise FsError(errno.EINVAL, f"lock kind {op.kind} of owner {op.owner} is none")
    if op.flock and (op.start, op.end) != (0, OFFSET_MAX):
        raise FsError(errno.EINVAL, "a flock is of the whole file")


def _store(
    draft: Draft, session: int, op: Lock, *, before: Sequence[Range], after: tuple[Range, ...]
) -> None:
    since = draft.state.epoch
    key = keys.file_lock(op.ino, session, op.owner, flock=op.flock)
    index = keys.file_lock_of(session, op.ino, op.owner, flock=op.flock)
    if after:
        draft.put(key, RANGES.encode(Ranges(after), since))
        if not before:
            draft.put(index, PRESENT.encode(Present(draft.now), since))
            draft.state.file_locks += 1
    elif before:
        draft.delete(key)
        draft.delete(index)
        draft.state.file_locks -= 1
