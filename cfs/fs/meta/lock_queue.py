"""Who waits for file locks at a shard's leader: first come, first served, and no circle.

Nothing here is replicated. A waiter asks (`meta.lockwait`), is told after a while in any case, and
asks again; it keeps its place meanwhile, and for a few seconds after its client was last heard. How
long it has waited travels with it, so a new leader builds the same order. Told that its turn has
come, the client takes the lock by a numbered operation; until then the place reserves it.

A waiter's turn has come when no lock of another owner is in its way, and nobody who waits longer
wants what conflicts; but one who waits, through others, for this very owner's locks does not count:
it could not go first. So only locks that are held can close a circle, and a circle of POSIX locks
is refused with EDEADLK. Circles through several shards are found by `lock_graph`.

A session in the way that has stopped renewing is expired: its locks go with it.
"""

from __future__ import annotations

import errno
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import trio

from cfs.core.api.locking import LockEdge
from cfs.core.api.meta import Lock, LockHolder, LockKind, LockWait, LockWaitReply
from cfs.core.errors import FsError, NotLeader
from cfs.core.meta import read
from cfs.fs.meta.host import Group
from cfs.fs.meta.leases import LeaseTable
from cfs.fs.meta.recalls import Recalls

POLL_S = 2.0
"""A waiter is answered after that: well within one attempt of a client."""
LOOK_S = 0.5
"""How often a waiter looks whether a session in its way has died, or a place before it lapsed."""
PLACE_S = 3.0
"""A place is kept that long after its client was answered or lost."""
WAITERS_MAX = 16_384
"""Waiters of one shard; the next is refused with ENOLCK."""
GRAPH_MAX = 10_000
"""Owners looked at in one search for a circle."""

Key = tuple[int, bool, int]


class Waiter:
    """One blocking request."""

    __slots__ = (
        "asking", "deadlocked", "end", "event", "flock", "ino", "kind", "leave_at", "owner",
        "session", "since", "start", "ticket",
    )  # fmt: skip

    def __init__(self, request: LockWait, now: float) -> None:
        self.session = request.session
        self.ticket = request.ticket
        self.owner = request.owner
        self.flock = request.flock
        self.ino = request.ino
        self.start = request.start
        self.end = request.end
        self.kind = request.kind
        self.since = now - request.waited_ms / 1000
        self.leave_at = now + PLACE_S
        self.asking = 0
        self.deadlocked = False
        self.event = trio.Event()

    @property
    def key(self) -> Key:
        """Name the owner."""
        return self.session, self.flock, self.owner

    def lapsed(self, now: float) -> bool:
        """Tell whether the place is not kept any more."""
        return not self.asking and self.leave_at <= now

    def conflicts(self, other: Waiter | Lock) -> bool:
        """Tell whether two wishes of different owners exclude each other."""
        return (
            self.flock == other.flock
            and self.start <= other.end
            and other.start <= self.end
            and LockKind.WRITE in (self.kind, other.kind)
        )


class LockQueue:
    """All who wait in one led shard."""

    def __init__(self, *, group: Group, table: LeaseTable, recalls: Recalls) -> None:
        self._group = group
        self._term = group.term
        self._table = table
        self._recalls = recalls
        self._queues: dict[int, list[Waiter]] = {}
        self._by_owner: dict[Key, list[Waiter]] = {}
        self._count = 0
        self._sweep_at = 0.0

    # --- waiting

    async def wait(self, request: LockWait) -> LockWaitReply:
        """Answer `meta.lockwait`; see `LockWait`. Cancelled: the place lapses in a while."""
        if not self._group.readable():
            await self._group.read_barrier()
        waiter = self._find(request)
        if request.leave:
            if waiter is not None:
                self._remove(waiter)
                self.changed(waiter.ino)
            return LockWaitReply(granted=False)
        if waiter is None:
            waiter = self._enter(request)
        waiter.asking += 1
        try:
            granted = await self._turn(waiter, trio.current_time() + POLL_S)
        finally:
            waiter.asking -= 1
            waiter.leave_at = trio.current_time() + PLACE_S
        return LockWaitReply(granted=granted)

    async def _turn(self, waiter: Waiter, until: float) -> bool:
        while True:
            if not self._group.is_leader or self._group.term != self._term:
                raise NotLeader("the shard changed hands", leader=self._group.leader)
            if trio.current_time() >= self._sweep_at:
                self.sweep()
            holders = list(self._holders(waiter))
            if not holders and not self._is_behind(waiter):
                return True
            if waiter.deadlocked or (
                not waiter.flock and self._leads(waiter.key, waiter.key, queued=False)
            ):
                self._remove(waiter)
                self.changed(waiter.ino)
                raise FsError(errno.EDEADLK, "each waits for a lock of the next, in a circle")
            if await self._expire_dead(holders):
                continue
            now = trio.current_time()
            if now >= until:
                return False
            if waiter.event.is_set():
                waiter.event = trio.Event()
            with trio.move_on_at(min(until, now + LOOK_S)):
                await waiter.event.wait()

    # --- what the operations of clients mean for those who wait

    def in_order(self, session: int, ops: Sequence[Any]) -> Sequence[Any]:
        """Mark locks that would overtake somebody, so that they are refused."""
        if not self._queues:
            return ops
        return tuple(
            msgspec.structs.replace(op, yields=True)
            if type(op) is Lock and op.kind != LockKind.NONE and self._overtakes(session, op)
            else op
            for op in ops
        )

    async def make_way(self, session: int, ops: Iterable[Any]) -> None:
        """Expire dead sessions whose locks stand in the way of what is asked."""
        state = self._group.state
        for op in ops:
            if type(op) is Lock and op.kind != LockKind.NONE:
                await self._expire_dead(
                    read.locks_in_the_way(
                        state, op.ino, session, op.owner, op.start, op.end, op.kind, flock=op.flock
                    )
                )

    def applied(self, session: int, op: Lock) -> None:
        """Take in that a lock was taken or given up: whoever can go on now is told."""
        queue = self._queues.get(op.ino)
        if not queue:
            return
        for waiter in queue:
            if waiter.key == (session, op.flock, op.owner) and (
                (waiter.start, waiter.end, waiter.kind) == (op.start, op.end, op.kind)
            ):
                self._remove(waiter)
                break
        self.changed(op.ino)

    def changed(self, ino: int | None = None) -> None:
        """Tell those whose turn has come, on one file or on all."""
        for one in list(self._queues) if ino is None else (ino,):
            for waiter in self._queues.get(one, ()):
                if waiter.asking and not self._is_held(waiter) and not self._is_behind(waiter):
                    waiter.event.set()

    def sweep(self) -> None:
        """Drop the places that have lapsed."""
        now = trio.current_time()
        self._sweep_at = now + LOOK_S / 2
        lapsed = [w for queue in self._queues.values() for w in queue if w.lapsed(now)]
        for waiter in lapsed:
            self._remove(waiter)

    # --- circles through several shards

    def edges(self, waited_s: float) -> tuple[LockEdge, ...]:
        """List who waits for whom, of POSIX owners that have waited for so long."""
        horizon = trio.current_time() - waited_s
        return tuple(
            LockEdge(
                session=w.session,
                owner=w.owner,
                ticket=w.ticket,
                holders=tuple(dict.fromkeys((h.session, h.owner) for h in self._holders(w))),
            )
            for queue in self._queues.values()
            for w in queue
            if not w.flock and w.since <= horizon
        )

    def refuse(self, victims: Iterable[tuple[int, int]]) -> None:
        """Let these waits, by session and ticket, end with EDEADLK."""
        chosen = set(victims)
        for queue in self._queues.values():
            for waiter in queue:
                if (waiter.session, waiter.ticket) in chosen:
                    waiter.deadlocked = True
                    waiter.event.set()

    # --- inside

    def _find(self, request: LockWait) -> Waiter | None:
        for waiter in self._queues.get(request.ino, ()):
            if (waiter.session, waiter.ticket) == (request.session, request.ticket):
                return waiter
        return None

    def _enter(self, request: LockWait) -> Waiter:
        if self._count >= WAITERS_MAX:
            self.sweep()
        if self._count >= WAITERS_MAX:
            raise FsError(errno.ENOLCK, f"{WAITERS_MAX} requests wait for locks already")
        waiter = Waiter(request, trio.current_time())
        insort(self._queues.setdefault(waiter.ino, []), waiter, key=lambda w: w.since)
        self._by_owner.setdefault(waiter.key, []).append(waiter)
        self._count += 1
        return waiter

    def _remove(self, waiter: Waiter) -> None:
        queue = self._queues.get(waiter.ino, [])
        if waiter not in queue:
            return
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.ino]
        own = self._by_owner[waiter.key]
        own.remove(waiter)
        if not own:
            del self._by_owner[waiter.key]
        self._count -= 1

    def _holders(self, waiter: Waiter) -> Iterator[LockHolder]:
        return read.locks_in_the_way(
            self._group.state, waiter.ino, waiter.session, waiter.owner, waiter.start, waiter.end,
            waiter.kind, flock=waiter.flock,
        )  # fmt: skip

    def _is_held(self, waiter: Waiter) -> bool:
        return next(self._holders(waiter), None) is not None

    def _earlier(self, waiter: Waiter) -> Iterator[Waiter]:
        now = trio.current_time()
        for other in self._queues.get(waiter.ino, ()):
            if other is waiter:
                return
            if other.key != waiter.key and other.conflicts(waiter) and not other.lapsed(now):
                yield other

    def _is_behind(self, waiter: Waiter) -> bool:
        return any(not self._leads(w.key, waiter.key, queued=True) for w in self._earlier(waiter))

    def _overtakes(self, session: int, op: Lock) -> bool:
        """Tell whether somebody goes first: a longer waiter; before a try, one whose turn it is."""
        now = trio.current_time()
        key = (session, op.flock, op.owner)
        for waiter in self._queues.get(op.ino, ()):
            if waiter.key == key:
                if (waiter.start, waiter.end, waiter.kind) == (op.start, op.end, op.kind):
                    return False
                continue
            if waiter.lapsed(now) or not waiter.conflicts(op):
                continue
            if self._leads(waiter.key, key, queued=True):
                continue
            if op.waits or not self._is_held(waiter):
                return True
        return False

    def _leads(self, start: Key, goal: Key, *, queued: bool) -> bool:
        """Tell whether an owner waits for another, through locks held and (`queued`) through line.

        A search that grows too large says no: a circle is found when somebody next asks.
        """
        seen = {start}
        stack = [start]
        now = trio.current_time()
        while stack and len(seen) < GRAPH_MAX:
            for waiter in self._by_owner.get(stack.pop(), ()):
                if waiter.lapsed(now):
                    continue
                keys = [(h.session, h.flock, h.owner) for h in self._holders(waiter)]
                if queued:
                    keys += [w.key for w in self._earlier(waiter)]
                if goal in keys:
                    return True
                fresh = [key for key in keys if key not in seen]
                seen.update(fresh)
                stack.extend(fresh)
        return False

    async def _expire_dead(self, holders: Iterable[LockHolder]) -> bool:
        """Expire sessions that hold locks and are not to be heard of any more."""
        now = trio.current_time()
        dead = {h.session for h in holders if self._is_dead(h.session, now)}
        for session in dead:
            entry = self._table.sessions.get(session)
            if entry is not None:
                entry.doomed = True
            await self._recalls.expire(session)
        return bool(dead)

    def _is_dead(self, session: int, now: float) -> bool:
        entry = self._table.sessions.get(session)
        if entry is None:
            return session not in self._table.unasserted or now >= self._recalls.term_over_at
        return now >= entry.trusted_until()
