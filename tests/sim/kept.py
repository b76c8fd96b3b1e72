"""Seeds that failed once, made small, and kept: `kept.txt`.

A line is `seed faults why`: `faults` are the places, in the seed's own schedule, of those that are
needed (`all`, `none`, or numbers with commas). Minimising drops faults while a run still fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.sim.faults import Fault
from tests.sim.run import Options, Report, Run

FILE = Path(__file__).with_name("kept.txt")


class _Still:
    """A clock for looking at what a seed would do."""

    now = 0.0


def schedule_of(seed: int) -> list[Fault]:
    """Give the schedule that a seed draws."""
    report = Report(seed=seed)
    Run(Options(seed=seed), _Still(), report)
    return report.schedule


def chosen(seed: int, places: str) -> Options:
    """Give a seed's run with a part of its faults."""
    if places == "all":
        return Options(seed=seed)
    numbers = [] if places == "none" else [int(n) for n in places.split(",")]
    schedule = schedule_of(seed)
    return Options(seed=seed, schedule=[schedule[n] for n in numbers])


def kept() -> Iterator[Options]:
    """Give every kept run."""
    for line in FILE.read_text().splitlines():
        if line and not line.startswith("#"):
            seed, places, _why = line.split(maxsplit=2)
            yield chosen(int(seed), places)


def minimise(seed: int, fails: Callable[[Options], bool]) -> str:
    """Give the fewest faults of a failing seed's schedule with which it still fails."""
    places = list(range(len(schedule_of(seed))))
    for place in list(places):
        fewer = [p for p in places if p != place]
        if fails(chosen(seed, ",".join(map(str, fewer)) or "none")):
            places = fewer
    return ",".join(map(str, places)) or "none"
