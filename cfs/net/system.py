"""The real ports: clock, entropy, threads.

Threads run native code that releases the GIL and blocking disk calls; at most `limit` at once, and
the rest wait in order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

THREADS_DEFAULT = 8


class SystemClock:
    """Wall time of this machine."""

    def time_ns(self) -> int:
        """See `WallClock.time_ns`."""
        return time.time_ns()


class SystemEntropy:
    """The kernel's random bytes."""

    def random_bytes(self, count: int) -> bytes:
        """See `Entropy.random_bytes`."""
        return os.urandom(count)


class TrioThreads:
    """Trio's worker threads under one limiter."""

    def __init__(self, limit: int = THREADS_DEFAULT) -> None:
        self._limiter = trio.CapacityLimiter(limit)

    @property
    def busy(self) -> int:
        """How many run now."""
        return int(self._limiter.borrowed_tokens)

    async def run(self, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        """See `Threads.run`."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
