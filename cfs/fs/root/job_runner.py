"""Runs the jobs that the root group remembers, while this node leads it.

Owns: which jobs run here (those whose record says running), their tasks, and what is saved of them.
A job's figures live here; they are proposed every `SAVE_S` when they changed, and when it ends or
is interrupted. Whoever else leads later starts from what was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
import trio

from cfs.core.api.root import WorkerStatus
from cfs.core.errors import CfsError, DeadlineExceeded, Malformed, NotLeader, Retryable
from cfs.core.root import commands, jobs
from cfs.core.root.records import JobRecord, JobState
from cfs.fs.root.jobs import JobContext, JobKind
from cfs.fs.root.pace import Pace
from cfs.fs.root.replica import RootReplica
from cfs.net.ports import WallClock

_LOG = structlog.get_logger()

LOOK_S = 0.25
SAVE_S = 1.0
LAST_SAVE_S = 2.0
"""An interrupted job's figures are saved if that is possible within this."""
RETRY_S_MIN = 0.5
RETRY_S_MAX = 30.0
SPEED_S = 5.0
"""The speed shown is that of about the last so many seconds."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class _Running:
    """A job that runs here."""

    def __init__(self, record: JobRecord, busy: Callable[[], bool]) -> None:
        self.rate = record.rate
        self.scope = trio.CancelScope()
        self.context = JobContext(record, Pace(lambda: self.rate, busy))
        self.saved = self.figures()
        self.speed = 0.0
        self._measured = trio.current_time(), record.done

    def figures(self) -> tuple[Any, ...]:
        c = self.context
        return c.done, c.total, c.findings, c.message, c.last_error, c.cursor

    def measure(self) -> None:
        """Bring the speed up to date."""
        now, (then, done) = trio.current_time(), self._measured
        if now - then >= 1.0:
            weight = min(1.0, (now - then) / SPEED_S)
            latest = max(0, self.context.done - done) / (now - then)
            self.speed = latest if not self.speed else self.speed + (latest - self.speed) * weight
            self._measured = now, self.context.done


class Jobs:
    """Kinds, running jobs, and the commands on them."""

    def __init__(
        self,
        *,
        node: str,
        replica: RootReplica,
        clock: WallClock,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._node = node
        self._replica = replica
        self._clock = clock
        self._busy = busy
        self._kinds: dict[str, JobKind] = {}
        self._running: dict[int, _Running] = {}
        self._wake = trio.Event()

    def register(self, kind: JobKind) -> None:
        """Make a kind known; before `run`."""
        assert kind.name not in self._kinds
        self._kinds[kind.name] = kind

    async def start(
        self, kind_name: str, spec: dict[str, Any], *, started_by: str, rate: int | None = None
    ) -> int:
        """Remember a job; give its number. It is durable on return and begins at once.

        Raises Malformed for an unknown kind, what the kind's `check` raises, and Refused while a
        job with the same key is not over.
        """
        kind = self._kind(kind_name)
        kind.check(spec)
        number = await self._replica.propose(
            commands.StartJob(
                kind=kind_name,
                spec=spec,
                key=kind.key(spec),
                rate=rate if rate is not None else _default_rate(kind),
                unit=kind.unit,
                started_by=started_by,
                now_ms=self._now_ms(),
            )
        )
        _LOG.info("job_start", job=number, kind=kind_name, by=started_by)
        self._wake.set()
        return number

    async def control(self, number: int, *, state: str = "", rate: int | None = None) -> JobRecord:
        """Pause, resume or cancel a job, or set its rate; give its record."""
        await self._replica.propose(
            commands.ControlJob(number=number, now_ms=self._now_ms(), state=state, rate=rate)
        )
        _LOG.info("job_control", job=number, state=state, rate=rate)
        self._wake.set()
        return self.find(number)

    def find(self, number: int) -> JobRecord:
        """Give a job's record; raises NotFound."""
        return jobs.read_job(self._replica.state, number)

    def active(self, kind: str) -> list[JobRecord]:
        """Give the jobs of a kind that are not over."""
        known = jobs.read_jobs(self._replica.state)
        return [j for j in known if j.kind == kind and not jobs.is_over(j)]

    def describe(self) -> list[dict[str, Any]]:
        """Give every job that is remembered with its figures of now, oldest first."""
        return [self._described(record) for record in jobs.read_jobs(self._replica.state)]

    def worker_states(self) -> list[WorkerStatus]:
        """Give the jobs that are not over as workers."""
        return [
            WorkerStatus(
                name=f"{job['kind']} (job {job['id']})",
                node=self._node,
                state=job["state"],
                progress=progress_text(job),
                last_error=job["last_error"],
            )
            for job in self.describe()
            if job["state"] not in (JobState.DONE, JobState.CANCELLED)
        ]

    async def run(self) -> None:
        """Run what is to be run until cancelled (when leadership is lost)."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    self._reconcile(nursery)
                    with trio.move_on_after(LOOK_S):
                        await self._wake.wait()
        finally:
            self._running.clear()

    # --- private

    def _kind(self, name: str) -> JobKind:
        if name not in self._kinds:
            known = ", ".join(self._kinds)
            raise Malformed(f"this program knows no kind of job {name!r}; it knows {known}")
        return self._kinds[name]

    def _reconcile(self, nursery: trio.Nursery) -> None:
        wanted = {
            record.number: record
            for record in jobs.read_jobs(self._replica.state)
            if record.state == JobState.RUNNING
        }
        for number, running in self._running.items():
            running.measure()
            if number in wanted:
                running.rate = wanted[number].rate
            else:
                running.scope.cancel()
        for number, record in wanted.items():
            if number not in self._running:
                self._running[number] = running = _Running(record, self._busy)
                nursery.start_soon(self._supervise, record, running)

    async def _supervise(self, record: JobRecord, running: _Running) -> None:
        """Run one job until it ends or is interrupted; never raises anything but Cancelled."""
        try:
            with running.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._save_often, running)
                    await self._attempts(record, running)
                    nursery.cancel_scope.cancel()
            with trio.move_on_after(LAST_SAVE_S, shield=True):
                await self._save(running)
        finally:
            self._running.pop(record.number, None)

    async def _attempts(self, record: JobRecord, running: _Running) -> None:
        context, pause_s = running.context, RETRY_S_MIN
        while True:
            began = context.done
            end, result = JobState.FAILED, {}
            try:
                kind = self._kind(record.kind)
                result = await kind.run(_as_of_now(record, context), context) or {}
            except (Retryable, DeadlineExceeded) as error:
                context.last_error = str(error)
                _LOG.info("job_again", job=record.number, error=str(error))
                if isinstance(error, NotLeader) and not self._replica.leads:
                    return
                pause_s = RETRY_S_MIN if context.done > began else min(2 * pause_s, RETRY_S_MAX)
                await trio.sleep(pause_s)
                await self._save(running)
                continue
            except CfsError as error:
                context.last_error = str(error)
                _LOG.warning("job_failed", job=record.number, error=str(error))
            except Exception as error:  # noqa: BLE001 - it would fail every next leader too
                context.last_error = f"internal error: {error!r}"
                _LOG.exception("job_broken", job=record.number)
            else:
                end = JobState.DONE
                context.last_error = context.message = ""
            while not await self._save(running, end=end, result=result):  # noqa: ASYNC110 - a retry
                await trio.sleep(RETRY_S_MIN)
            _LOG.info("job_end", job=record.number, state=end, result=result)
            return

    async def _save_often(self, running: _Running) -> None:
        while True:
            await trio.sleep(SAVE_S)
            await self._save(running)

    async def _save(
        self, running: _Running, *, end: str = "", result: dict[str, Any] | None = None
    ) -> bool:
        """Have the figures replicated if they changed; tell whether that is so (or is over)."""
        figures = running.figures()
        if figures == running.saved and not end:
            return True
        context = running.context
        command = commands.ReportJob(
            number=context.number,
            now_ms=self._now_ms(),
            cursor=context.cursor,
            done=context.done,
            total=context.total,
            findings=context.findings,
            message=context.message,
            last_error=context.last_error,
            state=end,
            result=result or {},
        )
        try:
            await self._replica.propose(command)
        except (Retryable, DeadlineExceeded):
            return False
        except CfsError as error:  # paused or cancelled meanwhile
            _LOG.info("job_not_saved", job=context.number, error=str(error))
            return True
        running.saved = figures
        return True

    def _described(self, record: JobRecord) -> dict[str, Any]:
        running = self._running.get(record.number)
        live: Any = running.context if running is not None else record
        speed = running.speed if running is not None and record.state == JobState.RUNNING else 0.0
        left = max(0, live.total - live.done)
        return {
            "id": record.number,
            "kind": record.kind,
            "spec": record.spec,
            "state": record.state.value,
            "done": live.done,
            "total": live.total,
            "unit": record.unit,
            "speed": round(speed, 1),
            "eta_s": round(left / speed) if speed > 0 and live.total else None,
            "rate": record.rate,
            "findings": live.findings,
            "message": live.message,
            "last_error": live.last_error,
            "started_by": record.started_by,
            "started_ms": record.started_ms,
            "updated_ms": record.updated_ms,
            "result": record.result,
        }

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _default_rate(kind: JobKind) -> int:
    return kind.rate if isinstance(kind.rate, int) else kind.rate()


def _as_of_now(record: JobRecord, context: JobContext) -> JobRecord:
    return msgspec.structs.replace(
        record,
        cursor=context.cursor,
        done=context.done,
        total=context.total,
        findings=context.findings,
    )


def progress_text(job: dict[str, Any]) -> str:
    """Put a job's progress in one phrase."""
    unit = job["unit"]
    parts = [_amount(job["done"], unit)]
    if job["total"]:
        share = min(100, 100 * job["done"] // job["total"])
        parts = [f"{share} %, {_amount(job['done'], unit)} of {_amount(job['total'], unit)}"]
    if job["speed"]:
        parts.append(f"{_amount(job['speed'], unit)}/s")
    if job["eta_s"] is not None:
        parts.append(f"{job['eta_s']} s left")
    if job["findings"]:
        parts.append(f"{job['findings']} findings")
    if job["message"]:
        parts.append(job["message"])
    return ", ".join(parts)


def _amount(value: float, unit: str) -> str:
    if unit != "bytes":
        return f"{value:.0f} {unit}"
    power = 0
    while value >= 1024 and power < len(_UNITS) - 1:
        value /= 1024
        power += 1
    return f"{value:.1f} {_UNITS[power]}" if power else f"{value:.0f} {_UNITS[0]}"
