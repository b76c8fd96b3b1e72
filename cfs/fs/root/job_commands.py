"""An operator's commands on jobs (`root.admin`): names, arguments, answers.

    job_start     kind, spec?, rate?                            -> id
    job_list                                                    -> jobs
    job_get       id                                            -> job
    job_control   id, action (pause, resume, cancel, rate), rate?   -> job

A job is described by `job_runner.Jobs.describe`. `rate` is bytes a second, 0 without bound.
"""

from __future__ import annotations

from typing import Any

from cfs.core.errors import Malformed, NotFound
from cfs.core.root.records import JobState
from cfs.fs.root.admin import Command
from cfs.fs.root.job_runner import Jobs

_STATE_OF = {
    "pause": JobState.PAUSED.value,
    "resume": JobState.RUNNING.value,
    "cancel": JobState.CANCELLED.value,
    "rate": "",
}


class JobCommands:
    """Carries them out."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.table = {
            "job_start": Command(self._start, frozenset({"kind", "spec", "rate"})),
            "job_list": Command(self._list, frozenset()),
            "job_get": Command(self._get, frozenset({"id"})),
            "job_control": Command(self._control, frozenset({"id", "action", "rate"})),
        }

    async def _start(self, arguments: dict[str, Any], by: str) -> dict[str, Any]:
        spec = arguments.get("spec", {})
        if not isinstance(spec, dict):
            raise Malformed("a job's spec is a map")
        number = await self._jobs.start(
            str(arguments.get("kind", "")), spec, started_by=by, rate=_rate(arguments)
        )
        return {"id": number}

    async def _list(self, _arguments: dict[str, Any], _by: str) -> dict[str, Any]:
        return {"jobs": self._jobs.describe()}

    async def _get(self, arguments: dict[str, Any], _by: str) -> dict[str, Any]:
        return {"job": self._described(_number(arguments))}

    async def _control(self, arguments: dict[str, Any], _by: str) -> dict[str, Any]:
        action = arguments.get("action")
        if action not in _STATE_OF:
            raise Malformed(f"{action!r} is nothing to do with a job: {', '.join(_STATE_OF)}")
        rate = _rate(arguments)
        if (action == "rate") != (rate is not None):
            raise Malformed("a rate is given with the action rate, and only with it")
        number = _number(arguments)
        await self._jobs.control(number, state=_STATE_OF[action], rate=rate)
        return {"job": self._described(number)}

    def _described(self, number: int) -> dict[str, Any]:
        for job in self._jobs.describe():
            if job["id"] == number:
                return job
        raise NotFound(f"there is no job {number}; see cfs admin jobs")


def _number(arguments: dict[str, Any]) -> int:
    number = arguments.get("id")
    if not isinstance(number, int):
        raise Malformed("id is missing: the number of a job")
    return number


def _rate(arguments: dict[str, Any]) -> int | None:
    rate = arguments.get("rate")
    if rate is not None and (not isinstance(rate, int) or rate < 0):
        raise Malformed(f"a rate is a number of bytes a second, 0 without bound, not {rate!r}")
    return rate
