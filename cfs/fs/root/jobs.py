"""Long operations ("jobs"): what a developer registers, and what a running job may use.

A job is a record in the root group (`cfs.core.root.jobs`), so everybody sees it and it survives
whoever ran it; the root leader runs it, and when the leader dies the next one goes on from the
cursor. To make one:

    async def run(job: Job, context: JobContext) -> dict[str, Any]:
        context.total = await count(job.spec)          # figures are in `kind.unit`
        after = job.cursor                             # b"" at first, else as last saved
        while page := await next_page(after):
            await context.pace(page.size)              # bytes/s, live; yields to clients
            await work(page)                           # durable before the cursor passes it
            after = page.end
            context.advance(page.size, cursor=after)   # saved every second, and at the end
            context.message = f"looked at {page.name}"
            context.findings += page.bad
        return {"bad": context.findings}               # kept as the job's result

    office.jobs.register(JobKind(name="scrub", run=run, unit="bytes", rate=50 << 20))

`run` must be able to start at any cursor it saved, and to do again what it did after that: a
leader may die between the work and the save. It is cancelled (trio) by pause, cancel and loss of
leadership. A `Retryable` or `DeadlineExceeded` it raises is noted, and it is called again with the
newest cursor after a pause that grows to `RETRY_S_MAX`; any other error fails the job, and an
operator may resume it. Nothing it raises takes the process down.

Start one with `await office.jobs.start("scrub", spec, started_by="cluster")` on the root leader, or
with the command `job_start` of `root.admin` (`cfs.cli.jobs.start_job`, which also shows progress).
A spec is a dict of plain values, checked by `kind.check` where it is given. `kind.key(spec)`
names what no two jobs may do at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cfs.core.root.records import JobRecord
from cfs.fs.root.pace import Pace

Job = JobRecord
"""What `run` gets: spec, cursor and figures as they were last saved."""


class JobContext:
    """What a running job tells the world, and the pace it keeps."""

    def __init__(self, job: Job, pace: Pace) -> None:
        self.number = job.number
        self.done = job.done
        self.total = job.total
        """0 while it is not known."""
        self.findings = job.findings
        self.message = job.message
        """What it is doing, one short phrase for people."""
        self.last_error = job.last_error
        """Shown; set it for what went wrong and did not stop the job."""
        self.cursor = job.cursor
        self._pace = pace

    def advance(self, count: int, *, cursor: bytes | None = None) -> None:
        """Count work as done; `cursor` is where to go on: all before it must be durable."""
        self.done += count
        if cursor is not None:
            self.cursor = cursor

    async def pace(self, bytes_count: int) -> None:
        """Wait until so many bytes may be moved or read under the job's rate."""
        await self._pace.spend(bytes_count)


def _no_key(_spec: dict[str, Any]) -> str:
    return ""


def _any_spec(_spec: dict[str, Any]) -> None:
    return None


class JobKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of job."""

    name: str
    run: Callable[[Job, JobContext], Awaitable[dict[str, Any] | None]]
    unit: str = "bytes"
    """bytes, segments, groups...: what `done` and `total` count."""
    rate: int | Callable[[], int] = 0
    """Bytes a second unless the operator says otherwise; 0: no bound."""
    key: Callable[[dict[str, Any]], str] = _no_key
    check: Callable[[dict[str, Any]], None] = _any_spec
    """Raises Malformed or Refused for a spec that cannot be carried out."""
