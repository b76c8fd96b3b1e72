"""When a lease may be given back while the kernel drops its pages."""

from __future__ import annotations

import threading

import trio
import trio.testing

from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator


class Kernel:
    """Drops attributes at once, and pages when they are unlocked."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.unlocked = threading.Event()

    def notify(self, ino: int, attributes_only: bool) -> None:  # noqa: FBT001
        self.calls.append((ino, attributes_only))
        if not attributes_only:
            assert self.unlocked.wait(10)


async def begin() -> tuple[Kernel, Inodes, Invalidator]:
    kernel, inodes = Kernel(), Inodes()
    inodes.looked_up(7)
    return kernel, inodes, Invalidator(inodes, kernel.notify)


def test_waits_for_pages_unless_a_write_holds_one() -> None:
    async def main() -> None:
        kernel, _, invalidator = await begin()
        async with trio.open_nursery() as nursery:
            invalidator.start(nursery)
            given = trio.Event()

            async def give() -> None:
                await invalidator.invalidate(7)
                given.set()

            nursery.start_soon(give)
            while (7, False) not in kernel.calls:  # noqa: ASYNC110 a thread makes the call
                await trio.sleep(0.001)
            assert not given.is_set()
            assert invalidator.pending(7)
            invalidator.write_begins(7)
            await given.wait()  # the write may be waiting for the lease: attributes are enough
            assert kernel.calls[0] == (7, True)
            settled = trio.Event()

            async def read() -> None:
                await invalidator.settled(7)
                settled.set()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert not settled.is_set()  # nobody is given attributes before the pages are gone
            invalidator.write_ends(7)
            kernel.unlocked.set()
            await settled.wait()
            assert not invalidator.pending(7)

    trio.run(main)


def test_attributes_are_dropped_without_waiting_for_pages() -> None:
    async def main() -> None:
        kernel, inodes, invalidator = await begin()
        for ino in range(10, 30):
            inodes.looked_up(ino)
        async with trio.open_nursery() as nursery:
            invalidator.start(nursery)
            for ino in range(10, 30):  # more than there are threads, all held up by pages
                nursery.start_soon(invalidator.invalidate, ino)
            while sum(not only for _, only in kernel.calls) < 8:  # noqa: ASYNC110 as above
                await trio.sleep(0.001)
            await invalidator.drop_attributes(7)
            assert kernel.calls[-1] == (7, True)
            await invalidator.drop_attributes(8)
            assert kernel.calls[-1] == (7, True)
            kernel.unlocked.set()

    trio.run(main)


def test_unknown_inodes_and_a_stopped_mount_need_nothing() -> None:
    async def main() -> None:
        kernel, inodes, invalidator = await begin()
        kernel.unlocked.set()
        async with trio.open_nursery() as nursery:
            invalidator.start(nursery)
            await invalidator.invalidate(8)
            assert kernel.calls == []
            inodes.forget([(7, 1)])
            await invalidator.invalidate(7)
            assert kernel.calls == []
            inodes.looked_up(7)
            await invalidator.invalidate(7)
            assert kernel.calls == [(7, True), (7, False)]
            await invalidator.stop(lambda: None)
            await invalidator.invalidate(7)
            assert len(kernel.calls) == 2

    trio.run(main)


def test_pages_are_kept_under_one_lease_only() -> None:
    inodes = Inodes()
    inodes.looked_up(7)
    assert not inodes.may_keep(7, 1)
    assert inodes.may_keep(7, 1)
    assert not inodes.may_keep(7, 2)
    assert not inodes.may_keep(7, None)
    assert not inodes.may_keep(7, 2)
    inodes.tainted.add(7)
    assert not inodes.may_keep(7, 2)
