"""The client's session with each shard: opened, renewed, reasserted; how long leases are trusted.

Trust in a shard's leases ends `term_ms` after the *sending* of the last acknowledged renewal, by
this process's monotonic clock: always earlier than the leader gives them away. Past it every
operation waits until the session is renewed.

A new leader is told what is held (reassertion). When a leader has given the session's leases away,
everything learnt from the shard is dropped, and the session begins anew with nothing; the
numbering of mutations goes on. Replies that cross an opening are kept out of the caches by the
shard's fence.

Leases are given back lazily, with the next renewal; READ leases that the cache pushed out when the
trust of that moment has ended: a kernel below caches no longer than that.
"""

from __future__ import annotations

import math
from typing import Any

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Held, Lease
from cfs.core.errors import CfsError, DeadlineExceeded, Retryable, SessionExpired, Unavailable
from cfs.core.ids import Ino, ShardId, group_of, shard_of
from cfs.fs.client.fences import Fences
from cfs.fs.client.lane import Lane, Numbers
from cfs.fs.client.limits import Limits
from cfs.fs.client.ports import Holder
from cfs.fs.client.queue import Queue
from cfs.fs.client.router import Router
from cfs.fs.client.shard_session import ShardSession
from cfs.net.tasks import open_tasks

_LOG = structlog.get_logger()

GOODBYE_S = 2.0
ADOPTED_S = 3.0
"""Taken for the term of a session that another process opened, until it is known."""
DROPS_MAX = 4096
"""Leases given back in one renewal."""


class Session:
    """One client's session, in every shard it uses."""

    def __init__(
        self, router: Router, fences: Fences, holder: Holder, queue: Queue, limits: Limits
    ) -> None:
        self.id = 0
        self._queue = queue
        self._router = router
        self._fences = fences
        self._holder = holder
        self._limits = limits
        self._shards: dict[int, ShardSession] = {}
        self._nursery: trio.Nursery | None = None
        self._reasserting: set[int] = set()
        self._numberings: dict[int, Numbers] = {}
        self._over = False

    async def start(self, nursery: trio.Nursery, session: int) -> None:
        """Begin to renew. `session` is an id that `root.session` gave and nobody else uses."""
        self.id = session
        self._nursery = nursery
        nursery.start_soon(self._renew_forever)

    # --- trust

    def trusted(self, shard: int) -> bool:
        """Tell whether leases in `shard` count at this moment."""
        state = self._shards.get(shard)
        return state is not None and trio.current_time() < state.trust_until

    def trust_left_s(self, shard: int) -> float:
        """Give the seconds that leases in `shard` still count without another renewal."""
        state = self._shards.get(shard)
        return 0.0 if state is None else max(0.0, state.trust_until - trio.current_time())

    def known(self, shard: int) -> ShardSession | None:
        """Give the session in a shard, if the shard is in use."""
        return self._shards.get(shard)

    async def ensure(self, shard: int, deadline: float) -> ShardSession:
        """Return once leases in `shard` are trusted. Raises DeadlineExceeded."""
        state = self._shards.get(shard) or self._enter(shard)
        while trio.current_time() >= state.trust_until:
            with trio.move_on_at(deadline) as scope:
                await self._open(state, deadline, state.trust_until)
            if scope.cancelled_caught:
                raise DeadlineExceeded(f"shard {shard}: the session was not renewed in time")
        return state

    # --- from one process to the next: `handover`

    def hold(self) -> bool:
        """Stop numbering and renewing; False, and no change, while answers are missing."""
        if any(numbers.open for numbers in self._numberings.values()):
            return False
        self._over = True
        for numbers in self._numberings.values():
            numbers.held = True
        return True

    def go_on(self) -> None:
        """Undo `hold`: what was learnt counts again when the session is renewed."""
        self._over = False
        for shard, numbers in self._numberings.items():
            numbers.held = False
            state = self._shards[shard]
            state.data.resume()
            state.names.resume()
        self.renew_now()

    def numbering(self) -> dict[int, int]:
        """Give the next number in every shard in use."""
        return {shard: numbers.next for shard, numbers in self._numberings.items()}

    def adopt(self, numbering: dict[int, int]) -> None:
        """Go on numbering where another process stopped, and connect the session again."""
        for shard, number in numbering.items():
            state = self._enter(shard, Numbers(number))
            state.term_s = ADOPTED_S  # opened before: what is pinned is to be said again
            self._reassert(state)

    # --- requests

    async def read(self, shard: int, method: str, request: Any, *, deadline: float) -> Any:
        """Ask a shard; opens the session where the leader wants it."""
        await self._queue.before_read(request, deadline)
        await self.ensure(shard, deadline)
        return await self._ask(shard, method, request, deadline)

    async def mutate(self, shard: int, op: Any, *, deadline: float) -> tuple[int, meta.OpResult]:
        """Apply an operation exactly once, after all in line; give (applied index, result)."""
        touched = self._holder.touched(op)
        async with self._queue.alone(op, touched, deadline):
            state = self._shards.get(shard)
            if state is None or trio.current_time() >= state.trust_until:
                state = await self.ensure(shard, deadline)
            underway = self._queue.underway
            return await underway.answer(state.names, op, touched, self._holder, deadline)

    def trusted_lane(self, shard: int) -> Lane | None:
        """Give the lane `data_lane` gives, if leases in the shard count at this moment."""
        state = self._shards.get(shard)
        return state.data if state and trio.current_time() < state.trust_until else None

    async def data_lane(self, shard: int, deadline: float) -> Lane:
        """Give the lane of operations that never wait for recalls, once the shard is trusted."""
        return (await self.ensure(shard, deadline)).data

    # --- giving back

    def drop(self, ino: int, modes: int) -> None:
        """Give volatile modes on `ino` back, with the next renewal."""
        self._fences.close_ino(ino)
        state = self._shards.get(shard_of(Ino(ino)))
        if state is not None:
            state.drops[ino] = state.drops.get(ino, 0) | modes

    def part(self, ino: int) -> None:
        """Give READ on `ino` back when its trust of now has ended: a kernel may cache so long."""
        self._fences.close_ino(ino)
        state = self._shards.get(shard_of(Ino(ino)))
        if state is not None:
            state.parting[ino] = state.trust_until

    def drop_pin(self, ino: int) -> None:
        """Give the OPEN pin of `ino` back, with the next renewal."""
        state = self._shards.get(shard_of(Ino(ino)))
        if state is not None:
            state.drops[ino] = state.drops.get(ino, 0) | Lease.OPEN

    def keep(self, ino: int, modes: int) -> None:
        """Take back a `drop` that was not sent yet: the modes were granted again."""
        state = self._shards.get(shard_of(Ino(ino)))
        if state is None:
            return
        if modes & Lease.READ:
            state.parting.pop(ino, None)
        if ino not in state.drops:
            return
        state.drops[ino] &= ~modes
        if not state.drops[ino]:
            del state.drops[ino]

    # --- opening

    def _enter(self, shard: int, numbers: Numbers | None = None) -> ShardSession:
        assert self._nursery is not None, "start the session first"
        nursery = self._nursery
        numbers = self._numberings[shard] = numbers or Numbers()

        async def send(request: meta.Mutate) -> meta.MutateReply:
            while True:
                deadline = trio.current_time() + self._limits.patience_s
                try:
                    reply = await self._ask(shard, "meta.mutate", request, deadline)
                except DeadlineExceeded:
                    _LOG.warning("mutation_repeat", shard=shard, seq=request.first_seq)
                else:
                    assert isinstance(reply, meta.MutateReply)
                    state.limits = max(state.limits, reply.limits)
                    if any(r.error and r.error[0] == SessionExpired.code for r in reply.results):
                        await self._open(state, deadline, state.trust_until, expired=True)
                    return reply

        def lane(*, overtake: bool) -> Lane:
            return Lane(
                shard=shard,
                session=self.id,
                numbers=numbers,
                send=send,
                nursery=nursery,
                limits=self._limits,
                overtake=overtake,
                abandoned=self._holder.abandoned,
            )

        state = ShardSession(shard, lane(overtake=False), lane(overtake=True))
        self._shards[shard] = state
        return state

    async def _ask(self, shard: int, method: str, request: Any, deadline: float) -> Any:
        group = group_of(ShardId(shard))
        state = self._shards[shard]
        while True:
            seen = state.trust_until
            try:
                return await self._router.ask(group, method, request, deadline=deadline)
            except Unavailable:  # only with session_unknown: the rest is retried below
                await self._open(state, deadline, seen)
            except SessionExpired:
                await self._open(state, deadline, seen, expired=True)

    async def _open(
        self, state: ShardSession, deadline: float, seen: float, *, expired: bool = False
    ) -> None:
        """Open or reassert, unless that was done since `seen` was read."""
        async with state.opening:
            if state.trust_until != seen and trio.current_time() < state.trust_until:
                return
            shard = state.shard
            self._fences.close_shard(shard)
            first = not state.term_s
            held = () if expired or first else tuple(self._held(state))
            if not expired:
                try:
                    await self._assert(state, held, deadline, renewed=False)
                except SessionExpired:
                    expired = True
            if expired:
                _LOG.warning("session_expired", shard=shard, session=self.id)
                state.trust_until = -math.inf
                state.drops.clear()
                state.parting.clear()
                self._holder.expired(shard)
                await self._assert(state, (), deadline, renewed=True)
                assert self._nursery is not None
                self._nursery.start_soon(self._holder.reopened, shard)

    def _held(self, state: ShardSession) -> list[Held]:
        held = self._holder.held(state.shard)
        if state.parting:
            named = {lease.ino for lease in held}
            held += [Held(i, int(Lease.READ)) for i in state.parting if i not in named]
        return held

    async def _assert(
        self, state: ShardSession, held: tuple[Held, ...], deadline: float, *, renewed: bool
    ) -> None:
        request = meta.OpenSession(shard=state.shard, session=self.id, held=held, renewed=renewed)
        sent = trio.current_time()
        reply = await self._router.ask(
            group_of(ShardId(state.shard)), "meta.session", request, deadline=deadline
        )
        assert isinstance(reply, meta.OpenSessionReply)
        self._fences.close_shard(state.shard)
        state.term_s = reply.term_ms / 1000
        state.trust_until = sent + state.term_s
        if reply.lost:
            self._holder.lost(reply.lost)

    # --- renewing

    async def _renew_forever(self) -> None:
        while True:
            terms = [s.term_s for s in self._shards.values() if s.term_s]
            await trio.sleep(min(terms, default=3.0) / 3)
            self.renew_now()

    def renew_now(self) -> None:
        """Start one round of renewals, one call to each node that leads shards in use."""
        assert self._nursery is not None
        if self._over:
            return
        by_node: dict[int, list[ShardSession]] = {}
        for state in self._shards.values():
            if not state.term_s:
                continue
            node = self._router.leader(group_of(ShardId(state.shard)))
            if node is None:
                self._reassert(state)
            else:
                by_node.setdefault(node, []).append(state)
        for node, states in by_node.items():
            self._nursery.start_soon(self._renew, node, states)

    async def end(self) -> None:
        """Say goodbye in every shard, so that nobody waits for this session; best effort."""
        self._over = True
        by_node: dict[int, list[int]] = {}
        for state in self._shards.values():
            node = self._router.leader(group_of(ShardId(state.shard)))
            if node is not None and state.term_s:
                by_node.setdefault(node, []).append(state.shard)

        async def say(node: int, shards: list[int]) -> None:
            request = meta.Renew(session=self.id, shards=tuple(shards), end=True)
            try:
                await self._router.call_node(node, "meta.renew", request, timeout_s=GOODBYE_S)
            except (Retryable, DeadlineExceeded) as error:
                _LOG.debug("session_end_failed", node=node, error=str(error))

        async with open_tasks() as nursery:
            for node, shards in by_node.items():
                nursery.start_soon(say, node, shards)

    async def _renew(self, node: int, states: list[ShardSession]) -> None:
        drops = self._take_drops(states)
        request = meta.Renew(
            session=self.id, shards=tuple(s.shard for s in states), drop=tuple(drops)
        )
        sent = trio.current_time()
        try:
            reply = await self._router.call_node(
                node, "meta.renew", request, timeout_s=min(s.term_s for s in states) / 2
            )
        except (Retryable, DeadlineExceeded) as error:
            _LOG.info("renew_failed", node=node, error=str(error))
            self._undo_drops(drops)
            for state in states:
                self._router.forget(group_of(ShardId(state.shard)), node)
                self._reassert(state)
            return
        for lease in drops:
            self._fences.release_ino(lease.ino)
        failed = set(reply.not_led) | set(reply.unknown)
        for state in states:
            if state.shard not in failed:
                state.trust_until = max(state.trust_until, sent + state.term_s)
                continue
            if state.shard in reply.not_led:
                self._router.forget(group_of(ShardId(state.shard)), node)
            self._reassert(state)

    def _take_drops(self, states: list[ShardSession]) -> list[Held]:
        drops: list[Held] = []
        now = trio.current_time()
        for state in states:
            while state.parting and next(iter(state.parting.values())) <= now:
                del state.parting[ino := next(iter(state.parting))]
                state.drops[ino] = state.drops.get(ino, 0) | Lease.READ
            while state.drops and len(drops) < DROPS_MAX:
                ino, modes = state.drops.popitem()
                if self._holder.pinned(ino):
                    modes &= ~Lease.OPEN
                if modes:
                    drops.append(Held(ino, modes))
                    self._fences.hold_ino(ino)
        return drops

    def _undo_drops(self, drops: list[Held]) -> None:
        """Drop pins again later; a reader too many costs one needless recall."""
        for lease in drops:
            self._fences.release_ino(lease.ino)
            if lease.modes & Lease.OPEN and not self._holder.pinned(lease.ino):
                self.drop(lease.ino, Lease.OPEN)

    def _reassert(self, state: ShardSession) -> None:
        if state.shard in self._reasserting:
            return
        assert self._nursery is not None
        self._reasserting.add(state.shard)
        self._nursery.start_soon(self._reassert_one, state, state.trust_until)

    async def _reassert_one(self, state: ShardSession, seen: float) -> None:
        try:
            await self._open(state, trio.current_time() + self._limits.patience_s, seen)
        except CfsError as error:
            _LOG.warning("reassert_failed", shard=state.shard, error=str(error))
        finally:
            self._reasserting.discard(state.shard)
