"""Cross-shard transactions: two-phase commit, presumed abort, every message safe to repeat.

    prepare   validate all steps, take their locks, remember them: in doubt until finished
    decide    at the coordinator, the first decision stands and answers the client's operation
    finish    apply or drop the steps, release the locks, remember the outcome
    forget    coordinator first, then the others: after it a late prepare only aborts

Anyone who meets an old lock may ask the coordinator to decide "abort": either that stands, or the
answer is the decision made before, and finishing brings the part to it.
"""

from __future__ import annotations

from cfs.core.api.meta import Attr
from cfs.core.errors import CfsError, Corrupt, Refused, SessionExpired, Unavailable
from cfs.core.meta import keys, sessions, steps
from cfs.core.meta.commands import Step, TxnDecide, TxnFinish, TxnForget, TxnPrepare
from cfs.core.meta.draft import Draft
from cfs.core.meta.intents import DECISION, INTENT, Decision, Intent, Phase, decision, intent
from cfs.core.meta.results import Decided, Done, Finished, Prepared

TXID_BYTES_MAX = 64


def prepare(draft: Draft, command: TxnPrepare) -> Prepared:
    """Apply `TxnPrepare`. Raises the errno of the step that cannot be, `Locked`, `Unavailable`.

    `Unavailable`: what a step expects to find has changed; plan again. `Refused`: the transaction
    is over.
    """
    _check_txid(command.txid)
    before = intent(draft, command.txid)
    if before is not None:
        if before.phase is Phase.PREPARED:
            if (before.steps, before.coordinator) != (command.steps, command.coordinator):
                raise Unavailable("another plan is prepared under this transaction's id")
            return Prepared(inos=before.inos, token=before.hlc)
        raise Refused("the transaction is over", committed=before.phase is Phase.COMMITTED)
    decided = decision(draft, command.txid)
    if decided is not None:
        raise Refused("the transaction is over", committed=decided.commit)
    inos = _hold(draft, command.txid, command.coordinator, command.steps)
    draft.ledger.enforced = True
    _remember(
        draft,
        command.txid,
        Intent(
            Phase.PREPARED, command.coordinator, command.session, command.steps, inos, draft.now
        ),
    )
    return Prepared(inos=inos, token=draft.now)


def decide(draft: Draft, command: TxnDecide) -> Decided:
    """Apply `TxnDecide`.

    A part that cannot be leaves the client's operation open: whether its refusal is the answer, or
    only says that the plan is out of date, is its driver's to judge.
    """
    _check_txid(command.txid)
    before = decision(draft, command.txid)
    if before is not None:
        return Decided(commit=before.commit)
    own = intent(draft, command.txid)
    inos: tuple[int, ...] = ()
    error: CfsError | None = None
    if command.commit:
        try:
            _check_number(draft, command)
            if own is not None and own.phase is Phase.ABORTED:
                raise Unavailable("the transaction was aborted here")
            if command.steps and own is None:
                inos = _hold(draft, command.txid, draft.shard, command.steps)
        except Corrupt:
            raise
        except CfsError as refused:
            draft.rollback()
            error = refused
    commit = command.commit and error is None
    attrs: tuple[Attr | None, ...] = ()
    if own is not None:
        if own.phase is Phase.PREPARED:
            inos = own.inos
            attrs = _settle(draft, command.txid, own, commit=commit)
    elif commit and command.steps:
        part = Intent(Phase.PREPARED, draft.shard, command.session, command.steps, inos, draft.now)
        attrs = _settle(draft, command.txid, part, commit=True)
    seq = _answer(draft, command) if error is None else 0
    record = Decision(commit, command.session if seq else 0, seq, draft.now, draft.shard)
    draft.put(keys.decision(command.txid), DECISION.encode(record, draft.state.epoch))
    wire = None if error is None else error.to_wire()
    return Decided(commit=commit, error=wire, attrs=attrs, inos=inos if commit else ())


def finish(draft: Draft, command: TxnFinish) -> Finished:
    """Apply `TxnFinish`. An abort of a part not yet prepared is remembered.

    A commit of one that is not here is a repeat: a decision to commit follows every preparation,
    so the part was finished and forgotten.
    """
    _check_txid(command.txid)
    part = intent(draft, command.txid)
    if part is None:
        if command.commit:
            return Finished()
        part = Intent(Phase.ABORTED, 0, 0, (), (), draft.now)
        _remember(draft, command.txid, part)
        return Finished()
    if part.phase is not Phase.PREPARED or command.token not in {0, part.hlc}:
        return Finished()
    return Finished(attrs=_settle(draft, command.txid, part, commit=command.commit))


def forget(draft: Draft, command: TxnForget) -> Done:
    """Apply `TxnForget`. Raises `Refused` while this shard's part is in doubt."""
    part = intent(draft, command.txid)
    if part is not None:
        if part.phase is Phase.PREPARED:
            raise Refused("the transaction is still prepared here: finish it first")
        draft.delete(keys.intent(command.txid))
    decided = decision(draft, command.txid)
    if decided is not None:
        draft.delete(keys.decision(command.txid))
        if command.answer is not None and decided.seq and decided.commit:
            key = keys.answer(decided.session, decided.seq)
            if draft.get(key) is not None:
                value = sessions.ANSWER.encode(command.answer, draft.state.epoch)
                draft.put(key, value)
    return Done()


def _hold(draft: Draft, txid: bytes, coordinator: int, wanted: tuple[Step, ...]) -> tuple[int, ...]:
    for step in wanted:
        steps.check(draft, step)
    return tuple(steps.hold(draft, txid, coordinator, step) for step in wanted)


def _settle(draft: Draft, txid: bytes, part: Intent, *, commit: bool) -> tuple[Attr | None, ...]:
    for step in part.steps:
        steps.release(draft, txid, step)
    phase = Phase.COMMITTED if commit else Phase.ABORTED
    _remember(draft, txid, Intent(phase, part.coordinator, part.session, (), (), draft.now))
    if not commit:
        return ()
    touched = [
        steps.apply(draft, step, ino) for step, ino in zip(part.steps, part.inos, strict=True)
    ]
    return tuple(None if ino is None else draft.inode(ino).attr(ino) for ino in touched)


def _check_number(draft: Draft, command: TxnDecide) -> None:
    """Raise when the client's operation was answered before."""
    if not command.seq:
        return
    session = sessions.find(draft, command.session)
    if session is None:
        raise SessionExpired(f"session {command.session} is not open in this shard")
    if not sessions.is_open(draft, command.session, command.seq):
        raise Unavailable(f"operation {command.seq} was answered already", answered=True)


def _answer(draft: Draft, command: TxnDecide) -> int:
    """Record the answer to the client's operation and give its number, 0 if none was recorded."""
    if not command.seq or command.answer is None:
        return 0
    if not sessions.is_open(draft, command.session, command.seq):
        return 0
    sessions.record(draft, command.session, command.seq, command.answer)
    return command.seq


def _remember(draft: Draft, txid: bytes, part: Intent) -> None:
    draft.put(keys.intent(txid), INTENT.encode(part, draft.state.epoch))


def _check_txid(txid: bytes) -> None:
    if not 0 < len(txid) <= TXID_BYTES_MAX:
        raise Refused(f"a transaction id has 1 to {TXID_BYTES_MAX} bytes, not {len(txid)}")
