"""Operations across shards, driven by the leader of the coordinating shard.

Two-phase commit whose every word is in a Raft log: the other shards *prepare* their parts, the
coordinator *decides* (its own part, and the answer to the client, in the same entry), the others
*finish*, all *forget*. Until the decision is in the log anyone may abort; after it anyone can
finish. The client is answered when every part is finished, so what it did is visible everywhere.

Whoever meets a lock waits a little for the driver and then finishes the transaction itself
(`resolve`); a leader's own scan (`recover`) does the same for locks that nobody meets.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Entry, Lease, OpResult
from cfs.core.errors import (
    CfsError,
    DeadlineExceeded,
    FsError,
    Locked,
    Retryable,
    Unavailable,
    from_wire,
)
from cfs.core.ids import Ino, ShardId, group_of, shard_of
from cfs.core.meta import commands, keys, read, results
from cfs.core.meta.commands import Attach
from cfs.core.meta.conflict import touched
from cfs.fs.meta import participant
from cfs.fs.meta.leaders import Leaders
from cfs.fs.meta.led import LedShard
from cfs.fs.meta.plan import NOREPLACE, Plan, home_of_directory, plan

_LOG = structlog.get_logger()

SPREAD_XATTR = b"user.cfs.spread"
STEP_S = 30.0
PATIENCE_S = 2.0
"""How long a lock is met before its transaction is finished by whoever waits."""


class Transactions:
    """The driver, and the finisher of what other drivers left."""

    def __init__(self, *, shard_count: Callable[[], int], led: Callable[[int], LedShard]) -> None:
        self.leaders: Leaders
        self._shard_count = shard_count
        self._led = led

    async def ask(self, group: int, method: str, request: Any, *, timeout_s: float) -> Any:
        """Call the leader of a group; see `Leaders.call`."""
        return await self.leaders.call(group, method, request, timeout_s=timeout_s)

    def spans(self, led: LedShard, op: Any) -> bool:
        """Tell whether an operation involves a shard besides this one, as the state is now."""
        match op:
            case meta.Create():
                spans = stat.S_ISDIR(op.mode) and self._home(led, op) != led.shard
                return spans and not op.ino
            case meta.Unlink() | meta.Rmdir() | meta.Link() | meta.Rename():
                return bool(touched(led.group.state, op).shards - {led.shard})
            case _:
                return False

    def _home(self, led: LedShard, op: meta.Create) -> int:
        spread = led.group.state.get(keys.xattr(op.parent, SPREAD_XATTR)) is not None
        return home_of_directory(op.parent, op.name, self._shard_count(), spread=spread)

    async def attempt(self, led: LedShard, session: int, seq: int, op: Any) -> OpResult:
        """Run `op` once. Raises FsError (its final answer), Locked (plan again), Retryable.

        What is planned from is read piece by piece: a refusal counts only if what it rests on is
        still so, else there was no moment at which all of it was. One that `op` is never answered
        with only says that the plan is out of date.
        """
        # what is planned from must be all there is: delegations of others come back first
        here = [i for i in touched(led.group.state, op).inos if not led.owns(session, i)]
        await led.recalls.recall(here, but=session, keep=Lease.READ)
        home = self._home(led, op) if isinstance(op, meta.Create) else led.shard
        space = _Space(led, self.leaders)
        try:
            made = await plan(space, op, home)
            if not made.order:
                return OpResult()
            return await self._begin(led, session, seq, made)
        except FsError as error:
            if _foreign(op, error) or await space.changed():
                message = f"names changed under the operation ({error}); try again"
                raise Locked(message, txid=b"", coordinator=-1) from error
            raise

    async def _begin(self, led: LedShard, session: int, seq: int, made: Plan) -> OpResult:
        number = session.to_bytes(8, "big") + seq.to_bytes(8, "big")
        # the term keeps a later leader's attempts apart from an earlier one's
        where = led.shard.to_bytes(2, "big") + led.term.to_bytes(8, "big")
        led.driven += 1
        txid = number + where + led.driven.to_bytes(8, "big")
        done = led.driving[txid] = trio.Event()
        try:
            return await self._drive(led, txid, session, seq, made)
        finally:
            del led.driving[txid]
            done.set()

    async def _drive(
        self, led: LedShard, txid: bytes, session: int, seq: int, made: Plan
    ) -> OpResult:
        others = sorted(s for s in made.steps if s != led.shard)
        prepared: dict[int, int] = {}
        new = 0
        try:
            for shard in others:
                prepared[shard] = 0
                steps = tuple(made.steps[shard])
                command = commands.TxnPrepare(
                    txid=txid, coordinator=led.shard, steps=steps, session=session
                )
                result = await self._command(shard, command)
                assert isinstance(result, results.Prepared)
                prepared[shard] = result.token
                new = _fill_made(made, result) or new
            decided = await participant.decide(
                led,
                commands.TxnDecide(
                    txid=txid,
                    commit=True,
                    session=session,
                    seq=seq,
                    answer=OpResult(ino=new),
                    steps=tuple(made.steps.get(led.shard, ())),
                ),
            )
            if isinstance(decided, results.Failed):
                raise _replan(from_wire(decided.error))
            assert isinstance(decided, results.Decided)
            if not decided.commit:
                error = from_wire(decided.error) if decided.error else Unavailable("aborted")
                raise _replan(error)
        except trio.Cancelled as error:
            led.background(self._abort, led, txid, prepared, error)
            raise
        except CfsError as error:
            await led.outliving(self._abort, led, txid, prepared, error)
            raise
        # decided: the parts are finished whoever still waits, by this node as long as it leads
        attrs = {(led.shard, i): a for i, a in enumerate(decided.attrs)}
        attrs |= await led.outliving(self._finish_parts, txid, prepared)
        found = [a for place in made.order if (a := attrs.get(place)) is not None]
        whole = len(found) == len(made.order)  # a part that others finished does not show them
        answer = OpResult(attrs=tuple(found) if whole else (), ino=new)
        led.background(self._forget, led, txid, others, answer)
        return answer

    async def _finish_parts(
        self, txid: bytes, prepared: dict[int, int]
    ) -> dict[tuple[int, int], Attr | None]:
        """Finish what was decided in the shards that prepared it; give the attributes by place."""
        attrs: dict[tuple[int, int], Attr | None] = {}
        for shard, token in prepared.items():
            finish = commands.TxnFinish(txid=txid, commit=True, token=token)
            finished = await self._command(shard, finish)
            assert isinstance(finished, results.Finished)
            attrs.update({(shard, i): a for i, a in enumerate(finished.attrs)})
        return attrs

    async def _abort(
        self, led: LedShard, txid: bytes, prepared: dict[int, int], cause: BaseException
    ) -> None:
        """Drop what was prepared; what cannot be reached now is resolved by those who meet it."""
        _LOG.debug("transaction_abort", txid=txid.hex(), cause=str(cause))
        if not prepared:
            return
        with contextlib.suppress(CfsError):
            _, (decided,) = await led.propose(commands.TxnDecide(txid=txid, commit=False))
            commit = isinstance(decided, results.Decided) and decided.commit
            for shard, token in prepared.items():
                finish = commands.TxnFinish(txid=txid, commit=commit, token=token)
                await self._command(shard, finish)
            if not commit:
                await self._forget(led, txid, list(prepared), None)

    async def _forget(
        self, led: LedShard, txid: bytes, others: list[int], answer: OpResult | None
    ) -> None:
        with contextlib.suppress(CfsError):
            await led.propose(commands.TxnForget(txid=txid, answer=answer))
            for shard in others:
                await self._command(shard, commands.TxnForget(txid=txid))

    async def _command(self, shard: int, command: commands.Command) -> results.Result:
        group = group_of(ShardId(shard))
        try:
            return await self.leaders.command(group, command, timeout_s=STEP_S)
        except Unavailable as error:  # of the shard's state: where no leader answers is retried
            raise _replan(error) from error

    # --- finishing what others began

    async def resolve(self, txid: bytes, coordinator: int, shard: int) -> None:
        """Wait for a lock in `shard` to go; finish its transaction when nobody else does."""
        led = self._led(shard)
        if not txid:
            await trio.sleep(0.01)
            return
        if await participant.wait_unlocked(led, txid, PATIENCE_S):
            return
        await self._finish_here(led, txid, coordinator)

    async def _finish_here(self, led: LedShard, txid: bytes, coordinator: int) -> None:
        group = group_of(ShardId(coordinator))
        wish = commands.TxnDecide(txid=txid, commit=False)
        decided = await self.leaders.command(group, wish, timeout_s=STEP_S)
        assert isinstance(decided, results.Decided)
        parts = read.open_transactions(led.group.state)
        token = next((p.token for p in parts if p.txid == txid), 0)
        finish = commands.TxnFinish(txid=txid, commit=decided.commit, token=token)
        await participant.finish(led, finish)
        _LOG.info("transaction_resolve", txid=txid.hex(), commit=decided.commit)

    async def recover(self, led: LedShard) -> None:
        """Look for transactions that their driver left behind, for ever."""
        seen: set[bytes] = set()
        while True:
            await trio.sleep(PATIENCE_S)
            still: set[bytes] = set()
            for open_ in read.open_transactions(led.group.state):
                if open_.txid in led.driving:
                    continue
                if open_.txid not in seen:
                    still.add(open_.txid)
                    continue
                try:
                    await self._recover_one(led, open_)
                except (Retryable, DeadlineExceeded) as error:
                    _LOG.info("transaction_recover_failed", error=str(error))
                    still.add(open_.txid)
            seen = still

    async def _recover_one(self, led: LedShard, open_: read.OpenTransaction) -> None:
        if open_.coordinator != led.shard:
            await self._finish_here(led, open_.txid, open_.coordinator)
            return
        # the coordinator does not know who took part: every shard is told, finishing is idempotent
        result = await participant.decide(led, commands.TxnDecide(txid=open_.txid, commit=False))
        assert isinstance(result, results.Decided)
        others = [s for s in range(self._shard_count()) if s != led.shard]
        for shard in others:
            finish = commands.TxnFinish(txid=open_.txid, commit=result.commit)
            await self._command(shard, finish)
        await self._forget(led, open_.txid, others, None)


class _Space:
    """Reads of the coordinator: its own shard from state, others by call."""

    def __init__(self, led: LedShard, leaders: Leaders) -> None:
        self._led = led
        self._leaders = leaders
        self._seen: dict[tuple[int, bytes], int] = {}
        self._parents: dict[int, int] = {}
        """Of directories whose attributes were read."""

    async def lookup(self, parent: int, name: bytes) -> Entry | None:
        entry = await self._look(parent, name)
        self._seen[parent, name] = entry.ino if entry is not None else 0
        return entry

    async def changed(self) -> bool:
        """Tell whether a name that was looked up, or a directory, lies elsewhere by now."""
        try:
            for (parent, name), ino in self._seen.items():
                entry = await self._look(parent, name)
                if (entry.ino if entry is not None else 0) != ino:
                    return True
            for directory, parent in self._parents.items():
                if (await self._attr(directory)).parent != parent:
                    return True
        except FsError:
            return True  # it is gone
        return False

    async def _look(self, parent: int, name: bytes) -> Entry | None:
        shard = shard_of(Ino(parent))
        if shard == self._led.shard:
            self._check_free(parent, name)
            return read.lookup(self._led.group.state, parent, name)
        request = meta.Lookup(shard=shard, session=0, parent=parent, name=name, lease=False)
        reply = await self._leaders.call(group_of(shard), "meta.lookup", request, timeout_s=STEP_S)
        entry: Entry | None = reply.entry
        return entry

    async def attr(self, ino: int) -> Attr:
        attr = await self._attr(ino)
        if stat.S_ISDIR(attr.mode):
            self._parents[ino] = attr.parent
        return attr

    async def _attr(self, ino: int) -> Attr:
        shard = shard_of(Ino(ino))
        if shard == self._led.shard:
            return read.attr(self._led.group.state, ino)
        request = meta.GetAttr(shard=shard, session=0, ino=ino)
        reply = await self._leaders.call(group_of(shard), "meta.getattr", request, timeout_s=STEP_S)
        attr: Attr = reply.attr
        return attr

    def _check_free(self, parent: int, name: bytes) -> None:
        """Raise Locked where a transaction may have changed the name: other shards wait, too."""
        state = self._led.group.state
        lock = read.locked(state, (parent, name)) if self._led.open_parts else None
        if lock:
            txid, coordinator = lock
            raise Locked(f"a transaction holds {name!r}", txid=txid, coordinator=coordinator)


def _foreign(op: Any, error: FsError) -> bool:
    """Tell whether `op` is never answered so: a name came to be where it is to be put."""
    plain = isinstance(op, meta.Rename) and not op.flags & NOREPLACE
    return plain and error.errno == errno.EEXIST


def _replan(error: CfsError) -> CfsError:
    """Give `Locked`, so that a plan is made anew, for what a shard's state says has changed."""
    if type(error) is not Unavailable or error.detail.get("answered"):
        return error
    return Locked(error.message, txid=b"", coordinator=-1)


def _fill_made(made: Plan, prepared: results.Prepared) -> int:
    """Put the number of the inode that a shard is about to make into the name; give it, or 0."""
    new: int = next((i for i in prepared.inos if i), 0)
    if not new:
        return 0
    for steps in made.steps.values():
        for index, step in enumerate(steps):
            if isinstance(step, Attach) and step.ino == 0:
                steps[index] = msgspec.structs.replace(step, ino=new)
    return new
