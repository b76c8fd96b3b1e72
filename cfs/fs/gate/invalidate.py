"""Tells the kernel to drop what it caches of an inode, from threads of their own.

The call waits for pages that are being read, and the reads are answered by the event loop: made
from the loop it would wait for itself. So each runs in a thread, a few at a time, and a lease is
given back only when it has returned. Entries need none: their lifetime in the kernel is zero.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from cfs.fs.gate.fuse_inodes import Inodes

_LOG = structlog.get_logger()

THREADS = 8
STOP_S = 1.0
"""How long notifications under way may take before the connection is aborted."""


class Invalidator:
    """The `Kernel` of a mount."""

    def __init__(self, inodes: Inodes, notify: Callable[[int], None]) -> None:
        self._inodes = inodes
        self._notify = notify
        self._limiter = trio.CapacityLimiter(THREADS)
        self._stopped = False
        self._running = 0
        self._idle = trio.Event()

    async def invalidate(self, ino: int) -> None:
        """Drop attributes and pages of `ino`; return when the kernel has."""
        if self._stopped or not self._inodes.known(ino):
            return
        self._running += 1
        try:
            await trio.to_thread.run_sync(self._notify, ino, limiter=self._limiter)
        except FileNotFoundError:
            pass  # the kernel has let go of it
        except OSError as error:
            _LOG.warning("invalidate_failed", ino=ino, error=str(error))
        finally:
            self._running -= 1
            self._inodes.tainted.discard(ino)
            if not self._running:
                self._idle.set()
                self._idle = trio.Event()

    async def stop(self, abort: Callable[[], None]) -> None:
        """Start no more; return when none runs. `abort` breaks the connection for stuck ones."""
        self._stopped = True
        with trio.move_on_after(STOP_S):
            while self._running:
                await self._idle.wait()
        if self._running:
            abort()
            while self._running:
                await self._idle.wait()
