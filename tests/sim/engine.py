"""Virtual time, deterministic scheduling, and processes that can be frozen: under trio.

* `SimClock` jumps to the next deadline as soon as nothing can run. A run in which nothing can run
  and nothing is due is a deadlock, and raises.
* trio sorts each batch of runnable tasks by age and shuffles it with its own generator, which is
  seeded here: the seed chooses the interleaving.
* A task belongs to the process in its context (`CURRENT`). `RunQueue` keeps tasks of a frozen
  process aside until it is thawed: what SIGSTOP does, timers that are late included.
"""

from __future__ import annotations

import gc
import math
from collections import deque
from contextvars import ContextVar
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

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
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
    """trio's queue of runnable tasks, without those of frozen processes."""

    def append(self, task: Any) -> None:
        process = task.context.get(CURRENT)
        if process is not None and process.frozen:
            process.stash.append(task)
        else:
            super().append(task)


class StillInstrument(trio.abc.Instrument):
    """Raises when too many steps pass in one instant."""

    STEPS_MAX = 200_000

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.steps = 0
        self.last_jumps = -1
        self.in_instant = 0

    def before_task_step(self, task: Any) -> None:
        self.steps += 1
        if self.clock.jumps != self.last_jumps:
            self.last_jumps = self.clock.jumps
            self.in_instant = 0
        self.in_instant += 1
        if self.in_instant > self.STEPS_MAX:
            self.in_instant = 0
            raise Endless(f"at {self.clock.now:.6f}, in {task.name}")


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
        return await main(clock)

    run = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    gc.collect()
    gc.disable()
    try:
        return trio.run(started, clock=clock, instruments=[StillInstrument(clock)])
    finally:
        gc.enable()
        run._ALLOW_DETERMINISTIC_SCHEDULING = before
