"""Sessions: numbered operations, each exactly once, and the answers kept for a repeat.

An operation applies when its number has no answer yet and is not below what the client says it has
seen (`acked`); one that has an answer is answered as it was. Numbers may come out of order: a
flush that a recall waits for must not queue behind an operation that waits for a recall, so a
client sends independent operations side by side. A retryable refusal (a lock, a lease still held)
is no answer: it is not recorded, the number stays open, and what follows in the same request is
refused alike. In a *chained* request everything behind the first refusal that is an answer is
refused with EIO: it was issued on the understanding that all before it succeeds. Expiry takes the
WRITE leases and file locks and refuses operations until the session opens again; numbers and
answers stay, so that a client that returns repeats what it does not know the fate of.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from cfs.core.api.meta import (
    Acquire,
    Attr,
    Commit,
    CopyRange,
    Create,
    Link,
    Lock,
    MakeOrphan,
    OpResult,
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
from cfs.core.errors import (
    CfsError,
    Corrupt,
    FsError,
    Malformed,
    Retryable,
    SessionExpired,
)
from cfs.core.kv import Reader
from cfs.core.meta import (
    attributes,
    copying,
    file_locks,
    files,
    keys,
    leases,
    limiting,
    namespace,
    renaming,
    xattrs,
)
from cfs.core.meta.commands import (
    ClientOp,
    ClientOps,
    DropLeases,
    ExpireSession,
    OpenSession,
    Refuse,
)
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import SESSION, Codec, Session
from cfs.core.meta.results import Done, Opened, Refused

ANSWERS_MAX = 1 << 14
"""Answers kept a session; a client that never says what it has seen loses the oldest."""
RESERVED_MAX = 1 << 16
"""Inode numbers reserved at once."""

ANSWER = Codec(OpResult)

_APPLY: dict[type[Any], Callable[[Draft, int, Any], tuple[Attr, ...]]] = {
    Create: namespace.create,
    Unlink: lambda draft, _, op: namespace.unlink(draft, op),
    Rmdir: lambda draft, _, op: namespace.rmdir(draft, op),
    Link: lambda draft, _, op: namespace.link(draft, op),
    Rename: lambda draft, _, op: renaming.rename(draft, op),
    SetAttr: lambda draft, _, op: attributes.set_attributes(draft, op),
    SetXattr: lambda draft, _, op: xattrs.set_xattr(draft, op),
    RemoveXattr: lambda draft, _, op: xattrs.remove_xattr(draft, op),
    Commit: files.commit,
    Acquire: leases.acquire,
    Release: leases.release,
    Lock: file_locks.apply,
    CopyRange: copying.copy,
    MakeOrphan: namespace.make_orphan,
    Charge: limiting.charge,
}


def find(kv: Reader, session: int) -> Session | None:
    """Give a session."""
    value = kv.get(keys.session(session))
    return None if value is None else SESSION.decode(value)


def answer(kv: Reader, session: int, seq: int) -> OpResult | None:
    """Give the recorded answer to an operation."""
    value = kv.get(keys.answer(session, seq))
    return None if value is None else ANSWER.decode(value)


def run(draft: Draft, command: ClientOps) -> list[OpResult]:
    """Apply `ClientOps`, committing the draft after every operation."""
    session = find(draft, command.session)
    if session is None or not session.open:
        error = SessionExpired(f"session {command.session} is not open in this shard").to_wire()
        return [OpResult(error=error)] * len(command.ops)
    results: list[OpResult] = []
    applied = session.applied
    broken = False
    for seq, op in enumerate(command.ops, command.first_seq):
        if seq < session.acked:
            results.append(_seen(command.session, seq))
            continue
        kept = answer(draft, command.session, seq)
        if kept is not None:
            results.append(kept)
            broken = broken or kept.error is not None
            continue
        if broken and command.chained:
            result = OpResult(error=FsError(errno.EIO, "an operation before it failed").to_wire())
            draft.put(keys.answer(command.session, seq), ANSWER.encode(result, draft.state.epoch))
            draft.commit(changed=False)
            results.append(result)
            applied = max(applied, seq)
            continue
        try:
            result = _apply(draft, command.session, seq, op)
        except Retryable as error:
            draft.rollback()
            refused = OpResult(error=error.to_wire())
            results.extend([refused] * (len(command.ops) - len(results)))
            break
        results.append(result)
        broken = broken or result.error is not None
        applied = max(applied, seq)
    acked = max(session.acked, min(command.acked, applied + 1), applied + 1 - ANSWERS_MAX)
    for seq in range(session.acked, acked):
        draft.delete(keys.answer(command.session, seq))
    after = Session(session.name, session.open, session.opened_hlc, applied, acked)
    if after != session:
        draft.put(keys.session(command.session), SESSION.encode(after, draft.state.epoch))
        draft.commit(changed=False)
    return results


def is_open(kv: Reader, session_id: int, seq: int) -> bool:
    """Tell whether an operation's number may still be answered for the first time."""
    session = find(kv, session_id)
    return session is not None and seq >= session.acked and answer(kv, session_id, seq) is None


def record(draft: Draft, session_id: int, seq: int, result: OpResult) -> None:
    """Record the answer to an operation whose number is open."""
    session = find(draft, session_id)
    assert session is not None
    since = draft.state.epoch
    draft.put(keys.answer(session_id, seq), ANSWER.encode(result, since))
    applied = max(session.applied, seq)
    after = Session(session.name, session.open, session.opened_hlc, applied, session.acked)
    draft.put(keys.session(session_id), SESSION.encode(after, since))


def refuse(draft: Draft, command: Refuse) -> Refused:
    """Apply `Refuse`."""
    if is_open(draft, command.session, command.seq):
        record(draft, command.session, command.seq, command.answer)
    kept = answer(draft, command.session, command.seq)
    return Refused(answer=kept or _seen(command.session, command.seq))


def drop_leases(draft: Draft, command: DropLeases) -> Done:
    """Apply `DropLeases`."""
    for ino in command.inos:
        if leases.holder(draft, ino) == command.session:
            leases.revoke(draft, command.session, ino)
    return Done()


def open_session(draft: Draft, command: OpenSession) -> Opened:
    """Apply `OpenSession`."""
    session = find(draft, command.session)
    if session is None:
        session = Session(command.name, True, draft.now, 0, 1)
    elif session.open:
        held = leases.held_by(draft, command.session)
        return Opened(applied_seq=session.applied, expired=False, leases=tuple(held))
    else:
        session = Session(session.name, True, draft.now, session.applied, session.acked)
    draft.put(keys.session(command.session), SESSION.encode(session, draft.state.epoch))
    return Opened(applied_seq=session.applied, expired=session.applied > 0, leases=())


def expire(draft: Draft, command: ExpireSession) -> Done:
    """Apply `ExpireSession`."""
    session = find(draft, command.session)
    if session is None or not session.open:
        return Done()
    for ino in leases.held_by(draft, command.session):
        leases.revoke(draft, command.session, ino)
    file_locks.drop_session(draft, command.session)
    after = Session(session.name, False, session.opened_hlc, session.applied, session.acked)
    draft.put(keys.session(command.session), SESSION.encode(after, draft.state.epoch))
    return Done()


def _apply(draft: Draft, session: int, seq: int, op: ClientOp) -> OpResult:
    key = keys.answer(session, seq)
    since = draft.state.epoch
    try:
        if type(op) is ReserveInos:
            result = OpResult(ino=_reserve(draft, op))
        else:
            result = OpResult(attrs=_APPLY[type(op)](draft, session, op))
        draft.put(key, ANSWER.encode(result, since))
        draft.ledger.enforced = True
        draft.commit()
    except (Retryable, Corrupt):
        raise
    except CfsError as error:
        result = OpResult(error=error.to_wire())
    except OverflowError as error:
        result = OpResult(
            error=FsError(errno.EINVAL, f"a number is out of range: {error}").to_wire()
        )
    else:
        return result
    draft.rollback()
    draft.put(key, ANSWER.encode(result, since))
    draft.commit(changed=False)
    return result


def _reserve(draft: Draft, op: ReserveInos) -> int:
    if not 0 < op.count <= RESERVED_MAX:
        raise FsError(errno.EINVAL, f"{op.count} numbers at once, at most {RESERVED_MAX}")
    return draft.reserve_inos(op.count)


def _seen(session: int, seq: int) -> OpResult:
    gone = Malformed(f"operation {seq} of session {session} was answered and the answer seen")
    return OpResult(error=gone.to_wire())
