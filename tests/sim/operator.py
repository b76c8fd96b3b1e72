"""What an operator does to a cluster that runs: `root.admin` from a machine of its own, repeated.

A command whose answer was lost may have taken effect: who sends it again reads a refusal as that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from cfs.cli.process import Process
from cfs.core.api import root
from cfs.core.errors import CfsError, DeadlineExceeded, Retryable
from tests.sim.machine import Life, Machine, SimPorts

PAUSE_S = 0.3
PATIENCE_S = 60.0
JOB_S = 90.0
GRACE_S = 8.0
"""Longer than a fault keeps a node down: nobody's data is re-homed but of what is lost."""


class Operator:
    """The operator of one cluster."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._count = 0

    async def command(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Have the root leader run a command. Raises what it answers; DeadlineExceeded."""
        cluster = self._cluster
        self._count += 1
        machine = cluster.machine("admin", f"admin{self._count}")
        machine.home = cluster._home("admin", machine.name, 0)
        answer: list[Any] = []

        async def main(_machine: Machine, life: Life) -> None:
            process = Process(Path(machine.name), ports=SimPorts(machine, life))
            async with trio.open_nursery() as nursery:
                await nursery.start(process.pool.run)
                await nursery.start(process.view.run)
                answer.append(await _asked(process, name, arguments))
                nursery.cancel_scope.cancel()

        life = await machine.start(cluster.nursery, main)
        await life.ended.wait()
        del cluster.machines[machine.name]
        cluster.trace.line(f"operator {name} {arguments} -> {answer}")
        found = answer[0] if answer else DeadlineExceeded(f"{name}: {machine.failures}")
        if isinstance(found, CfsError):
            raise found
        cluster.trace.counts[f"operator {name}"] += 1
        return found

    async def job(self, kind: str, /, **spec: Any) -> str:
        """Start a job and wait for its end; give its last state, or why it was not started."""
        try:
            number = (await self.command("job_start", kind=kind, spec=spec))["id"]
        except CfsError as error:
            return f"not started: {error}"
        state = "?"
        with trio.move_on_after(JOB_S):
            while state not in {"done", "failed", "cancelled"}:
                await trio.sleep(PAUSE_S)
                try:
                    state = (await self.command("job_get", id=number))["job"]["state"]
                except CfsError:
                    continue
        self._cluster.trace.counts[f"job {kind} {state}"] += 1
        return state


async def _asked(process: Process, name: str, arguments: dict[str, Any]) -> Any:
    error: CfsError = DeadlineExceeded(name)
    with trio.move_on_after(PATIENCE_S):
        while True:
            try:
                request = root.Admin(command=name, arguments=arguments)
                return (await process.leader.ask("root.admin", request, timeout_s=15)).value
            except (Retryable, DeadlineExceeded) as refused:
                error = refused
            except CfsError as refused:
                return refused
            await trio.sleep(PAUSE_S)
    return error
