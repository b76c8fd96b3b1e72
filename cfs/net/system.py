"""The real ports: clock, entropy, threads.

Threads run native code that releases the GIL and blocking disk calls: at most `limit` at once, the
rest wait in order. They are this module's own because `trio.to_thread.run_sync` costs more: for an
empty call 110 µs of CPU against 83 alone, 93 against 36 with ten callers (one run, two cores).
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import outcome
import trio

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

THREADS_DEFAULT = 8
IDLE_S = 10.0
"""A thread without work for so long ends."""


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


class _Job:
    """A call on its way to a thread and back."""

    __slots__ = ("args", "function", "result", "task", "token")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()
        self.result: outcome.Outcome[Any] | None = None


class TrioThreads:
    """Threads for one trio run; see the module."""

    def __init__(self, limit: int = THREADS_DEFAULT) -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._done: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._threads = 0  # guarded by the lock; so is a thread's decision to end
        self._unfinished = 0  # the event loop's own

    @property
    def busy(self) -> int:
        """How many calls run or wait."""
        return self._unfinished

    async def run(self, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        """See `Threads.run`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(function, args)
        self._unfinished += 1
        with self._lock:
            self._jobs.put(job)
            if self._threads < min(self._unfinished, self._limit):
                self._threads += 1
                threading.Thread(target=self._work, name="cfs-worker", daemon=True).start()
        result: _T = await trio.lowlevel.wait_task_rescheduled(_not_now)
        return result

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if not self._jobs.empty():
                        continue
                    self._threads -= 1
                    return
            job.result = outcome.capture(job.function, *job.args)
            self._done.append(job)
            with contextlib.suppress(trio.RunFinishedError):  # nobody is left to hear of it
                job.token.run_sync_soon(self._finish, idempotent=True)
            del job

    def _finish(self) -> None:
        """Wake everyone whose call has ended; on the event loop."""
        while self._done:
            job = self._done.popleft()
            assert job.result is not None
            self._unfinished -= 1
            trio.lowlevel.reschedule(job.task, job.result)


def _not_now(_raise_cancel: object) -> trio.lowlevel.Abort:
    """Let a cancellation wait until the call has ended."""
    return trio.lowlevel.Abort.FAILED
