"""The command line: which cases, how many at once, and progress that survives an interruption.

    python -m tests.crash --length 1                      all sequences of one operation
    python -m tests.crash --length 2 --progress FILE      all of two; begun again, it goes on
    python -m tests.crash --length 2 --cases 0.02 --seed 7  a seeded part of them
    python -m tests.crash --case "near: create A/new; append A/new 300" --point 7 --kind all --trace

A line of the progress file is a case that was run to its end, with what was found; the commit it
ran at is noted. Cases that failed are run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.crash.crash import KINDS, Choice, run_stem, to_pipe
from tests.crash.table import Case, sequences
from tests.sim.bugs import BUGS


def main(arguments: list[str]) -> int:
    """Run what was asked for; 1 when anything was found."""
    chosen = _parser().parse_args(arguments)
    if chosen.case:
        cases = [Case.parse(text) for text in chosen.case]
    else:
        cases = list(sequences(chosen.length))
    if chosen.list:
        print(*cases, f"{len(cases)} cases", sep="\n")
        return 0
    if not chosen.case:  # cheap and dear cases apart, so that all jobs end together
        random.Random(chosen.seed).shuffle(cases)
    cases = cases[: max(1, round(chosen.cases * len(cases)))]
    tally = Tally(chosen.progress)
    cases = [case for case in cases if str(case) not in tally.done]
    print(f"{len(tally.done)} cases done before, {len(cases)} to do", flush=True)

    def choice(case: Case) -> Choice:
        def keep(point: int, kind: str) -> bool:
            chance = random.Random(f"{chosen.seed}/{case}/{point}")
            return chance.random() < chosen.share and (
                not chosen.one_kind or chance.choice(kinds) == kind
            )

        kinds = tuple(chosen.kind or KINDS)
        return Choice(point=chosen.point, kinds=kinds, show=chosen.trace, keep=keep)

    if chosen.bug:
        BUGS[chosen.bug].apply()
    limit = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
    try:
        for report in run(cases, choice, at_once=chosen.jobs, limit=limit):
            tally.take(report)
    except KeyboardInterrupt:
        print("interrupted: begin again to go on")
    print(tally.text())
    return 1 if tally.found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--length", type=int, default=1, help="operations in a sequence")
    parser.add_argument("--case", action="append", help="only this sequence, as it is printed")
    parser.add_argument("--point", type=int, help="only this persistence point")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these crashes")
    parser.add_argument("--cases", type=float, default=1.0, help="a seeded part of the cases")
    parser.add_argument("--share", type=float, default=1.0, help="a seeded part of the points")
    parser.add_argument("--one-kind", action="store_true", help="one kind of crash at each point")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--progress", type=Path, help="keep what was done in this file")
    parser.add_argument("--trace", action="store_true", help="print every event after the crash")
    parser.add_argument("--bug", choices=list(BUGS), help="switch a seeded bug on: it is found")
    parser.add_argument("--list", action="store_true", help="print the cases, run none")
    return parser


class Tally:
    """What was run and found."""

    def __init__(self, progress: Path | None) -> None:
        self.progress = progress
        self.done: set[str] = set()
        self.cases = self.points = self.crashes = 0
        self.found: list[dict[str, Any]] = []
        self._open: dict[str, list[dict[str, Any]]] = {}
        self._began = time.monotonic()
        self._commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
        if progress is not None and progress.exists():
            for line in progress.read_text().splitlines():
                entry = json.loads(line)
                if not entry["found"]:
                    self.done.add(entry["case"])

    def take(self, report: dict[str, Any]) -> None:
        """Take one line of a stem."""
        case = report["case"]
        lines = self._open.setdefault(case, [])
        if "why" in report:
            self.found.append(report)
            lines.append(report)
            print(f"FOUND {case} | point {report.get('point')} | crash of {report.get('kind')}: "
                  f"{report['why']}", flush=True)  # fmt: skip
        elif "points" in report:
            lines.append(report)
            self.points += report["points"]
            self.crashes += report["tried"]
        elif "done" in report:
            self.cases += 1
            del self._open[case]
            entry = {
                "case": case, "commit": self._commit,
                "points": sum(line.get("points", 0) for line in lines),
                "crashes": sum(line.get("tried", 0) for line in lines),
                "found": [line for line in lines if "why" in line],
            }  # fmt: skip
            if self.progress is not None:
                self.progress.parent.mkdir(parents=True, exist_ok=True)
                with self.progress.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            if sys.stdout.isatty() or self.cases % 50 == 0:
                print(self.text(), flush=True)

    def text(self) -> str:
        """Sum up."""
        return (
            f"{self.cases} cases, {self.points} persistence points, {self.crashes} crashes in "
            f"{time.monotonic() - self._began:.0f} s; found: {len(self.found)}"
        )


def run(cases: list[Case], choice: Any, *, at_once: int, limit: float | None
        ) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Run cases in stems of their own process; give their reports as they come."""
    pipes: dict[int, tuple[int, bytearray]] = {}
    for number in range(min(at_once, len(cases))):
        share = cases[number::at_once]
        sys.stdout.flush()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            orders = ((case, choice(case)) for case in share
                      if limit is None or time.monotonic() < limit)  # fmt: skip
            run_stem(orders, to_pipe(writer))
            os._exit(1)
        os.close(writer)
        pipes[reader] = pid, bytearray()
    try:
        while pipes:
            for reader in select.select(list(pipes), [], [], 1.0)[0]:
                pid, data = pipes[reader]
                piece = os.read(reader, 1 << 16)
                data += piece
                *lines, rest = bytes(data).split(b"\n")
                data[:] = rest
                yield from map(json.loads, lines)
                if not piece:
                    del pipes[reader]
                    os.close(reader)
                    if os.waitpid(pid, 0)[1]:
                        yield {"case": f"stem {pid}", "why": "it could not be booted, or died"}
    finally:
        for pid, _ in pipes.values():
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
