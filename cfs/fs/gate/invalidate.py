"""Tells the kernel to drop what it caches of an inode, from threads of their own.

The call waits for pages that are locked, and whoever locks them waits for the event loop: made
from the loop it would wait for itself. So each runs in a thread, a few at a time, and a lease is
given back only when it has returned. Names of a directory are ended as `entries` says.

One case may not wait: a write of part of a page holds that page locked until it is answered, and
it is answered when the WRITE lease is back, which the other client gets first. Then attributes,
whose dropping never waits, are enough to give the lease back: the kernel asks for them before it
reads from its pages, and `settled` lets nobody have them until the pages are gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from cfs.fs.gate.fuse_inodes import Inodes

_LOG = structlog.get_logger()

THREADS = 8
STOP_S = 1.0
"""How long notifications under way may take before the connection is aborted."""

Notify = Callable[[int, bool], None]
"""Drop what is cached of an inode; True: attributes only."""


EndNames = Callable[[int], Awaitable[None]]
"""End what the kernel may do with the names of a directory without asking."""


class _Pending:
    """An invalidation of pages under way."""

    __slots__ = ("again", "done", "enough", "told")

    def __init__(self) -> None:
        self.again = False
        self.done = trio.Event()
        self.enough = trio.Event()
        """Set when the lease may be given back."""
        self.told = False
        """Attributes are dropped."""


class Invalidator:
    """The `Kernel` of a mount."""

    def __init__(self, inodes: Inodes, notify: Notify, end_names: EndNames | None = None) -> None:
        self._inodes = inodes
        self._notify = notify
        self._end_names = end_names
        self._limiter = trio.CapacityLimiter(THREADS)
        self._attributes_limiter = trio.CapacityLimiter(2)  # never behind what waits for a page
        self._stopped = False
        self._pending: dict[int, _Pending] = {}
        self._writes: dict[int, int] = {}
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Run what outlasts a recall in `nursery`."""
        self._nursery = nursery

    async def invalidate(self, ino: int) -> None:
        """Drop attributes and pages of `ino`; return when a lease on it may be given back."""
        if self._stopped or not self._inodes.known(ino):
            return
        pending = self._pending.get(ino)
        if pending is None:
            pending = self._begin(ino)
        else:  # of an earlier recall: pages may have come since it began, so once more after it
            pending.again = True
        await pending.enough.wait()

    async def drop_attributes(self, ino: int) -> None:
        """Drop attributes of `ino` alone; waits for no page and no lock."""
        if not self._stopped and self._inodes.known(ino):
            await self._tell(ino, attributes_only=True, limiter=self._attributes_limiter)

    def pending(self, ino: int) -> bool:
        """Tell whether the kernel may still have pages of before the last recall."""
        return ino in self._pending or ino in self._inodes.tainted

    async def settled(self, ino: int) -> None:
        """Return when the kernel has no pages of before the last recall."""
        if ino in self._inodes.tainted and ino not in self._pending and not self._stopped:
            self._begin(ino)
        while (pending := self._pending.get(ino)) is not None:
            await pending.done.wait()

    def write_begins(self, ino: int) -> None:
        """Note a write that the kernel may hold a page locked for."""
        self._writes[ino] = self._writes.get(ino, 0) + 1
        pending = self._pending.get(ino)
        if pending is not None and pending.told:
            pending.enough.set()

    def write_ends(self, ino: int) -> None:
        """End `write_begins`."""
        left = self._writes[ino] - 1
        if left:
            self._writes[ino] = left
        else:
            del self._writes[ino]

    async def stop(self, abort: Callable[[], None]) -> None:
        """Start no more; return when none runs. `abort` breaks the connection for stuck ones."""
        self._stopped = True
        with trio.move_on_after(STOP_S):
            await self._all_done()
        if self._pending:
            abort()
            await self._all_done()

    async def _all_done(self) -> None:
        while self._pending:
            await next(iter(self._pending.values())).done.wait()

    def _begin(self, ino: int) -> _Pending:
        pending = self._pending[ino] = _Pending()
        assert self._nursery is not None, "start the invalidator first"
        self._nursery.start_soon(self._run, ino, pending)
        return pending

    async def _run(self, ino: int, pending: _Pending) -> None:
        with trio.CancelScope(shield=True):
            try:
                while True:
                    pending.again = False
                    await self._tell(ino, attributes_only=True)
                    pending.told = True
                    if self._writes.get(ino):
                        pending.enough.set()
                    await self._tell(ino, attributes_only=False)
                    if self._end_names is not None:
                        await self._end_names(ino)
                    if not pending.again:
                        break
            finally:
                self._inodes.tainted.discard(ino)
                del self._pending[ino]
                pending.done.set()
                pending.enough.set()

    async def _tell(
        self, ino: int, *, attributes_only: bool, limiter: trio.CapacityLimiter | None = None
    ) -> None:
        limiter = limiter or self._limiter
        try:
            await trio.to_thread.run_sync(self._notify, ino, attributes_only, limiter=limiter)
        except FileNotFoundError:
            pass  # the kernel has let go of it
        except OSError as error:
            _LOG.warning("invalidate_failed", ino=ino, error=str(error))
