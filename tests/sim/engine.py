"""Virtual time, deterministic scheduling, and processes that can be frozen: under trio.

* `SimClock` jumps to the next deadline, or to the next call that was asked of it (`at`), as soon as
  nothing can run. A run in which nothing can run and nothing is due is a deadlock, and raises.
  Calls are made between two turns of trio, without a task: they wake tasks and wait for nothing.
* trio sorts each batch of runnable tasks by age and shuffles it with its own generator, which is
  seeded here: the seed chooses the interleaving.
* A task belongs to the process in its context (`CURRENT`). `RunQueue` keeps tasks of a frozen
  process aside until it is thawed: what SIGSTOP does, timers that are late included.
"""

from __future__ import annotations

import gc
import heapq
import math
from collections import deque
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import trio

CURRENT: ContextVar[Any] = ContextVar("process", default=None)


class Deadlock(Exception):
    """Nothing can run and nothing is due."""


class Endless(Exception):
    """Time stands still while tasks go on running."""


class SimClock(trio.abc.Clock):
    """Time that passes only when everybody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jumps = 0
        self.idle = 0
        self._calls: list[tuple[float, int, Any]] = []
        self._count = 0

    def at(self, due: float, call: Any) -> None:
        """Have `call()` made at a time; in the order asked for where that is the same."""
        self._count += 1
        heapq.heappush(self._calls, (due, self._count, call))

    async def pause(self, seconds: float) -> None:
        """Wait, and do not be cancelled meanwhile."""
        task = trio.lowlevel.current_task()
        self.at(self.now + seconds, lambda: trio.lowlevel.reschedule(task))
        await trio.lowlevel.wait_task_rescheduled(_not_aborted)

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        calls = self._calls
        if calls and calls[0][0] <= deadline:
            self.idle = 0
            self.jumps += 1
            self.now = max(self.now, calls[0][0])
            while calls and calls[0][0] <= self.now:
                heapq.heappop(calls)[2]()
            return 0.0
        if deadline == math.inf:  # trio's own wake-up pipe is all that may be left
            self.idle += 1
            if self.idle > 50:
                raise Deadlock(f"at {self.now:.6f}")
            return 0.02
        self.idle = 0
        self.jumps += 1
        self.now = max(self.now, deadline)
        return 0.0


class RunQueue(deque):
    """trio's queue of runnable tasks, without those of frozen processes.

    Raises when too many steps are asked for in one instant.
    """

    STEPS_MAX = 200_000
    clock: SimClock
    steps = 0
    last_jumps = -1

    def append(self, task: Any) -> None:
        self.steps += 1
        if self.steps > self.STEPS_MAX:
            if self.clock.jumps == self.last_jumps:
                raise Endless(f"at {self.clock.now:.6f}, in {task.name}: {where(task)}")
            self.steps, self.last_jumps = 0, self.clock.jumps
        process = task.context.get(CURRENT)
        if process is not None and process.frozen:
            process.stash.append(task)
        else:
            super().append(task)


def where(task: Any) -> str:
    """Tell where a task is."""
    found: list[str] = []
    inner = task.coro
    while getattr(inner, "cr_frame", None) is not None:
        found.append(f"{Path(inner.cr_code.co_filename).name}:{inner.cr_frame.f_lineno}")
        inner = inner.cr_await
    return " < ".join(reversed(found))


class Unpolled:
    """trio's source of real events, of which there are none: asked only when it is to wait."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def get_events(self, timeout: float) -> Any:
        return self._inner.get_events(timeout) if timeout else []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _not_aborted(_raise: Any) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def thaw(process: Any) -> None:
    """Let a frozen process go on."""
    process.frozen = False
    stash, process.stash = process.stash, []
    queue = trio._core._run.GLOBAL_RUN_CONTEXT.runner.runq
    for task in stash:
        queue.append(task)


def simulate(main: Any, seed: int) -> Any:
    """Run `await main(clock)` on virtual time; the same seed gives the same run."""
    clock = SimClock()

    async def started() -> Any:
        runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner
        runner.runq = RunQueue(runner.runq)
        runner.runq.clock = clock
        runner.io_manager = Unpolled(runner.io_manager)
        return await main(clock)

    run = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    gc.collect()
    gc.disable()
    try:
        return trio.run(started, clock=clock)
    finally:
        gc.enable()
        run._ALLOW_DETERMINISTIC_SCHEDULING = before
