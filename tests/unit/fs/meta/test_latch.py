import random

import pytest
import trio
import trio.testing

from cfs.fs.meta.latch import Latches, ino_key, name_key


def run(main):
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_exclusive_keeps_out_and_shared_goes_together():
    async def main():
        latches, key = Latches(), ino_key(7)
        assert latches.try_take({key: False})
        assert latches.try_take({key: False})
        assert not latches.try_take({key: True})
        latches.release([key])
        latches.release([key])
        assert latches.try_take({key: True})
        assert not latches.try_take({key: False})
        latches.release([key])

    run(main)


def test_a_waiting_writer_is_not_starved_by_readers():
    async def main():
        latches, key, order = Latches(), ino_key(7), []
        latches.try_take({key: False})

        async def take(name, *, exclusive):
            await latches.take({key: exclusive})
            order.append(name)
            latches.release([key])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: take("writer", exclusive=True))
            await trio.testing.wait_all_tasks_blocked()
            assert not latches.try_take({key: False}), "a reader queues behind the writer"
            nursery.start_soon(lambda: take("reader", exclusive=False))
            await trio.testing.wait_all_tasks_blocked()
            latches.release([key])
        assert order == ["writer", "reader"]

    run(main)


def test_a_cancelled_waiter_holds_nothing():
    async def main():
        latches = Latches()
        a, b = name_key(1, b"a"), name_key(1, b"b")
        latches.try_take({b: True})
        with trio.move_on_after(1) as scope:
            await latches.take({a: True, b: True})
        assert scope.cancelled_caught
        assert latches.try_take({a: True}), "what it had taken already is free again"
        latches.release([a, b])
        assert not latches._latches, "nothing is remembered of free latches"

    run(main)


@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_for_ever_and_nobody_shares_what_is_exclusive(seed):
    chance = random.Random(seed)
    held: dict[object, list[bool]] = {}

    async def main():
        latches = Latches()

        async def worker(number):
            for _ in range(20):
                keys = {
                    name_key(1, b"%d" % chance.randrange(5)): chance.random() < 0.6
                    for _ in range(chance.randrange(1, 4))
                }
                with trio.move_on_after(chance.choice([0.01, 100])) as scope:
                    await latches.take(keys)
                if scope.cancelled_caught:
                    continue
                for key, exclusive in keys.items():
                    others = held.setdefault(key, [])
                    assert not others or not (exclusive or True in others)
                    others.append(exclusive)
                await trio.sleep(chance.random())
                for key, exclusive in keys.items():
                    held[key].remove(exclusive)
                latches.release(keys)

        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(worker, number)
        assert not latches._latches

    run(main)
