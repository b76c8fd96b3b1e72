"""How a client's numbered operations pass through a led shard: the five stages of `led`.

Operations of one request that stay within the shard travel in one log entry; one that spans shards
runs as a transaction (`transact`) in its place. Numbers need not arrive in order: an operation took
effect if, and only if, the state holds its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Lease, OpResult
from cfs.core.errors import FsError, Locked, NotLeader, Unavailable, from_wire
from cfs.core.ids import Ino, shard_of
from cfs.core.kv import Reader
from cfs.core.meta import commands, read, results
from cfs.core.meta.conflict import touched
from cfs.fs.meta.latch import Key, ino_key, name_key
from cfs.fs.meta.leases import Session
from cfs.fs.meta.led import LedShard
from cfs.fs.meta.plan import EXCHANGE
from cfs.fs.meta.transact import Transactions

ATTEMPTS_MAX = 64
RECLAIM_RECORDS = 256
"""Records of a removed file that go with its last name in one entry; the reaper does the rest."""


class Mutations:
    """Executes `meta.mutate` for the shards that this node leads."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def run(self, led: LedShard, peer: Any, request: meta.Mutate) -> meta.MutateReply:
        """Apply the operations, each exactly once; see `meta.Mutate`."""
        session = led.table.known(request.session, peer)
        await led.rooms.make(self._transactions.ask, request.ops)
        freezer = led.freezer
        if freezer.epoch:
            await freezer.admitted(session.session, request)
        freezer.enter()
        try:
            return await self._run(led, session, request)
        finally:
            freezer.leave()

    async def _run(self, led: LedShard, session: Session, request: meta.Mutate) -> meta.MutateReply:
        if not led.group.readable():
            await led.group.read_barrier()  # everything the old leader committed is applied now
        results: list[OpResult] = []
        ops = tuple(_thinned(led, session.session, op) for op in request.ops)
        request = msgspec.structs.replace(request, ops=ops)
        at = 0
        while len(results) < len(ops):
            start = len(results)
            first_seq = request.first_seq + start
            remote = not request.chained and self._transactions.spans(led, ops[start])
            if remote:
                index, result = await self._run_spanning(led, session, request, start)
                results.append(result)
            else:
                stop = start + 1
                while stop < len(ops) and (
                    request.chained or not self._transactions.spans(led, ops[stop])
                ):
                    stop += 1
                index, answers = await self._run_local(
                    led, session, request, first_seq, ops[start:stop]
                )
                results.extend(answers)
            at = max(at, index)
        at = at or led.group.applied
        return meta.MutateReply(at=at, results=tuple(results), limits=led.rooms.version)

    async def _run_spanning(
        self, led: LedShard, session: Session, request: meta.Mutate, start: int
    ) -> tuple[int, OpResult]:
        op, seq = request.ops[start], request.first_seq + start
        names = dict.fromkeys(op_names(op), True)
        for attempt in range(ATTEMPTS_MAX):
            await led.latches.take(names)
            try:
                answer = read.answer(led.group.state, session.session, seq)
                if answer is not None:
                    return led.group.applied, answer
                if not self._transactions.spans(led, op):
                    break  # what made it span is gone: the shard can do it alone
                result = await self._try_spanning(led, session.session, seq, op)
            finally:
                led.latches.release(names)
            if isinstance(result, OpResult):
                return led.group.applied, result
            await self._give_way(led, result, seq, attempt)
        else:
            raise Unavailable("the names stay busy; try again")
        index, answers = await self._run_local(led, session, request, seq, (op,))
        return index, answers[0]

    async def _try_spanning(
        self, led: LedShard, session: int, seq: int, op: Any
    ) -> OpResult | Locked:
        try:
            return await self._transactions.attempt(led, session, seq, op)
        except Locked as lock:
            return lock
        except FsError as error:
            # a refusal is an answer too: the same number must not succeed later
            refusal = OpResult(error=error.to_wire())
            command = commands.Refuse(session=session, seq=seq, answer=refusal)
            _, (stored,) = await led.propose(command)
            return stored.answer if isinstance(stored, results.Refused) else refusal

    async def _give_way(self, led: LedShard, lock: Locked, seq: int, attempt: int) -> None:
        """Wait before trying again: for the lock met, or so long that two rivals part."""
        txid, coordinator = lock.detail.get("txid", b""), lock.detail.get("coordinator", -1)
        if txid and coordinator >= 0 and txid in led.open_parts:
            await led.wait_unlocked(txid, coordinator)
        else:
            spread = (led.shard * 31 + seq * 17 + attempt * 7) % 16
            await trio.sleep(min(0.5, 0.005 * (attempt + 1) * (1 + spread)))

    async def _run_local(
        self,
        led: LedShard,
        session: Session,
        request: meta.Mutate,
        first_seq: int,
        ops: Sequence[Any],
    ) -> tuple[int, list[OpResult]]:
        names = {key: True for op in ops for key in op_names(op)}
        if request.chained:
            # in a directory delegated to the session nobody else is between checks and log; whoever
            # latched a name there waits for these very operations
            own = session.session
            names = {key: True for key in names if not led.owns(own, key[1])}
        await led.latches.take(names)
        try:
            while True:
                index, answers = await self._attempt(led, session, request, first_seq, ops)
                lock = _lock_met(answers)
                if lock is None:
                    return index, answers
                await self._give_way(led, lock, first_seq, 0)
        finally:
            led.latches.release(names)

    async def _attempt(
        self,
        led: LedShard,
        session: Session,
        request: meta.Mutate,
        first_seq: int,
        ops: Sequence[Any],
    ) -> tuple[int, list[OpResult]]:
        state = led.group.state
        inos = _touched(state, ops)
        own = session.session
        acquired = {i for op in ops if isinstance(op, meta.Acquire) for i in (op.ino, *op.more)}
        await led.recalls.settled(own, acquired)
        await led.locks.make_way(own, ops)
        keys = {ino_key(i): i in acquired for i in inos if read.write_lease(state, i) != own}
        await led.latches.take(keys)
        try:
            led.table.mark_pending(own, inos)
            try:
                if await led.recalls.clear(own, inos) and not request.chained:
                    self._check_unchanged(led, ops, inos)
                if not led.group.is_leader:
                    raise NotLeader(f"shard {led.shard} moved", leader=led.group.leader)
                command = commands.ClientOps(
                    session=own,
                    first_seq=first_seq,
                    acked=request.acked,
                    ops=tuple(led.locks.in_order(own, ops)),
                    chained=request.chained,
                )
                with led.reaping_now(_last_names(state, ops)) as unnamed:
                    removals = [commands.Reclaim(ino=i, budget=RECLAIM_RECORDS) for i in unnamed]
                    index, (answers, *removed) = await led.propose(command, *removals)
            finally:
                led.table.clear_pending(own, inos)
        finally:
            led.latches.release(keys)
        gone = {
            i
            for i, r in zip(unnamed, removed, strict=True)
            if isinstance(r, results.Reclaimed) and r.done
        }
        self._after(led, session, ops, answers, gone)
        return index, answers

    def _check_unchanged(self, led: LedShard, ops: Sequence[Any], inos: Sequence[int]) -> None:
        """Raise `Locked` when what a recalled delegation brought changes what is touched."""
        more = set(_touched(led.group.state, ops)).difference(inos)
        if more or any(self._transactions.spans(led, op) for op in ops):
            raise Locked("the names changed meanwhile; try again", txid=b"", coordinator=-1)

    def _after(
        self,
        led: LedShard,
        session: Session,
        ops: Sequence[Any],
        answers: list[OpResult],
        gone: set[int],
    ) -> None:
        for op, answer in zip(ops, answers, strict=False):
            if answer.error is not None:
                continue
            match op:
                case meta.Create(lease=lease) if lease:
                    led.table.grant(session, answer.attrs[0].ino, lease & ~Lease.WRITE)
                case meta.Lock():
                    led.locks.applied(session.session, op)
                case meta.MakeOrphan(lease=lease):
                    led.table.grant(session, answer.attrs[0].ino, lease & ~Lease.WRITE)
                    led.orphaned(answer.attrs[0].ino)
                case meta.Link():
                    led.orphans.discard(op.ino)
                case meta.Unlink() | meta.Rmdir() | meta.Rename():
                    for attr in answer.attrs:
                        if attr.nlink == 0 and attr.ino not in gone:
                            led.orphaned(attr.ino)


def _thinned(led: LedShard, session: int, op: Any) -> Any:
    """Leave out of an `Acquire` what is not free to be had besides."""
    if not isinstance(op, meta.Acquire) or not op.more:
        return op
    table, state = led.table, led.group.state
    if table.unasserted or led.open_parts:
        return msgspec.structs.replace(op, more=())
    more = tuple(
        i
        for i in op.more
        if shard_of(Ino(i)) == led.shard
        and read.write_lease(state, i) in {None, session}
        and table.free(i, session)
        and not led.recalls.running(session, i)
    )
    return msgspec.structs.replace(op, more=more)


def _touched(state: Reader, ops: Sequence[Any]) -> tuple[int, ...]:
    return tuple(sorted({ino for op in ops for ino in touched(state, op).inos}))


def op_names(op: Any) -> list[Key]:
    """Give the latch keys of the names an operation touches."""
    match op:
        case meta.Create() | meta.Unlink() | meta.Rmdir() | meta.Link():
            return [name_key(op.parent, op.name)]
        case meta.Rename():
            return list({name_key(op.parent, op.name), name_key(op.new_parent, op.new_name)})
        case _:
            return []


def _last_names(state: Reader, ops: Sequence[Any]) -> list[int]:
    """List the files that would lose their last name: they can go in the same entry."""
    inos: list[int] = []
    for op in ops:
        match op:
            case meta.Unlink():
                entry = _entry(state, op.parent, op.name)
            case meta.Rename(flags=flags) if not flags & EXCHANGE:
                entry = _entry(state, op.new_parent, op.new_name)
            case _:
                continue
        attr = entry.attr if entry is not None else None
        if attr is not None and attr.nlink == 1:
            inos.append(attr.ino)
    return inos


def _entry(state: Reader, parent: int, name: bytes) -> meta.Entry | None:
    try:
        return read.lookup(state, parent, name)
    except FsError:
        return None  # the operation itself will say so


def _lock_met(answers: list[OpResult]) -> Locked | None:
    for answer in answers:
        if answer.error is not None and answer.error[0] == Locked.code:
            error = from_wire(answer.error)
            assert isinstance(error, Locked)
            return error
    return None
