"""The command line of the simulator, and the pool of processes that run seeds."""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import os
import pickle
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.sim import kept
from tests.sim.bugs import BUGS
from tests.sim.cluster import Shape
from tests.sim.kept import minimise
from tests.sim.run import Options, Report, run_seed

HUNTED = Shape(clients=3)
"""Small, so that many seeds of a seeded bug fit."""
SEED_S = 300
"""Processor and waiting time a seed may take; more is a hang."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed")
    parser.add_argument("--seeds", help="run the seeds A..B")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--repeat", type=int, default=1, help="run each seed so often: same trace?")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--work", type=float, default=0.0, help="virtual seconds clients work")
    parser.add_argument("--bugs", nargs="*", metavar="NAME", help="show that seeded bugs are found")
    parser.add_argument("--faults", help="of each seed's faults only these: 0,2 or none")
    parser.add_argument("--minimise", action="store_true", help="drop faults while --seed fails")
    parser.add_argument("--kept", action="store_true", help="run the kept seeds")
    parser.add_argument("--no-faults", action="store_true", help="nothing goes wrong")
    chosen = parser.parse_args(arguments)
    if chosen.bugs is not None:
        return hunt(chosen.bugs or list(BUGS), int((chosen.seeds or "1..20").partition("..")[2]),
                    at_once=chosen.jobs)  # fmt: skip
    if chosen.minimise:
        print(f"{chosen.seed} {minimise(chosen.seed, fails)}")
        return 0
    seeds: Iterable[int] = range(1, 1 << 62)
    if chosen.seed is not None:
        seeds = [chosen.seed]
    elif chosen.seeds:
        first, _, last = chosen.seeds.partition("..")
        seeds = range(int(first), int(last or first) + 1)
    elif chosen.minutes is None:
        seeds = [1]

    def options(seed: int) -> Options:
        if chosen.faults:
            return dataclasses.replace(kept.chosen(seed, chosen.faults), show=chosen.trace)
        return Options(
            seed=seed, show=chosen.trace, work_s=chosen.work,
            schedule=[] if chosen.no_faults else None,
        )  # fmt: skip

    limit = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
    total = Totals()
    jobs: Iterable[Options] = (options(seed) for seed in seeds for _ in range(chosen.repeat))
    if chosen.kept:
        jobs = kept.kept()
    for report in run_all(jobs, at_once=chosen.jobs, limit=limit):
        total.add(report)
        print(line(report), flush=True)
        for violation in report.violations:
            print(f"  VIOLATION {violation}", flush=True)
    print(total.text())
    return 1 if total.failed or total.differing else 0


def fails(options: Options) -> bool:
    """Tell whether a run fails."""
    return bool(next(iter(run_all([options]))).violations)


def hunt(names: list[str], seeds_max: int, *, at_once: int) -> int:
    """Run seeds with each bug switched on until one fails; print how many that took."""
    missed = 0
    if fails(Options(seed=1, shape=HUNTED)):
        print("seed 1 fails without any seeded bug: mend that first")
        return 1
    for name in names:
        bug = BUGS[name]
        jobs = (Options(seed=seed, focus=bug.focus, plan=bug.plan, shape=HUNTED, brief=True,
                        work_s=bug.work_s, length_s=bug.length_s)
                for seed in range(1, seeds_max + 1))  # fmt: skip
        tried, found = 0, ""
        for report in run_all(jobs, at_once=at_once, before=bug.apply,
                              stop=lambda r: bool(r.violations)):  # fmt: skip
            tried += 1
            if report.violations and not found:
                found = f"seed {report.seed}: {report.violations[0].splitlines()[0][:110]}"
                break
        missed += not found
        print(f"| `{name}` | {bug.what} | {tried if found else f'not in {tried}'} | {found} |",
              flush=True)  # fmt: skip
    return 1 if missed else 0


def line(report: Report) -> str:
    """Sum a run up."""
    state = "FAILED" if report.violations else "ok"
    return (
        f"seed {report.seed} {state} {report.digest[:12]} ops {report.operations} "
        f"checked {report.checked} virtual {report.virtual_s:.1f}s cpu {report.cpu_s:.1f}s "
        f"faults {len(report.schedule)}" + (" undecided" if report.undecided else "")
    )


class Totals:
    """What many runs were."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seeds = self.operations = self.checked = self.undecided = 0
        self.virtual_s = self.cpu_s = 0.0
        self.failed: list[int] = []
        self.digests: dict[int, str] = {}
        self.differing: set[int] = set()

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.counts += report.counts
        self.operations += report.operations
        self.checked += report.checked
        self.undecided += report.undecided
        self.virtual_s += report.virtual_s
        self.cpu_s += report.cpu_s
        if report.violations:
            self.failed.append(report.seed)
        if self.digests.setdefault(report.seed, report.digest) != report.digest:
            self.differing.add(report.seed)

    def text(self) -> str:
        rate = self.checked / self.cpu_s if self.cpu_s else 0.0
        counts = "\n".join(f"  {n:>10} {name}" for name, n in sorted(self.counts.items()))
        return (
            f"{counts}\n{self.seeds} runs, {self.virtual_s / 3600:.2f} virtual hours, "
            f"{self.checked} of {self.operations} operations checked, {self.undecided} objects "
            f"undecided, {rate:.0f} operations per core-second\n"
            f"failed: {self.failed or 'none'}; traces that differ: {sorted(self.differing) or 0}"
        )


def run_all(
    jobs: Iterable[Options], *, at_once: int = 1, limit: float | None = None,
    before: Callable[[], None] | None = None, stop: Callable[[Report], bool] | None = None,
) -> Iterator[Report]:  # fmt: skip
    """Run each in a process of its own; `before` is called there first."""
    running: dict[int, tuple[int, Options, float, bytearray]] = {}
    jobs = iter(jobs)
    ended = False
    try:
        while True:
            while not ended and len(running) < at_once:
                job = next(jobs, None)
                if job is None or (limit is not None and time.monotonic() > limit):
                    ended = True
                    break
                pid, pipe = _fork(job, before)
                running[pipe] = pid, job, time.monotonic(), bytearray()
            if not running:
                return
            ready, _, _ = select.select(list(running), [], [], 1.0)
            for pipe in list(running):
                pid, job, began, data = running[pipe]
                piece = os.read(pipe, 1 << 16) if pipe in ready else None
                if piece:
                    data += piece
                elif piece is not None:
                    del running[pipe]
                    os.close(pipe)
                    report = _reap(pid, job, bytes(data))
                    yield report
                    if stop is not None and stop(report):
                        ended = True
                elif time.monotonic() - began > SEED_S:
                    os.kill(pid, signal.SIGABRT)
    finally:
        for pid, *_ in running.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _fork(job: Options, before: Callable[[], None] | None) -> tuple[int, int]:
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:  # the child
        os.close(reader)
        faulthandler.enable()
        if before is not None:
            before()
        report: Any = run_seed(job)
        data = pickle.dumps(report)
        while data:
            data = data[os.write(writer, data) :]
    finally:
        sys.stdout.flush()
        os._exit(0)


def _reap(pid: int, job: Options, data: bytes) -> Report:
    _, status = os.waitpid(pid, 0)
    if data:
        return pickle.loads(data)
    return Report(seed=job.seed, violations=[f"the process ended with status {status}"])
