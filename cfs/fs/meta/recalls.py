"""Recalls: taking leases away from other sessions, and what happens when one does not answer.

A recall is repeated over whatever connection the session has until the client answers, which means
that it has committed its dirty data and trusts the lease no more. A client that cannot be reached
keeps its leases until it must have stopped trusting them by its own clock; then the session is
expired in the log. A client that is reached but does not come to an end in `RECALL_S_MAX` is
doomed: its renewals are refused from then on, and it goes the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Held, Lease
from cfs.core.errors import DeadlineExceeded, Retryable, Unavailable
from cfs.core.meta import commands, read
from cfs.fs.meta.host import Group
from cfs.fs.meta.leases import LeaseTable, Session, grace_ends
from cfs.net.tasks import open_tasks

_LOG = structlog.get_logger()

RECALL_S_MAX = 20.0
PRESS_S_MAX = 15.0
ASK_S = 5.0
"""One attempt over one connection."""


class Recalls:
    """The recalls of one led shard."""

    def __init__(
        self,
        *,
        shard: int,
        group: Group,
        table: LeaseTable,
        propose: Callable[..., Any],
        on_unpinned: Callable[[], None],
    ) -> None:
        self.term_over_at = grace_ends(trio.current_time(), group.others_over_s)
        """When sessions that have not reasserted hold nothing volatile any more."""
        self._shard = shard
        self._group = group
        self._table = table
        self._propose = propose
        self._on_unpinned = on_unpinned
        self._running: dict[tuple[int, int], trio.Event] = {}

    async def clear(self, session: int, inos: Iterable[int]) -> bool:
        """Make sure that no session but this one holds any lease on `inos`; tell if any did."""
        state = self._group.state
        # under the caller's own replicated WRITE lease nobody else holds anything: nothing to ask
        open_to_others = [i for i in inos if read.write_lease(state, i) != session]
        if open_to_others:
            if self._table.unasserted:
                await self._barrier(session)
            return await self.recall(open_to_others, but=session, keep=Lease.NONE)
        return False

    async def recall(self, inos: Iterable[int], *, but: int, keep: int) -> bool:
        """Take leases on `inos` from all sessions but one down to `keep`; tell if any were."""
        recalled = False
        while True:
            holders = self._holders(inos, but, readers=not keep)
            if not holders:
                return recalled
            recalled = True
            if len(holders) == 1:
                ((session, held),) = holders.items()
                await self._recall_session(session, held, keep)
                continue
            async with open_tasks() as nursery:
                for session, held in holders.items():
                    nursery.start_soon(self._recall_session, session, held, keep)

    async def press(self, inos: Iterable[int]) -> None:
        """Have WRITE leases given back, once; a client that is slow keeps its own and is left."""
        holders = self._holders(inos, 0, readers=False)
        async with open_tasks() as nursery:
            for session, held in holders.items():
                nursery.start_soon(self._recall_session, session, held, Lease.READ, PRESS_S_MAX)

    def running(self, session: int, ino: int) -> bool:
        """Tell whether a lease of this session on the inode is being recalled now."""
        return (session, ino) in self._running

    async def settled(self, session: int, inos: Iterable[int]) -> None:
        """Wait for recalls of this session's own leases to end: what comes after is a new lease."""
        for ino in inos:
            while (event := self._running.get((session, ino))) is not None:
                await event.wait()

    async def end(self, session: int) -> None:
        """Expire a session whose client said goodbye; what fails is left to its silence."""
        with contextlib.suppress(Retryable):
            await self.expire(session)

    async def expire(self, session: int) -> None:
        """Give a session's leases away, in the log, and forget what is volatile of it."""
        _LOG.info("session_expire", shard=self._shard, session=session)
        await self._propose(commands.ExpireSession(session=session))
        if self._table.forget(session):
            self._on_unpinned()

    def _holders(self, inos: Iterable[int], but: int, *, readers: bool) -> dict[int, list[int]]:
        state = self._group.state
        holders: dict[int, list[int]] = {}
        for ino in dict.fromkeys(inos):  # a listing names an inode once for each of its links
            sessions = set(self._table.readers(ino, but)) if readers else set()
            writer = read.write_lease(state, ino)
            if writer is not None and writer != but:
                sessions.add(writer)
            for session in sessions:
                holders.setdefault(session, []).append(ino)
        return holders

    async def _barrier(self, session: int) -> None:
        """Wait until nobody else may hold a lease that this leader does not know of."""
        table = self._table
        while table.unasserted - {session}:
            left = self.term_over_at - trio.current_time()
            if left <= 0:
                for silent in table.unasserted - {session}:
                    table.settle(silent)
                return
            asserted = table.asserted
            with trio.move_on_after(left):
                await asserted.wait()

    async def _recall_session(
        self, session: int, inos: list[int], keep: int, patience_s: float = 0.0
    ) -> None:
        """Take leases from a session; with `patience_s` one that is slow is left in peace."""
        running = [self._running[session, i] for i in inos if (session, i) in self._running]
        if running:
            for event in running:
                await event.wait()
            return  # the caller looks again at who holds what
        done = trio.Event()
        for ino in inos:
            self._running[session, ino] = done
        try:
            if not await self._ask(session, inos, keep, patience_s):
                await self.expire(session)
        finally:
            done.set()
            for ino in inos:
                del self._running[session, ino]

    async def _ask(self, session: int, inos: list[int], keep: int, patience_s: float = 0.0) -> bool:
        """Recall until answered; False when the session must be expired instead."""
        give_up = trio.current_time() + (patience_s or RECALL_S_MAX)
        while True:
            now = trio.current_time()
            entry = self._table.sessions.get(session)
            if entry is None:
                # a session of the old leader: it may still come and reassert
                if session not in self._table.unasserted or now >= self.term_over_at:
                    return False
                asserted = self._table.asserted
                with trio.move_on_after(self.term_over_at - now):
                    await asserted.wait()
                continue
            if patience_s and now >= give_up:
                return True
            if now >= give_up or now >= entry.trusted_until():
                entry.doomed = True
                await trio.sleep_until(entry.trusted_until())
                return False
            reconnected = entry.reconnected
            if await self._ask_once(entry, inos, keep):
                return True
            with trio.move_on_after(max(0.02, min(0.5, entry.trusted_until() - now))):
                await reconnected.wait()

    async def _ask_once(self, entry: Session, inos: list[int], keep: int) -> bool:
        peer = entry.peer
        if peer is None or peer.closed.is_set():
            return False
        leases = tuple(Held(ino, keep) for ino in inos)
        message = meta.Recall(
            shard=self._shard, session=entry.session, at=self._group.applied, leases=leases
        )
        try:
            await peer.call("client.recall", message, timeout_s=ASK_S)
        except (Unavailable, DeadlineExceeded):
            return False
        for ino in inos:
            self._table.drop(entry, ino, Lease.READ)  # given back too, whatever might have stayed
        state = self._group.state
        written = tuple(i for i in inos if read.write_lease(state, i) == entry.session)
        if written:
            await self._propose(commands.DropLeases(session=entry.session, inos=written))
        return True
