"""When names may live in the kernel, and when a lease on their directory may be given back."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Collection

import trio
import trio.testing

from cfs.fs.gate.kernel.entries import ENTRY_S, MARGIN_S, PAUSE_S, RACE_S, Entries


class Kernel:
    """Expires names when the directory is not locked."""

    def __init__(self) -> None:
        self.expired: list[tuple[int, list[bytes]]] = []
        self.unlocked = threading.Event()
        self.unlocked.set()
        self.asked = threading.Event()

    def expire(self, parent: int, names: Collection[bytes]) -> None:
        self.asked.set()
        assert self.unlocked.wait(10)
        self.expired.append((parent, sorted(names)))


def run(scenario: Callable[[Kernel, Entries, trio.testing.MockClock], Awaitable[None]]) -> None:
    clock = trio.testing.MockClock()

    async def main() -> None:
        kernel = Kernel()
        entries = Entries(kernel.expire)
        entries.enabled = True
        await scenario(kernel, entries, clock)

    trio.run(main, clock=clock)


def give(entries: Entries, name: bytes, *, raced: bool = False, parent: int = 7) -> float:
    return entries.give(parent, name, 3.0, raced=raced)


def test_names_are_expired_once_and_then_left_alone_for_a_while() -> None:
    async def scenario(kernel: Kernel, entries: Entries, clock: trio.testing.MockClock) -> None:
        assert give(entries, b"a") == give(entries, b"b") == ENTRY_S
        assert entries.give(7, b"c", 0.25, raced=False) == 0.25
        await entries.end(7)
        assert kernel.expired == [(7, [b"a", b"b", b"c"])]
        await entries.end(7)
        assert len(kernel.expired) == 1
        assert give(entries, b"a") == 0.0
        assert give(entries, b"a", parent=8) == ENTRY_S
        clock.jump(PAUSE_S)
        assert give(entries, b"a") == ENTRY_S
        await entries.end(7)
        clock.jump(PAUSE_S)
        assert give(entries, b"a") == 0.0  # twice as long the second time
        clock.jump(PAUSE_S)
        assert give(entries, b"a") == ENTRY_S

    run(scenario)


def test_names_that_are_over_by_themselves_need_nothing() -> None:
    async def scenario(kernel: Kernel, entries: Entries, clock: trio.testing.MockClock) -> None:
        give(entries, b"a")
        clock.jump(ENTRY_S + MARGIN_S + 0.01)
        await entries.end(7)
        assert not kernel.expired

    run(scenario)


def test_a_locked_directory_holds_a_lease_no_longer_than_a_lifetime() -> None:
    async def scenario(kernel: Kernel, entries: Entries, clock: trio.testing.MockClock) -> None:
        give(entries, b"a")
        kernel.unlocked.clear()
        ended = trio.Event()

        async def end() -> None:
            await entries.end(7)
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            await trio.testing.wait_all_tasks_blocked()
            assert kernel.asked.wait(10)
            clock.jump(ENTRY_S)
            await trio.testing.wait_all_tasks_blocked()
            assert not ended.is_set()
            clock.jump(MARGIN_S + 0.01)
            await ended.wait()
            kernel.unlocked.set()

    run(scenario)


def test_a_refreshed_name_is_expired_again() -> None:
    async def scenario(kernel: Kernel, entries: Entries, clock: trio.testing.MockClock) -> None:
        give(entries, b"a")
        give(entries, b"b", raced=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(entries.end, 7)
            while not kernel.expired:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(RACE_S)
        assert kernel.expired == [(7, [b"a", b"b"]), (7, [b"b"])]

    run(scenario)


def test_a_moved_name_takes_its_lifetime_with_it() -> None:
    async def scenario(kernel: Kernel, entries: Entries, clock: trio.testing.MockClock) -> None:
        give(entries, b"a")
        assert entries.moved(7, b"never given", 8, b"x") == 0.0
        assert entries.moved(7, b"a", 8, b"b") > 0.0
        clock.jump(0.5)
        await entries.end(8)
        assert kernel.expired == [(8, [b"b"])]

    run(scenario)
