"""What fails within an operation is one error, whoever of its tasks met it."""

import pytest
import trio

from cfs.core.errors import FsError, NotLeader, Unavailable
from cfs.net.tasks import open_tasks, run_all


async def fail(error):
    raise error


def failing(*errors, body=None):
    async def main():
        async with open_tasks() as tasks:
            for error in errors:
                tasks.start_soon(fail, error)
            if body is not None:
                raise body

    trio.run(main)


def test_one_failure_is_raised_as_it_is():
    with pytest.raises(NotLeader):
        failing(NotLeader("moved", leader=3))
    with pytest.raises(FsError):
        failing(body=FsError(28))


def test_of_several_a_final_one_is_told():
    with pytest.raises(FsError):
        failing(Unavailable("down"), FsError(13), Unavailable("down"))


def test_a_bug_stays_a_group_with_all_it_met():
    with pytest.raises(ExceptionGroup) as met:
        failing(KeyError("x"))
    assert isinstance(met.value.exceptions[0], KeyError)


def test_a_cancelled_caller_ends_even_if_a_task_failed_too():
    async def stubborn():
        try:
            await trio.sleep_forever()
        finally:
            raise Unavailable("on the way out")

    async def main():
        with trio.move_on_after(0.01) as scope:
            async with open_tasks() as tasks:
                tasks.start_soon(stubborn)
                await trio.sleep_forever()
        assert scope.cancelled_caught

    trio.run(main)


def test_every_item_is_run_to_its_end_before_the_first_failure_is_told():
    ended = []
    inside = most = 0

    async def run(item):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await trio.sleep(0.001 * item)
        inside -= 1
        ended.append(item)
        if item in {1, 3}:
            raise Unavailable(f"item {item}")

    async def main():
        with pytest.raises(Unavailable) as told:
            await run_all(run, range(6), at_once=2)
        assert str(told.value) == f"item {next(item for item in ended if item in {1, 3})}"

    trio.run(main)
    assert sorted(ended) == list(range(6))
    assert most == 2
