"""Jobs: started once, run, paused, resumed from the cursor, failed, cancelled, taken over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from cfs.core.errors import NotFound, Refused, Unavailable
from cfs.core.root import jobs as machine
from cfs.fs.root.job_commands import JobCommands
from cfs.fs.root.job_runner import Jobs, progress_text
from cfs.fs.root.jobs import Job, JobContext, JobKind
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.view import ClusterView
from tests.unit.core.root.test_root_machine import CREATE
from tests.unit.fs.root.fakes import FakeHost, FixedClock

STEPS = 5


class World:
    """One root replica that leads; `seen` is where each run of the kind began."""

    def __init__(self) -> None:
        self.host = FakeHost(1)
        self.group = self.host.create(0, (1,))
        self.seen: list[bytes] = []
        self.fail: Exception | None = None
        self.gate = trio.Event()
        self.gate.set()

    async def make(self) -> None:
        known: Any = None
        self.replica = RootReplica(self.host, ClusterView.__new__(ClusterView))
        self.replica.sync = lambda: known  # type: ignore[method-assign]
        await self.replica.propose(CREATE)

    def leader(self, *, busy: bool = False) -> Jobs:
        jobs = Jobs(node="m1", replica=self.replica, clock=FixedClock(), busy=lambda: busy)
        jobs.register(JobKind(name="count", run=self.run, unit="steps", key=_key))
        jobs.register(JobKind(name="move", run=self.move, rate=1000))
        return jobs

    async def run(self, job: Job, context: JobContext) -> dict[str, Any]:
        self.seen.append(job.cursor)
        context.total = STEPS
        for step in range(int(job.cursor or b"0"), STEPS):
            await self.gate.wait()
            await trio.sleep(0.5)
            context.advance(1, cursor=str(step + 1).encode())
            if self.fail is not None and step == 2:
                error, self.fail = self.fail, None
                raise error
        return {"steps": context.done}

    async def move(self, _job: Job, context: JobContext) -> None:
        for _ in range(10):
            await context.pace(500)
            context.advance(500)


def _key(spec: dict[str, Any]) -> str:
    return str(spec.get("key", ""))


async def _until(jobs: Jobs, number: int, state: str) -> dict[str, Any]:
    with trio.fail_after(500):
        while True:
            job = next(j for j in jobs.describe() if j["id"] == number)
            if job["state"] == state:
                return job
            await trio.sleep(0.1)


def play(story: Callable[[World, Jobs], Awaitable[None]]) -> World:
    """Run a story with a leader running, on virtual time."""
    made: list[World] = []

    async def main() -> None:
        world = World()
        made.append(world)
        await world.make()
        jobs = world.leader()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.run)
            await story(world, jobs)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return made[0]


def test_a_job_runs_to_its_end_and_keeps_its_result() -> None:
    async def story(world: World, jobs: Jobs) -> None:
        number = await jobs.start("count", {}, started_by="me")
        job = await _until(jobs, number, "done")
        assert (job["done"], job["total"], job["result"]) == (STEPS, STEPS, {"steps": STEPS})
        assert machine.read_job(world.replica.state, number).cursor == b"5"
        assert jobs.worker_states() == []

    assert play(story).seen == [b""]


def test_pause_keeps_the_cursor_and_resume_goes_on_there() -> None:
    async def story(world: World, jobs: Jobs) -> None:
        number = await jobs.start("count", {}, started_by="me")
        await trio.sleep(1.2)
        await jobs.control(number, state="paused")
        await trio.sleep(60)
        assert jobs.find(number).cursor == b"2"
        assert [w.state for w in jobs.worker_states()] == ["paused"]
        await jobs.control(number, state="running")
        await _until(jobs, number, "done")
        with pytest.raises(Refused, match="done"):
            await jobs.control(number, state="paused")

    assert play(story).seen == [b"", b"2"]


def test_what_may_pass_is_tried_again_and_what_may_not_fails_until_resumed() -> None:
    async def story(world: World, jobs: Jobs) -> None:
        world.fail = Unavailable("not now")
        number = await jobs.start("count", {}, started_by="me")
        await _until(jobs, number, "done")
        assert world.seen == [b"", b"3"]
        for error, said in ((Refused("never"), "never"), (ValueError("a bug"), "internal error")):
            world.fail = error
            number = await jobs.start("count", {}, started_by="me")
            job = await _until(jobs, number, "failed")
            assert said in job["last_error"]
            await jobs.control(number, state="running")
            assert (await _until(jobs, number, "done"))["last_error"] == ""

    play(story)


def test_the_next_leader_goes_on_from_the_cursor() -> None:
    async def main() -> None:
        world = World()
        await world.make()
        first, second = world.leader(), world.leader()
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(_led, first)
            number = await first.start("count", {}, started_by="me")
            await trio.sleep(2.2)
            scope.cancel()
            await trio.sleep(1)
            assert first.describe()[0]["speed"] == 0
            nursery.start_soon(second.run)
            await _until(second, number, "done")
            nursery.cancel_scope.cancel()
        assert world.seen[0] == b""
        assert world.seen[1] in (b"2", b"3", b"4")

    async def _led(jobs: Jobs, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await jobs.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_one_job_a_key_until_it_is_over() -> None:
    async def story(world: World, jobs: Jobs) -> None:
        world.gate = trio.Event()
        number = await jobs.start("count", {"key": "a"}, started_by="me")
        await jobs.start("count", {"key": "b"}, started_by="me")
        with pytest.raises(Refused, match=f"attach {number}"):
            await jobs.start("count", {"key": "a"}, started_by="me")
        await jobs.control(number, state="cancelled")
        again = await jobs.start("count", {"key": "a"}, started_by="me")
        assert again == number + 2

    play(story)


def test_the_rate_bounds_and_changes_live() -> None:
    async def story(world: World, jobs: Jobs) -> None:
        start = trio.current_time()
        number = await jobs.start("move", {}, started_by="me")
        await _until(jobs, number, "done")
        assert 4 <= trio.current_time() - start <= 6
        start = trio.current_time()
        number = await jobs.start("move", {}, started_by="me", rate=10)
        await trio.sleep(20)
        assert progress_text({**jobs.describe()[-1], "total": 1000}).startswith("50 %, 500 B of")
        await jobs.control(number, rate=0)
        await _until(jobs, number, "done")
        assert trio.current_time() - start < 25

    play(story)


def test_a_busy_cluster_slows_a_job_down() -> None:
    async def main() -> None:
        world = World()
        await world.make()
        jobs = world.leader(busy=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.run)
            start = trio.current_time()
            number = await jobs.start("move", {}, started_by="me")
            await _until(jobs, number, "done")
            assert trio.current_time() - start > 40
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_commands_name_what_is_wrong() -> None:
    async def story(world: World, jobs: Jobs) -> None:
        table = JobCommands(jobs).table
        with pytest.raises(NotFound, match="no job 7"):
            await table["job_get"].run({"id": 7}, "me")
        answer = await table["job_start"].run({"kind": "count", "rate": 5}, "me")
        job = (await table["job_get"].run({"id": answer["id"]}, "me"))["job"]
        assert (job["started_by"], job["rate"], job["state"]) == ("me", 5, "running")
        changed = await table["job_control"].run(
            {"id": answer["id"], "action": "rate", "rate": 9}, "me"
        )
        assert changed["job"]["rate"] == 9

    play(story)


def test_only_the_newest_that_are_over_are_remembered() -> None:
    async def story(world: World, jobs: Jobs) -> None:
        for _ in range(machine.OVER_KEPT + 5):
            number = await jobs.start("move", {}, started_by="me", rate=0)
            await jobs.control(number, state="cancelled")
        known = machine.read_jobs(world.replica.state)
        assert len(known) <= machine.OVER_KEPT + 1
        assert known[-1].number == number

    play(story)
