"""Long operations as the root group remembers them, so that they survive whoever ran them.

    running <──> paused      running ──> done
    running ──> failed ──> running        running, paused, failed ──> cancelled

A job is *over* when done or cancelled: nothing changes it any more, and only the newest
`OVER_KEPT` of those are remembered. What a job does is its kind's business
(`cfs.fs.root.jobs`): here are a spec, a cursor and figures that nobody interprets.
"""

from __future__ import annotations

import msgspec

from cfs.core.errors import Malformed, NotFound, Refused
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records
from cfs.core.root.records import JobRecord, JobState, encode, get, get_counters, long_key

ACTIVE_MAX = 64
OVER_KEPT = 64
SPEC_BYTES_MAX = 64 << 10
CURSOR_BYTES_MAX = 64 << 10
TEXT_MAX = 500
"""Characters of a message or an error that are kept."""

_OVER = (JobState.DONE, JobState.CANCELLED)
_ENDS = (JobState.DONE, JobState.FAILED)
_CONTROL: dict[JobState, tuple[JobState, ...]] = {
    JobState.RUNNING: (JobState.PAUSED, JobState.CANCELLED),
    JobState.PAUSED: (JobState.RUNNING, JobState.CANCELLED),
    JobState.FAILED: (JobState.RUNNING, JobState.CANCELLED),
    JobState.DONE: (),
    JobState.CANCELLED: (),
}


def read_jobs(kv: Reader) -> list[JobRecord]:
    """Give every job that is remembered, oldest first."""
    return records.get_all(kv, JobRecord, records.JOB_PREFIX)


def read_job(kv: Reader, number: int) -> JobRecord:
    """Give one job; raises NotFound."""
    record = get(kv, JobRecord, long_key(records.JOB_PREFIX, number)) if number > 0 else None
    if record is None:
        raise NotFound(f"there is no job {number}; see cfs admin jobs")
    return record


def is_over(record: JobRecord) -> bool:
    """Tell whether nothing will change it any more."""
    return record.state in _OVER


def start(kv: Writer, command: commands.StartJob) -> int:
    """Remember a new job; forgets the oldest of those that are over."""
    if len(msgspec.msgpack.encode(command.spec)) > SPEC_BYTES_MAX or command.rate < 0:
        raise Malformed(f"a {command.kind} job with an impossible spec or rate")
    known = read_jobs(kv)
    active = [j for j in known if not is_over(j)]
    for other in active:
        if command.key and other.key == command.key:
            raise Refused(
                f"job {other.number} ({other.kind}) does that already and is {other.state}: "
                f"cfs admin job attach {other.number}"
            )
    if len(active) >= ACTIVE_MAX:
        raise Refused(f"{len(active)} jobs are not over: cancel some first")
    over = [j for j in known if is_over(j)]
    for old in over[: max(0, len(over) + 1 - OVER_KEPT)]:
        kv.delete(long_key(records.JOB_PREFIX, old.number))
    counters = get_counters(kv)
    number = counters.next_job
    kv.put(records.COUNTERS_KEY, encode(msgspec.structs.replace(counters, next_job=number + 1)))
    _put(
        kv,
        JobRecord(
            number=number,
            kind=command.kind,
            spec=command.spec,
            key=command.key,
            state=JobState.RUNNING,
            started_by=command.started_by,
            started_ms=command.now_ms,
            updated_ms=command.now_ms,
            rate=command.rate,
            unit=command.unit,
        ),
    )
    return number


def report(kv: Writer, command: commands.ReportJob) -> int:
    """Note progress, or the end."""
    record = read_job(kv, command.number)
    if is_over(record):
        raise Refused(f"job {record.number} is {record.state}")
    if len(command.cursor) > CURSOR_BYTES_MAX:
        raise Malformed(f"job {record.number}: a cursor of {len(command.cursor)} bytes")
    state = record.state
    if command.state:
        if record.state != JobState.RUNNING or command.state not in _ENDS:
            raise Refused(f"job {record.number} is {record.state}, it cannot be {command.state}")
        state = JobState(command.state)
    _put(
        kv,
        msgspec.structs.replace(
            record,
            state=state,
            updated_ms=command.now_ms,
            cursor=command.cursor,
            done=command.done,
            total=command.total,
            findings=command.findings,
            message=command.message[:TEXT_MAX],
            last_error=command.last_error[:TEXT_MAX],
            result=command.result or record.result,
        ),
    )
    return record.number


def control(kv: Writer, command: commands.ControlJob) -> int:
    """Pause, resume, cancel, or bound; what is so already changes nothing."""
    record = read_job(kv, command.number)
    state = record.state
    if command.state:
        try:
            state = JobState(command.state)
        except ValueError as error:
            raise Malformed(f"{command.state!r} is not a state of a job") from error
        if state != record.state and state not in _CONTROL[record.state]:
            raise Refused(f"job {record.number} is {record.state}: it cannot be {state} any more")
    if command.rate is not None and (command.rate < 0 or is_over(record)):
        raise Refused(f"job {record.number} is {record.state}: its rate cannot be {command.rate}")
    rate = record.rate if command.rate is None else command.rate
    error_text = "" if state == JobState.RUNNING else record.last_error
    _put(
        kv,
        msgspec.structs.replace(
            record, state=state, rate=rate, updated_ms=command.now_ms, last_error=error_text
        ),
    )
    return record.number


def _put(kv: Writer, record: JobRecord) -> None:
    kv.put(long_key(records.JOB_PREFIX, record.number), encode(record))
