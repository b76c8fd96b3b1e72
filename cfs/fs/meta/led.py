"""One shard as its leader serves it: leases around a replicated state machine.

A mutation goes through five stages, and the order is what makes caches coherent:

1. *latch* the names it touches, then the inodes (`latch`);
2. mark those inodes *pending*: no other session is granted a lease on them from here on;
3. *recall* conflicting leases of other sessions (`recalls`), and wait until each has answered, or
   its trust has ended and the session was expired in the log;
4. *propose*, and wait until applied;
5. clear the marks, let go of the latches, answer.

A read never waits for stage 3 of somebody else's mutation: it is answered from the state before
it, without a lease. It waits for a foreign WRITE lease to come down, and for a cross-shard
transaction that holds what it looks at.

A new leader does not know who holds READ leases. Until every session of the replicated state has
reasserted, or a lease term has passed, mutations wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Held, Lease
from cfs.core.errors import (
    CfsError,
    Corrupt,
    NotLeader,
    Retryable,
    SessionExpired,
    Unavailable,
)
from cfs.core.meta import commands, read
from cfs.fs.meta.freezer import Freezer
from cfs.fs.meta.host import Group
from cfs.fs.meta.latch import Latches
from cfs.fs.meta.leases import FORGET_S, TERM_MS, LeaseTable, Session
from cfs.fs.meta.lock_graph import Circles
from cfs.fs.meta.lock_queue import LockQueue
from cfs.fs.meta.recalls import Recalls
from cfs.fs.meta.rooms import Rooms
from cfs.net.ports import WallClock

_LOG = structlog.get_logger()
_T = TypeVar("_T")

ORPHANS_MAX = 1 << 20

Resolve = Callable[[bytes, int, int], Awaitable[None]]


class MustWaitError(Exception):
    """A read cannot be answered yet: recall WRITE leases, wait for a transaction or an event."""

    def __init__(
        self,
        inos: Sequence[int] = (),
        lock: tuple[bytes, int] | None = None,
        event: trio.Event | None = None,
    ) -> None:
        super().__init__()
        self.inos = inos
        self.lock = lock
        self.event = event


class LedShard:
    """A shard for one term of this node's leadership."""

    def __init__(self, *, shard: int, group: Group, clock: WallClock, resolve: Resolve) -> None:
        self.shard = shard
        self.group = group
        self.term = group.term
        self.table = LeaseTable()
        self.latches = Latches()
        self.recalls = Recalls(
            shard=shard,
            group=group,
            table=self.table,
            propose=self.propose,
            on_unpinned=self.wake_reaper,
        )
        self.locks = LockQueue(group=group, table=self.table, recalls=self.recalls)
        self.freezer = Freezer(group=group, recalls=self.recalls, propose=self.propose)
        self.rooms = Rooms(shard=shard, group=group)
        self.lock_circles = Circles()
        """Of all shards; used on shard 0."""
        self.orphans: set[int] = set()
        """Unlinked inodes, to be reclaimed once nobody pins them."""
        self.reap = trio.Event()
        self._reaping: dict[int, trio.Event] = {}
        self.open_parts: dict[bytes, tuple[int, ...]] = {}
        """Prepared transactions: the inodes that are pending until they are finished."""
        self.driving: dict[bytes, trio.Event] = {}
        """Transactions this leader drives now."""
        self.driven = 0
        """Transactions this leader has begun: no two of a term have one id."""
        self.unlocked: dict[bytes, trio.Event] = {}
        self._clock = clock
        self._resolve = resolve
        self._nursery: trio.Nursery | None = None
        self._adopt()

    def _adopt(self) -> None:
        """Take over what the replicated state says of the old leader's term."""
        state = self.group.state
        self.orphans.update(read.orphans(state, 0, ORPHANS_MAX))
        self.table.unasserted = {s for s, is_ in read.sessions(state).items() if is_.open}
        for part in read.open_transactions(state):
            if part.inos:
                self.open_parts[part.txid] = part.inos
                self.table.mark_pending(0, part.inos)

    async def run(self, *workers: Callable[[LedShard], Awaitable[None]]) -> None:
        """Run what belongs to this term until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._forget_silent)
                for worker in workers:
                    nursery.start_soon(worker, self)
        finally:
            self._nursery = None

    def background(self, function: Callable[..., Awaitable[None]], *args: Any) -> bool:
        """Run something that nobody waits for, until this term ends; false: it has ended."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(function, *args)
        return True

    async def outliving(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Do something to its end, within this term, even if the request it is for is given up.

        Gives its answer and raises its errors. Raises Unavailable when the term ended first.
        """
        done = trio.Event()
        answers: list[Any] = []
        errors: list[Exception] = []

        async def run() -> None:
            try:
                answers.append(await function(*args))
            except Exception as error:  # noqa: BLE001 - it is for whoever waits
                errors.append(error)
                if not isinstance(error, CfsError):
                    _LOG.exception("background_failed", shard=self.shard)
            finally:
                done.set()

        if self.background(run):
            await done.wait()
        for error in errors:
            raise error
        for answer in answers:
            return answer
        raise Unavailable(f"this node no longer leads shard {self.shard}")

    # --- proposing

    async def propose(self, *batch: commands.Command) -> tuple[int, list[Any]]:
        """Replicate commands as one entry; give (index, one result a command) once applied.

        Raises NotLeader, Unavailable (the outcome is unknown).
        """
        if self.group.term != self.term:
            raise NotLeader(f"shard {self.shard} changed hands", leader=self.group.leader)
        entry = commands.Batch(self._clock.time_ns(), batch)
        answer = await self.group.propose(commands.encode_batch(entry))
        if any(type(command) is commands.ExpireSession for command in batch):
            self.locks.changed()
        return answer

    # --- reads

    def serve_read(self, now: Callable[[], _T]) -> Any:
        """Answer `now()` at once when nothing has to be waited for, else an awaitable of it."""
        if self.group.readable():
            try:
                return now()
            except MustWaitError as wait:
                return self._read_later(now, wait)
            except Corrupt as error:
                return self._judge(error)
        return self._read_later(now, None)

    async def _judge(self, error: Corrupt) -> Any:
        """Decide about state that contradicts itself: damage on this disk, or the same on all.

        Damage stops the node by name, and whoever asked finds another. Otherwise raises `error`.
        """
        _LOG.error("state_contradicts_itself", shard=self.shard, error=str(error))
        await self.group.recount()
        raise error

    async def _read_later(self, now: Callable[[], _T], wait: MustWaitError | None) -> _T:
        while True:
            if wait is not None:
                if wait.lock:
                    await self.wait_unlocked(*wait.lock)
                if wait.event is not None:
                    await wait.event.wait()
                if wait.inos:
                    await self.recalls.recall(wait.inos, but=0, keep=Lease.READ)
            await self.group.read_barrier()
            try:
                return now()
            except MustWaitError as again:
                wait = again
            except Corrupt as error:
                return await self._judge(error)  # type: ignore[no-any-return]

    def check_readable(self, session: int, inos: Iterable[int], *, in_doubt: bool = True) -> None:
        """Raise `MustWaitError` when another session may have newer data, or a lock is held.

        Not `in_doubt`: locks do not matter.
        """
        state = self.group.state
        foreign: list[int] = []
        for ino in inos:
            holder = read.write_lease(state, ino)
            if holder is not None and holder != session:
                foreign.append(ino)
            if in_doubt and self.open_parts:
                lock = read.locked(state, ino)
                if lock:
                    raise MustWaitError(lock=lock)
        if foreign:
            raise MustWaitError(foreign)

    async def wait_unlocked(self, txid: bytes, coordinator: int) -> None:
        """Wait for a transaction's lock to go, finishing the transaction if need be."""
        await self._resolve(txid, coordinator, self.shard)

    def owns(self, session: int, ino: int) -> bool:
        """Tell whether a session holds WRITE on an inode: nobody else can be at work on it."""
        return read.write_lease(self.group.state, ino) == session

    def grant(self, session: Session | None, ino: int, modes: int) -> int:
        """Grant volatile modes; give all the session may rely on from now, WRITE included."""
        if session is None:
            return 0
        if self.recalls.running(session.session, ino):
            modes &= Lease.OPEN
            return self.table.grant(session, ino, modes) & Lease.OPEN
        held = self.table.grant(session, ino, modes)
        if read.write_lease(self.group.state, ino) == session.session:
            held |= Lease.WRITE | Lease.READ
        return held

    # --- orphans

    @contextmanager
    def reaping_now(self, inos: Sequence[int]) -> Iterator[list[int]]:
        """Give those of `inos` that nobody pins; whoever would pin one meanwhile waits."""
        free = [i for i in dict.fromkeys(inos) if not self.table.opened(i)]
        done = trio.Event()
        for ino in free:
            self._reaping[ino] = done
        try:
            yield free
        finally:
            for ino in free:
                del self._reaping[ino]
            done.set()

    def check_pinnable(self, ino: int, modes: int) -> None:
        """Raise `MustWaitError` when the inode is just being removed and `modes` would pin it."""
        if modes & Lease.OPEN and ino in self._reaping:
            raise MustWaitError(event=self._reaping[ino])

    def orphaned(self, ino: int) -> None:
        """Note that an inode has no name any more."""
        self.orphans.add(ino)
        self.wake_reaper()

    def wake_reaper(self) -> None:
        """Say that an orphan may have become free."""
        self.reap.set()

    # --- sessions

    async def open_session(self, peer: Any, request: meta.OpenSession) -> meta.OpenSessionReply:
        """Open or reassert a session; see `meta.OpenSession`. Raises SessionExpired."""
        await self.group.read_barrier()
        table, session = self.table, request.session
        entry = table.sessions.get(session)
        if entry is not None and entry.doomed:
            await trio.sleep_until(entry.trusted_until())
            await self.recalls.expire(session)
        status = read.session(self.group.state, session)
        is_open = status is not None and status.open
        known = session in table.sessions
        if (
            request.held
            and not request.renewed
            and not (is_open and (known or session in table.unasserted))
        ):
            # expired, or this leader's grace is over: conflicting changes may have happened
            raise SessionExpired(f"session {session} lost its leases on shard {self.shard}")
        if not is_open:
            await self.propose(commands.OpenSession(session=session, name=peer.name))
        if known and request.renewed:
            table.forget(session)
        entry = table.open(session, peer, () if request.renewed else request.held)
        state = self.group.state
        lost: list[int] = []
        for held in request.held:
            if known:
                table.grant(entry, held.ino, held.modes & Lease.OPEN)
            if read.write_lease(state, held.ino) == session:
                continue
            if held.modes & Lease.WRITE or (held.modes & Lease.READ and held.ino not in entry.read):
                lost.append(held.ino)
        status = read.session(state, session)
        applied = status.applied if status else 0
        return meta.OpenSessionReply(term_ms=TERM_MS, applied_seq=applied, lost=tuple(lost))

    def renew(self, session: int, peer: Any, drop: Iterable[Held]) -> bool:
        """Renew a session here; False when it is not known or was given away."""
        entry = self.table.sessions.get(session)
        if entry is None or entry.doomed:
            return False
        entry.renewed_at = trio.current_time()
        entry.peer = peer
        for lease in drop:
            self.table.drop(entry, lease.ino, lease.modes & (Lease.READ | Lease.OPEN))
            if lease.modes & Lease.OPEN and lease.ino in self.orphans:
                self.wake_reaper()
        return True

    async def _forget_silent(self) -> None:
        """Expire sessions that have not been heard of for long."""
        while True:
            await trio.sleep(FORGET_S / 4)
            self.locks.sweep()
            horizon = trio.current_time() - FORGET_S
            heard = {s for s, e in self.table.sessions.items() if e.renewed_at > horizon}
            led_for = trio.current_time() - self.recalls.term_over_at
            for session, record in read.sessions(self.group.state).items():
                if not record.open or session in heard or led_for < FORGET_S:
                    continue
                try:
                    await self.recalls.expire(session)
                except Retryable as error:
                    _LOG.info("session_expire_failed", session=session, error=str(error))


def not_led(shard: int, group: Group | None) -> NotLeader:
    """Build the refusal of a replica that does not lead."""
    leader = group.leader if group else None
    return NotLeader(f"shard {shard} is led by node {leader}", leader=leader)
