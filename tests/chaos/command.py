"""The command line: which scenarios, how long each.

    python -m tests.chaos                         every scenario, 60 s each
    python -m tests.chaos partition power:xfs     these; power on XFS
    python -m tests.chaos --seconds 20 mixed

Needs root: it makes network namespaces and mounts, and removes what it made.
"""

from __future__ import annotations

import argparse
import os

from tests.chaos.run import run
from tests.chaos.scenarios import SCENARIOS

ALL = (*SCENARIOS, "power:xfs")


def main(arguments: list[str]) -> int:
    """Run scenarios; 1 when anything was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        epilog="; ".join(f"{n}: {f.__doc__}" for n, f in SCENARIOS.items()),
    )
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(ALL)}; all when none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults, each scenario")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    unknown = [n for n in chosen.scenario if n.partition(":")[0] not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]}: there are {', '.join(ALL)}")
    if os.geteuid():
        parser.error("needs root, for namespaces and mounts")
    failed = []
    for name in chosen.scenario or ALL:
        report = run(name, seconds=chosen.seconds, seed=chosen.seed)
        print(report.text(), flush=True)
        for violation in report.violations:
            print(f"  VIOLATION {violation}", flush=True)
        if report.violations:
            failed.append(name)
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0
