"""One run: the work goes on while a scenario does; then everything is healed, read and checked."""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter

from tests.chaos.cluster import Cluster
from tests.chaos.journal import Journal, sets
from tests.chaos.scenarios import CLIENT_FAULTS, SCENARIOS, Nemesis
from tests.chaos.work import ACCOUNTS, KINDS, REGISTER_BYTES, START, Work, bank_step
from tests.sim.checks import locks, shortest
from tests.sim.linear import Undecided, explain
from tests.sim.models import file_step

HEAL_S = 120.0
HANG_S = 150.0


@dataclasses.dataclass
class Report:
    """What a run was and found."""

    scenario: str
    violations: list[str] = dataclasses.field(default_factory=list)
    operations: int = 0
    answered: int = 0
    undecided: int = 0
    healed_s: float = 0.0
    restarts: int = 0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    errors: Counter[str] = dataclasses.field(default_factory=Counter)

    def text(self) -> str:
        faults = ", ".join(f"{n} {what}" for what, n in sorted(self.faults.items()))
        errors = ", ".join(f"{what} {n}" for what, n in sorted(self.errors.items())) or "none"
        state = "FAILED" if self.violations else "ok"
        return (
            f"{self.scenario:<12} {state}: {self.answered} of {self.operations} operations "
            f"answered, {self.undecided} objects undecided; {faults}; processes restarted "
            f"{self.restarts}; healthy again after {self.healed_s:.1f} s; errors: {errors}"
        )


def run(name: str, *, seconds: float, seed: int) -> Report:
    """Run a scenario on a cluster of its own. Never raises for what the product does."""
    report = Report(name)
    kind = "ext4"
    scenario, _, more = name.partition(":")
    if more:
        kind = more
    with Cluster(kind=kind) as cluster:
        journal = Journal()
        kinds = tuple(k for k in KINDS if k != "bank" or scenario not in CLIENT_FAULTS)
        work = Work(cluster.clients, journal, kinds, seed)
        work.start()
        nemesis = Nemesis(cluster, random.Random(seed), seconds)
        try:
            SCENARIOS[scenario](nemesis)
            _heal(cluster, report)
        finally:
            work.stop(HANG_S)
        report.violations += work.failures
        _read_all(cluster, journal, kinds, report)
        report.faults, report.restarts = nemesis.counts, cluster.restarts
        report.errors = journal.errors
        if not work.failures:
            _check(cluster, journal, report)
    return report


def _heal(cluster: Cluster, report: Report) -> None:
    began = time.monotonic()
    cluster.end_relays()
    cluster.held.clear()
    try:
        cluster.settle(HEAL_S)
    except AssertionError as error:
        report.violations.append(str(error))
    report.healed_s = time.monotonic() - began
    time.sleep(2.0)  # the work goes on for a moment in a healthy cluster


def _read_all(cluster: Cluster, journal: Journal, kinds: tuple[str, ...], report: Report) -> None:
    """Read everything on both mounts: the last operations of the history."""
    for client in cluster.clients:
        base, life = client.mount / "chaos", f"{client.life}.end"
        for kind, call in (
            ("register", lambda b=base: (b / "register/value").read_bytes()[:REGISTER_BYTES]),
            ("append", lambda b=base: (b / "append/lines").read_bytes()),
            ("set", lambda b=base: frozenset(p.name for p in (b / "set").iterdir())),
            ("swap", lambda b=base: (b / "swap/value").read_bytes()),
            ("bank", lambda b=base: tuple(int((b / f"bank/{n}").read_bytes())
                                          for n in range(ACCOUNTS))),
        ):  # fmt: skip
            if kind not in kinds:
                continue
            op = journal.begin(life, kind, "read")
            try:
                journal.end(op, ("ok", call()))
            except OSError as error:
                journal.end(op, None)
                report.violations.append(f"{life} cannot read {kind}: {error}")


def _check(cluster: Cluster, journal: Journal, report: Report) -> None:
    alive = {client.life for client in cluster.clients}
    for life in sorted({op.client for op in journal.ops} - alive):
        journal.lost(life, ended=not life.endswith(".end"))
    report.operations, report.answered = len(journal.ops), journal.done()
    models = {
        "register": (b"", file_step), "append": (b"", file_step), "swap": (b"", file_step),
        "bank": ((START,) * ACCOUNTS, bank_step),
    }  # fmt: skip
    for name, ops in sorted(journal.by_object().items()):
        if name == "set":
            report.violations += sets(ops)[:20]
            continue
        initial, step = models[name]
        try:
            if explain(ops, initial, step) is None:
                why = shortest(ops, initial, step)
                report.violations.append(
                    f"{name}: no order explains its {len(ops)} operations{why}"
                )
        except Undecided:
            report.undecided += 1
    report.violations += locks(journal.held)
