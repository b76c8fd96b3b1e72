"""Holds the parts of one client together, and is the `Holder` its session asks about leases.

What a lease's end means is decided here, once: `forget` drops what was learnt of an inode and
tells the gateway; an expired session drops a shard's worth, asks for the pins of open files again,
and leaves dirty files suspect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Held, Lease
from cfs.core.errors import CfsError, Unavailable
from cfs.fs.client.ahead import Ahead
from cfs.fs.client.buffer import Buffer
from cfs.fs.client.cache import Cache
from cfs.fs.client.delegation import Delegations
from cfs.fs.client.fences import Fences
from cfs.fs.client.landing import Landing
from cfs.fs.client.limits import Limits
from cfs.fs.client.ports import Calls, Fetches, Kernel, MapView, Uploads
from cfs.fs.client.queue import Queue
from cfs.fs.client.quotas import Quotas
from cfs.fs.client.router import Router, new_session
from cfs.fs.client.session import Session
from cfs.fs.client.siblings import Siblings
from cfs.fs.client.space import Space
from cfs.fs.client.underway import Touched
from cfs.fs.client.writeback import Writeback
from cfs.net.ports import WallClock

_LOG = structlog.get_logger()

TEND_S = 1.0
"""How often the cache is looked at for what is no longer in use."""


class NoKernel:
    """A gateway that caches nothing below."""

    async def invalidate(self, ino: int) -> None:
        """See `Kernel.invalidate`."""

    async def drop_attributes(self, ino: int) -> None:
        """See `Kernel.drop_attributes`."""


class Client:
    """The parts of one client. Everything is reached from here; `Files` is made of this."""

    def __init__(
        self,
        *,
        pool: Calls,
        view: MapView,
        uploader: Uploads,
        fetcher: Fetches,
        clock: WallClock,
        name: str,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.name = name
        self.clock = clock
        self.fetches = fetcher
        self.kernel: Kernel = NoKernel()
        self.fences = Fences()
        self.router = Router(pool, view, self.limits)
        self.queue = Queue(self.limits)
        self.session = Session(self.router, self.fences, self, self.queue, self.limits)
        self.buffer = Buffer(self.limits.dirty)
        self.landing = Landing(
            room_bytes=self.limits.write,
            bytes_max=self.limits.dirty + self.limits.landing_spare,
        )
        self.space = Space(self.router, self.buffer, self.limits)
        self.writeback = Writeback(
            session=self.session,
            fences=self.fences,
            buffer=self.buffer,
            landing=self.landing,
            space=self.space,
            uploads=uploader,
            limits=self.limits,
            pending=self.queue.pending,
        )
        self.cache = Cache(
            self.session, self.fences, self.limits, self.writeback.release, self.queue.pending,
            self.queue.underway,
        )  # fmt: skip
        self.writeback.cache = self.cache
        self.writeback.let_go = self._let_go
        self.delegations = Delegations(
            session=self.session,
            fences=self.fences,
            cache=self.cache,
            writeback=self.writeback,
            queue=self.queue,
            limits=self.limits,
            tell_kernel=self._tell_kernel,
        )
        self.queue.keeper = self.delegations
        self.quotas = Quotas(self.session, self.router, self.writeback)
        self.ahead = Ahead(
            session=self.session,
            fences=self.fences,
            cache=self.cache,
            writeback=self.writeback,
            queue=self.queue,
            delegations=self.delegations,
            quotas=self.quotas,
            clock=clock,
        )
        self.recalling = self.writeback.recalling
        self.siblings = Siblings(self)
        self.writeback.begun = self.siblings.take
        self.nursery: trio.Nursery | None = None
        self.on_expired: list[Callable[[int], None]] = []
        """Told of every shard whose leader gave the session's leases and locks away."""
        self._ended = trio.Event()

    async def start(self, nursery: trio.Nursery, session: int | None = None) -> None:
        """Take a session id (unless given) and begin to renew and flush, in `nursery`."""
        self.nursery = nursery
        if session is None:
            session = await new_session(self.router, self.name, deadline=self.deadline())
        await self.session.start(nursery, session)
        self.writeback.start(nursery)
        self.space.start(nursery)
        self.quotas.start(nursery)
        nursery.start_soon(self._tell_end)
        nursery.start_soon(self._tend)

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_S)
            self.cache.tend()

    async def close(self) -> None:
        """Commit everything, and say so loudly when that fails. The nursery may then end.

        Raises at once when the nursery given to `start` was cancelled before: nothing can be
        committed without what runs there.
        """
        error: CfsError | None = None
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await self._ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            try:
                await self.writeback.flush_all(self.deadline())
                await self.queue.drained(self.deadline())
                await self.session.end()
            except CfsError as failed:
                error = failed
            nursery.cancel_scope.cancel()
        if self._ended.is_set() and self.buffer.used:
            error = Unavailable("the client was cancelled before it was closed")
        if error is not None:
            _LOG.error("close_with_dirty_data", bytes=self.buffer.used, error=str(error))
            raise error

    async def _tell_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._ended.set()

    def deadline(self) -> float:
        """Give the trio time until which an operation that starts now is retried."""
        return trio.current_time() + self.limits.patience_s

    # --- the holder of leases

    def held(self, shard: int) -> list[Held]:
        """See `Holder.held`; the pins of open files among them."""
        made = self.queue.made  # the shard grants leases on them when it makes them
        held = self.cache.held(shard)
        modes = {lease.ino: lease.modes for lease in held if lease.ino not in made}
        for file in self.writeback.files.values():
            if file.opens and file.node.shard == shard and file.ino not in made:
                modes[file.ino] = modes.get(file.ino, 0) | Lease.OPEN
                file.pinned = True
        return [Held(ino, int(mode)) for ino, mode in modes.items()]

    def pinned(self, ino: int) -> bool:
        """See `Holder.pinned`."""
        file = self.writeback.files.get(ino)
        return file is not None and file.opens > 0

    def lost(self, inos: Iterable[int]) -> None:
        """See `Holder.lost`."""
        assert self.nursery is not None
        for ino in inos:
            self.cache.forget(ino)
            self._tell_kernel(ino)
            if self.pinned(ino):
                self.nursery.start_soon(self._pin_again, ino)

    def expired(self, shard: int) -> None:
        """See `Holder.expired`."""
        for node in self.cache.forget_shard(shard):
            self._tell_kernel(node.ino)
        for file in self.writeback.files.values():
            if file.node.shard == shard:
                file.pinned = False
        for tell in self.on_expired:
            tell(shard)

    def touched(self, op: Any) -> Touched:
        """See `Touching.touched`."""
        return self.cache.touched(op)

    async def begins(self, inos: Iterable[int]) -> None:
        """See `Touching.begins`."""
        for ino in inos:
            await self.kernel.drop_attributes(ino)

    def abandoned(self, op: Any) -> None:
        """See `Holder.abandoned`."""
        for ino in self.cache.unlearn(op):
            self._tell_kernel(ino)

    async def reopened(self, shard: int) -> None:
        """See `Holder.reopened`."""
        for file in list(self.writeback.files.values()):
            if file.opens and file.node.shard == shard:
                await self._pin_again(file.ino)

    async def _pin_again(self, ino: int) -> None:
        try:
            await self.pin(ino, self.deadline())
        except CfsError as error:
            _LOG.warning("pin_lost", ino=ino, error=str(error))

    async def pin(self, ino: int, deadline: float) -> None:
        """Ask for the OPEN pin of an inode, until it is sure to be held. Raises ENOENT."""
        shard = self.cache.node(ino).shard
        while True:
            with self.writeback.request() as token:
                request = meta.GetAttr(
                    shard=shard, session=self.session.id, ino=ino, lease=int(Lease.OPEN)
                )
                reply = await self.session.read(shard, "meta.getattr", request, deadline=deadline)
                if reply.lease & Lease.OPEN and self.fences.passes(token, ino):
                    self.pinned_now(ino)
                    return
            await trio.sleep(0.01)

    def pinned_now(self, ino: int) -> None:
        """Note that the OPEN pin is held; give it back at once if nobody has it open any more."""
        self.session.keep(ino, Lease.OPEN)
        file = self.writeback.files.get(ino)
        if file is not None and file.opens:
            file.pinned = True
        else:
            self.session.drop_pin(ino)

    async def _let_go(self, inos: Iterable[int]) -> None:
        async with trio.open_nursery() as nursery:
            for ino in inos:
                nursery.start_soon(self.kernel.invalidate, ino)

    def _tell_kernel(self, ino: int) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self.kernel.invalidate, ino)
