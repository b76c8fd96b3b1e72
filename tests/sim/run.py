"""One run of one seed: make a cluster, work while things fail, heal, check everything."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections import Counter
from typing import Any

import structlog
import trio

from cfs.core.errors import CfsError
from cfs.core.root import commands
from cfs.fs.root import collector
from tests.sim import checks
from tests.sim.cluster import Cluster, Shape
from tests.sim.engine import simulate
from tests.sim.faults import Fault, Nemesis, draw
from tests.sim.history import History
from tests.sim.machine import HONEST_ENDS, Machine
from tests.sim.operator import GRACE_S
from tests.sim.past import look_back
from tests.sim.trace import Trace
from tests.sim.workload import Plan, Worker, World

HEAL_S = 180.0
SETTLE_S = 120.0
LONG = 0.1
"""Share of runs in which clients work for `LONG_S`: more than twice as long as a session lives."""
LONG_S = 9.0


@dataclasses.dataclass(kw_only=True)
class Report:
    """What a run was and found."""

    seed: int
    digest: str = ""
    violations: list[str] = dataclasses.field(default_factory=list)
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    operations: int = 0
    checked: int = 0
    undecided: int = 0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    schedule: list[Fault] = dataclasses.field(default_factory=list)
    shape: Any = None
    trace: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(kw_only=True)
class Options:
    """What a seed decides, and what a caller may decide instead."""

    seed: int
    work_s: float = 0.0
    schedule: list[Fault] | None = None
    shape: Shape | None = None
    show: bool = False
    focus: tuple[str, ...] = ()
    """Kinds of faults to draw from; empty: the swarm's choice."""
    length_s: float = 0.0
    """How long each fault lasts; 0: the seed's choice."""
    plan: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What of the clients' plan is not the seed's choice."""
    brief: bool = False
    """Only say whether it fails."""


def run_seed(options: Options) -> Report:
    """Run a seed. Never raises for what the product does: that is a violation."""
    report = Report(seed=options.seed)
    began = time.process_time()

    async def main(clock: Any) -> None:
        run = Run(options, clock, report)
        try:
            await run.run()
        finally:
            report.virtual_s = clock.now
            report.digest = run.trace.digest()
            report.counts = run.trace.counts
            report.trace = run.trace.last

    try:
        simulate(main, options.seed)
    except BaseExceptionGroup as error:
        report.violations.append(f"the run ended: {_texts(error)}")
    except Exception as error:  # noqa: BLE001 - whatever it is, the run failed
        report.violations.append(f"the run ended: {_texts(error)}")
    report.cpu_s = time.process_time() - began
    return report


class Run:
    """The acts of a run."""

    def __init__(self, options: Options, clock: Any, report: Report) -> None:
        seed = f"{options.seed}"
        self.options = options
        self.report = report
        self.clock = clock
        self.trace = trace = Trace(clock, show=options.show)
        structlog.configure(
            processors=[trace.log], logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )  # fmt: skip
        chance = random.Random(f"{seed}/run")
        self.shape = options.shape or Shape.draw(chance)
        self.work_s = options.work_s or chance.choice((2.0, 3.0, 5.0))
        self.plan = Plan(chance)
        more = random.Random(f"{seed}/more")
        self.plan.widen(more)
        if more.random() < LONG and not options.work_s:
            self.work_s = max(self.work_s, LONG_S)
        collector.GRACE_S = chance.choice((0.0, 0.2, 5.0))  # nothing may depend on it
        self.quota = chance.choice((320, 400, 520)) // self.shape.clients
        self.plan.rate = self.quota / self.work_s
        for name, value in options.plan.items():
            setattr(self.plan, name, value)
        self.schedule = options.schedule
        if self.schedule is None:
            self.schedule = draw(
                random.Random(f"{seed}/faults"), self.work_s, options.focus, options.length_s
            )
        report.schedule, report.shape = self.schedule, self.shape
        self.cluster = Cluster(seed=seed, shape=self.shape, clock=clock, trace=trace)
        self.history = History(clock, trace)
        self.world = World(self.history, self.plan, self.shape.shards)
        self.nemesis = Nemesis(self.cluster, self.history)
        self.seed = seed

    async def run(self) -> None:
        cluster, report = self.cluster, self.report
        async with trio.open_nursery() as nursery:
            await cluster.make(nursery)
            await self._prepare()
            began = self.clock.now
            self.world.stop_at = began + self.work_s
            try:
                async with trio.open_nursery() as acting:
                    for number in range(self.shape.clients):
                        acting.start_soon(self._client, f"client{number + 1}")
                    await self.nemesis.run(self.schedule)
                    await self._healed()
                    with_limit = acting
                    with_limit.cancel_scope.deadline = self.clock.now + HEAL_S
                if acting.cancel_scope.cancelled_caught:
                    report.violations.append("clients did not finish after everything was healed")
                await self._read_all()
                await self._settled()
                self._check()
            finally:
                report.operations += len(self.history.ops)
            nursery.cancel_scope.cancel()

    async def _prepare(self) -> None:
        machine = self.cluster.new_client("operator")

        async def work(files: Any, _life: Any) -> None:
            await self.world.prepare(files)
            await files.close()

        with trio.fail_after(120):
            await self.cluster.client(machine, work)
            if any(fault.kind == "disk_lost" for fault in self.schedule or ()):
                await self.cluster.operate(commands.Set(name="grace_s", value=GRACE_S))
        if machine.failures:
            raise AssertionError(machine.failures[0])

    async def _client(self, name: str) -> None:
        """Live, die and come back until the time is over."""
        machine = self.cluster.new_client(name)
        self.world.left[name] = self.quota
        while self.world.goes_on(name) or not machine.lives:
            chance = random.Random(f"{self.seed}/{name}/{machine.lives + 1}")
            key = f"{name}.{machine.lives + 1}"

            async def work(files: Any, _life: Any, key: str = key, chance: Any = chance) -> None:
                workers = [
                    Worker(self.world, files, key, random.Random(chance.getrandbits(64)), n)
                    for n in range(self.plan.workers)
                ]
                watchers = [
                    Worker(
                        self.world, files, key, random.Random(f"{chance.random()}/watch"), 90 + n
                    )
                    for n in range(self.plan.readers)
                ]
                async with trio.open_nursery() as nursery:
                    for worker in workers:
                        nursery.start_soon(worker.run)
                    for n, worker in enumerate(watchers):
                        nursery.start_soon(worker.watch, n)
                await workers[0].finish()
                with contextlib.suppress(CfsError):
                    await files.close()

            ends = len(machine.failures)
            await self.cluster.client(machine, work)
            self.history.lost(key, ended=True)
            for failure in machine.failures[ends:]:
                if not failure.startswith(HONEST_ENDS):
                    self.report.violations.append(f"{key} ended by itself: {failure}")
            await trio.sleep(0.5 * chance.random())

    async def _healed(self) -> None:
        cluster = self.cluster
        cluster.held_down.clear()
        try:
            await cluster.whole(HEAL_S)
        except trio.TooSlowError:
            self.report.violations.append(f"not healed: waits for {cluster.waits_for}")
        self.trace.line("healed")

    async def _read_all(self) -> None:
        """Let a new client read everything, as the last operations of the history.

        In every other run as many storage nodes as may be lost have no power meanwhile.
        """
        away = self._away()
        for each in away:
            self.cluster.held_down.add(each.name)
            each.cut_power(None)
        machine = self.cluster.new_client("reader")

        async def work(files: Any, _life: Any) -> None:
            worker = Worker(self.world, files, "reader", random.Random(0))
            for number, ino in enumerate(self.world.files):
                await worker.did(f"file {number}", "read", (), lambda i=ino: worker._read(i))
            for number in range(2):
                name = b"s%d" % number
                await worker.did(f"swap {number}", "read", (),
                                 lambda n=name: worker._read_name(n))  # fmt: skip
            for base in self.world.bases:
                await worker.did("tree", "list", (base,), lambda b=base: worker._listed(b))
                for name in (b"a", b"b", b"c", b"d"):
                    await worker._lookup(base, name)
            for taken in self.history.snapshots:
                await look_back(worker, *taken)
            self.trace.line("everything is read")
            await files.close()

        with trio.move_on_after(HEAL_S) as scope:
            await self.cluster.client(machine, work)
        self.cluster.held_down.clear()
        unread = [op for op in self.history.ops if op.client == "reader" and op.dropped]
        self.report.violations += [f"cannot be read at the end: {op}" for op in unread]
        self.report.violations += [f"the reader ended: {f}" for f in machine.failures]
        if scope.cancelled_caught:
            self.report.violations.append("not everything could be read after healing")

    def _away(self) -> list[Machine]:
        """Choose storage nodes to read without: those whose bytes were damaged before others."""
        chance = random.Random(f"{self.seed}/away")
        if chance.random() < 0.5:
            return []
        stores = self.cluster.storages()
        chance.shuffle(stores)
        stores.sort(key=lambda machine: machine.name != self.nemesis.damaged)
        count = self.shape.profile.parity
        self.trace.counts["read without nodes"] += count
        return stores[:count]

    async def _settled(self) -> None:
        limit = self.clock.now + SETTLE_S
        why: str | None = "?"
        while self.clock.now < limit and why is not None:
            await trio.sleep(0.5)
            why = checks.unsettled(self.cluster)
        if why is not None:
            self.report.violations.append(f"not quiet: {why}")
        with contextlib.suppress(trio.TooSlowError):
            await self.cluster.whole(30)

    def _check(self) -> None:
        report, cluster = self.report, self.cluster
        found, report.checked, report.undecided = checks.histories(
            self.history, tuple(self.world.bases), brief=self.options.brief
        )
        counts = (
            self.trace.counts
        )  # locks are checked by `checks.locks`, syncs by what must be there
        asides = sum(counts[n] for n in ("lock taken", "lock refused", "fsync acknowledged"))
        report.checked += asides
        report.operations += asides
        report.violations += found
        report.violations += checks.locks(self.world.held)
        report.violations += checks.replicas(cluster)
        report.violations += checks.tree(cluster)
        report.violations += cluster.watch.violations
        self.trace.counts["commands applied"] = cluster.watch.applied
        self.trace.counts["bytes sent"] = cluster.network.bytes


def _texts(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(sorted({_texts(e) for e in error.exceptions}))
    if isinstance(error, trio.TrioInternalError):  # raised between turns: by the clock or its calls
        return _texts(error.__cause__ or error.__context__ or AssertionError())
    return f"{type(error).__name__}: {error}"
