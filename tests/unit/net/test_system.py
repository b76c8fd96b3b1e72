"""The real ports: threads bounded, errors carried, cancellation waits."""

import threading
import time

import pytest
import trio

from cfs.net.system import SystemClock, SystemEntropy, TrioThreads


def test_clock_and_entropy():
    assert abs(SystemClock().time_ns() - time.time_ns()) < 10**9
    assert len(SystemEntropy().random_bytes(33)) == 33


def test_results_and_errors_come_back():
    async def main():
        threads = TrioThreads(2)
        assert await threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 7, 0)
        assert threads.busy == 0

    trio.run(main)


def test_at_most_the_limit_runs_at_once():
    lock = threading.Lock()
    running = most = 0
    gate = threading.Event()

    def work(n):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 3:
                gate.set()
        assert gate.wait(5)
        with lock:
            running -= 1
        return n

    async def main():
        threads = TrioThreads(3)
        results = []

        async def one(n):
            results.append(await threads.run(work, n))

        async with trio.open_nursery() as nursery:
            for n in range(30):
                nursery.start_soon(one, n)
        assert sorted(results) == list(range(30))

    trio.run(main)
    assert most == 3


def test_cancellation_waits_for_the_call():
    gate, done = threading.Event(), []

    def work():
        gate.wait(5)
        done.append(1)

    async def main():
        threads = TrioThreads(1)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(threads.run, work)
                await trio.sleep(0.01)
                scope.cancel()
                gate.set()
        assert done == [1]
        with trio.CancelScope() as scope:
            scope.cancel()
            await threads.run(done.append, 2)
        assert done == [1]

    trio.run(main)


def test_one_pool_serves_runs_one_after_the_other():
    threads = TrioThreads(1)
    for n in range(3):
        assert trio.run(threads.run, abs, -n) == n
