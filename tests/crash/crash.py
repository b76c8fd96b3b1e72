"""A case in a copy of the stem, and a copy of that for each crash at each persistence point.

Copies are processes made by fork: a simulated cluster is one thread and nothing of it is outside,
so a copy goes on exactly as the original would have. The stem waits while its copy works, a case
while its crash is recovered from.

Kinds of crash: *client* (killed), *servers* (every node without power, nothing kept that was not
synced; the client goes on and must finish), *all* (both).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from typing import Any

import structlog
import trio

from cfs.core.errors import CfsError
from tests.crash import points
from tests.crash.model import Tree
from tests.crash.stem import CLIENT, READER, Stem
from tests.crash.table import Case, fixed
from tests.sim import checks
from tests.sim.engine import simulate
from tests.sim.machine import describe

KINDS = ("client", "servers", "all")
SETTLE_S = 1.0
"""What a client has done is durable after so long (DESIGN, section 6: the flush timer)."""
HEAL_S = 60.0
QUIET_S = 150.0
"""A silent session is forgotten after 60 s, an orphan that nobody told of found after 60 more."""
LINE_MAX = 1500
"""A report fits into what a pipe takes at once."""
CASE_S = 900
CRASH_S = 120
"""Real seconds after which a copy is given up."""


class Choice:
    """Which crashes of a case are carried out."""

    def __init__(
        self, *, point: int | None = None, kinds: tuple[str, ...] = KINDS, keep: Any = None,
        show: bool = False,
    ) -> None:  # fmt: skip
        self.point = point
        self.kinds = kinds
        self.keep = keep
        """`keep(point, kind)`: whether to crash there; None: everywhere."""
        self.show = show

    def takes(self, point: int, kind: str) -> bool:
        return (
            self.point in (None, point)
            and kind in self.kinds
            and (self.keep is None or self.keep(point, kind))
        )


def run_stem(orders: Any, report: Any) -> None:
    """Boot, then run `orders` (an iterator of (case, choice)), each in a copy; never returns."""
    points.install()

    async def main(clock: Any) -> None:
        stem = Stem(clock)
        structlog.configure(
            processors=[stem.trace.log], logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            await stem.boot(nursery)
            for case, choice in orders:
                running = Running(stem, case, choice, report)
                if copied(CASE_S, running.ended):
                    now.append(running)
                    await running.run()
                    leave()
                report({"case": str(case), "done": True})
            leave()

    now: list[Running] = []
    try:
        simulate(main, 1)
    except BaseException as error:  # noqa: BLE001 - a copy must end here, whatever it met
        for running in now:
            running.say(f"the run ended: {describe(error)}")
        leave(0 if now else 1)


def copied(limit_s: int, ended: Any) -> bool:
    """Fork: true in the copy; in the original false, after `ended(status)` of the copy."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)  # of its own work: others may be busy
        return True
    _, status = os.waitpid(pid, 0)
    ended(status)
    return False


def leave(status: int = 0) -> None:
    """End this copy."""
    sys.stdout.flush()
    os._exit(status)


class Running:
    """One case, in a copy of the stem."""

    def __init__(self, stem: Stem, case: Case, choice: Choice, report: Any) -> None:
        self.stem = stem
        self.case = case
        self.choice = choice
        self.report = report
        self.model = self._model()
        self.point = 0
        self.kind = ""
        """The crash that this copy carries out; empty in the original."""
        self.settled = False
        self.crashed = trio.Event()
        self.tried = 0
        self.sent = -1

    def _model(self) -> Tree:
        tree = fixed()
        for number, op in enumerate(self.case.given()):
            tree.apply(number, op)
        tree.begin()
        for number, op in enumerate(self.case.ops):
            tree.apply(number, op)
        return tree

    async def run(self) -> None:
        stem = self.stem
        stem.layout, stem.before, stem.ops = self.case.layout, self.case.given(), self.case.ops
        stem.given.set()
        await stem.prepared.wait()
        if stem.before:
            await stem.quiet()
        points.arm(self._reached)
        self._reached(inside=False)
        stem.go.set()
        with trio.move_on_after(HEAL_S):
            await self._over()
        if not self.kind:
            points.arm(None)
            if not stem.finished.is_set():
                self.say("the operations did not end")
            self.settled = True
            self._reached(inside=False)
            if not self.kind:
                self.report({"case": str(self.case), "points": self.point, "tried": self.tried})
                return
        await self._recover()

    async def _over(self) -> None:
        """Wait until the case is over: done and flushed, or this copy has crashed."""
        async with trio.open_nursery() as nursery:

            async def crashed() -> None:
                await self.crashed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(crashed)
            await self.stem.finished.wait()
            await trio.sleep(SETTLE_S)
            nursery.cancel_scope.cancel()

    def _reached(self, *, inside: bool = True) -> None:
        """At a persistence point: make a copy for each kind of crash, which crashes there."""
        if self.kind:
            return
        self.point += 1
        sent = self.stem.sent[CLIENT]
        for kind in self.choice.kinds:
            if kind == "client" and sent == self.sent and not self.settled:
                continue  # it has sent nothing since the point before: the same crash
            if not self.choice.takes(self.point, kind):
                continue
            self.tried += 1
            if copied(CRASH_S, self.ended):
                self.kind = kind
                self._crash()
                if inside and kind != "client":
                    raise OSError(errno.EIO, "the power went")
                return
        self.sent = sent

    def ended(self, status: int) -> None:
        """Note how a copy ended."""
        if status:
            self.say(f"a copy's process ended with status {status}")

    def say(self, why: str) -> None:
        self.report({"case": str(self.case), "point": self.point, "kind": self.kind, "why": why})

    # --- in the copy that crashes

    def _crash(self) -> None:
        stem, cluster = self.stem, self.stem.cluster
        points.arm(None)
        stem.trace.show = self.choice.show
        self.acked, self.begun = stem.acked, stem.begun
        stem.trace.line(f"crash of {self.kind} at point {self.point}, {self.acked} of "
                        f"{self.begun} operations answered")  # fmt: skip
        if self.kind in ("client", "all"):
            cluster.machines[CLIENT].kill()
        if self.kind in ("servers", "all"):
            for machine in [*cluster.metas(), *cluster.storages()]:
                machine.cut_power(None)
        self.crashed.set()

    async def _recover(self) -> None:
        stem, cluster = self.stem, self.stem.cluster
        whys: list[str] = []
        if self.kind == "servers":
            with trio.move_on_after(HEAL_S) as scope:
                await stem.finished.wait()
                await stem.files.sync()
            if scope.cancelled_caught:
                whys.append("the client did not finish once the servers were back")
            self.acked = self.begun = len(self.case.ops)
        try:
            await cluster.whole(HEAL_S)
        except trio.TooSlowError:
            whys.append(f"not healed: waits for {cluster.waits_for}")
        reader = cluster.new_client(READER)

        async def work(files: Any, _life: Any) -> None:
            try:
                seen, data = await stem.look(files)
            except CfsError as error:
                whys.append(f"cannot be read: {error!r}")
                return
            why = self.model.judge(
                seen, data, acked=self.acked, begun=self.begun,
                settled=self.settled or self.kind == "servers",
            )  # fmt: skip
            if why is not None:
                whys.append(why)

        with trio.move_on_after(HEAL_S) as scope:
            await cluster.client(reader, work)
        if scope.cancelled_caught:
            whys.append("not everything could be read")
        whys += [f"a client ended: {f}" for m in cluster.clients() for f in m.failures]
        whys += await self._whole()
        for why in whys:
            self.say(why)
        stem.trace.line(f"recovered: {whys or 'well'}")
        leave()

    async def _whole(self) -> list[str]:
        """Wait until nothing is under way; say what is then not whole."""
        cluster = self.stem.cluster
        limit = trio.current_time() + QUIET_S
        why = checks.unsettled(cluster)
        while why is not None and trio.current_time() < limit:
            await trio.sleep(0.1)
            why = checks.unsettled(cluster)
        if why is not None:
            return [f"not quiet: {why}"]
        return checks.tree(cluster) + checks.replicas(cluster) + cluster.watch.violations


def to_pipe(writer: int) -> Any:
    """Give a function that writes a report as one line of a pipe, whole."""

    def report(line: dict[str, Any]) -> None:
        if "why" in line:
            line = {**line, "why": line["why"][:LINE_MAX]}
        os.write(writer, json.dumps(line).encode() + b"\n")

    return report
