"""Locks of two clients: in line, interrupted, in circles, over leaders and expired sessions."""

from __future__ import annotations

import errno
import os
import random

import pytest
import trio

from cfs.core.api.locking import OFFSET_MAX
from cfs.core.errors import FsError
from cfs.core.meta import file_locks, read
from cfs.fs.client.files import Files
from tests.unit.fs.client.world import World, run

READ, WRITE, NONE = 0, 1, 2


def weaker(one: int, other: int) -> int:
    """Give the kind that excludes less."""
    return max(one, other, key=(WRITE, READ, NONE).index)


async def two(world: World) -> tuple[Files, Files, int, int, int]:
    """Give two clients with one file open in both: its inode and the handles."""
    a, b = await world.client("a"), await world.client("b")
    fa, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
    await b.walk("/f")
    fb = await b.open(attr.ino, os.O_RDWR)
    return a, b, attr.ino, fa, fb


async def refused(number: int, call) -> None:
    with pytest.raises(FsError) as caught:
        await call
    assert caught.value.errno == number


def held(world: World, ino: int, *, flock: bool = False) -> list[tuple[int, int, int, int]]:
    found = file_locks.holders(world.shared.state, ino, flock=flock)
    return sorted((h.owner, h.start, h.end, h.kind) for h in found)


def test_a_lock_keeps_the_other_client_out_and_says_who() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        await a.setlk(ino, 5, 10, 19, WRITE, 77, wait=False)
        await refused(errno.EAGAIN, b.setlk(ino, 5, 0, 10, READ, 1, wait=False))
        await b.setlk(ino, 5, 0, 9, WRITE, 1, wait=False)
        await b.setlk(ino, 5, 20, OFFSET_MAX, READ, 1, wait=False)
        assert await b.getlk(ino, 5, 0, OFFSET_MAX, READ) == (10, 19, WRITE, 0)
        assert await a.getlk(ino, 6, 15, 15, READ) == (10, 19, WRITE, 77)
        assert await a.getlk(ino, 5, 10, 19, WRITE) is None
        await a.setlk(ino, 5, 13, 14, NONE, 77, wait=False)
        await b.setlk(ino, 5, 13, 13, WRITE, 1, wait=False)
        await b.setlk(ino, 9, 0, 0, WRITE, 1, wait=False, flock=True)
        await refused(errno.EAGAIN, a.setlk(ino, 9, 0, 0, READ, 1, wait=False, flock=True))

    run(scenario)


def test_waiters_go_first_come_first_served_and_readers_together() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        await a.setlk(ino, 1, 0, 99, WRITE, 1, wait=False)
        order: list[str] = []

        async def want(files: Files, owner: int, kind: int, label: str) -> None:
            await files.setlk(ino, owner, 0, 99, kind, 1, wait=True)
            order.append(label)
            await trio.sleep(0.5)
            if label == "w3":  # nobody overtakes those who wait, not even on what is free now
                await refused(errno.EAGAIN, a.setlk(ino, 70, 0, 9, READ, 1, wait=False))
            await files.setlk(ino, owner, 0, 99, NONE, 1, wait=False)

        async with trio.open_nursery() as nursery:
            wishes = [(b, 2, READ, "r1"), (b, 3, READ, "r2"), (a, 4, WRITE, "w3"),
                      (b, 5, READ, "r4"), (a, 6, WRITE, "w5")]  # fmt: skip
            for wish in wishes:
                nursery.start_soon(want, *wish)
                await trio.sleep(0.3)
            await trio.sleep(5)
            assert order == []
            await a.setlk(ino, 1, 0, 99, NONE, 1, wait=False)
        assert sorted(order[:2]) == ["r1", "r2"]
        assert order[2:] == ["w3", "r4", "w5"]
        assert held(world, ino) == []

    run(scenario)


def test_a_cancelled_waiter_leaves_the_line() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        await a.setlk(ino, 1, 0, 9, READ, 1, wait=False)
        for after in (0.0002, 0.002, 0.3, 2.1, 4.0):
            with trio.move_on_after(after) as scope:
                await b.setlk(ino, 2, 0, 9, WRITE, 1, wait=True)
            assert scope.cancelled_caught
            await trio.sleep(0.05)
            start = trio.current_time()
            await b.setlk(ino, 3, 0, 9, READ, 1, wait=True)
            assert trio.current_time() - start < 0.2, "the writer before it is gone"
            await b.setlk(ino, 3, 0, 9, NONE, 1, wait=False)
        await a.setlk(ino, 1, 0, 9, NONE, 1, wait=False)
        await trio.sleep(0.1)
        assert held(world, ino) == []

    run(scenario)


def test_an_interrupted_lock_is_undone_to_what_was_there() -> None:
    async def scenario(world: World) -> None:
        a, _, ino, _, _ = await two(world)
        await a.setlk(ino, 1, 10, 19, READ, 1, wait=False)
        for after in (0.0, 0.0003, 0.0008, 0.0015, 0.0022, 0.003):
            with trio.move_on_after(after) as scope:
                await a.setlk(ino, 1, 0, 29, WRITE, 1, wait=True)
            await trio.sleep(0.1)
            if scope.cancelled_caught:
                assert held(world, ino) == [(1, 10, 19, READ)]
            else:
                assert held(world, ino) == [(1, 0, 29, WRITE)]
                await a.setlk(ino, 1, 0, 29, NONE, 1, wait=False)
                await a.setlk(ino, 1, 10, 19, READ, 1, wait=False)

    run(scenario, 5)


def test_a_circle_is_refused() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        _, other = await a.create_file(1, b"g", 0o644, os.O_RDWR)
        await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=False)
        await b.setlk(other.ino, 2, 0, 9, WRITE, 1, wait=False)
        got: list[str] = []

        async def wait() -> None:
            await a.setlk(other.ino, 1, 5, 5, READ, 1, wait=True)
            got.append("a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.5)
            start = trio.current_time()
            await refused(errno.EDEADLK, b.setlk(ino, 2, 0, 0, READ, 1, wait=True))
            assert trio.current_time() - start < 0.1
            await refused(errno.EAGAIN, b.setlk(ino, 2, 0, 0, READ, 1, wait=False))
            assert not got
            await b.setlk(other.ino, 2, 0, OFFSET_MAX, NONE, 1, wait=False)
        assert got == ["a"]

    run(scenario)


def test_an_upgrade_does_not_wait_for_those_who_wait_for_it() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        await a.setlk(ino, 1, 0, 9, READ, 1, wait=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: b.setlk(ino, 2, 0, 9, WRITE, 1, wait=True))
            await trio.sleep(0.5)
            start = trio.current_time()
            await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=True)
            assert trio.current_time() - start < 0.1
            await a.setlk(ino, 1, 0, 9, NONE, 1, wait=False)
        assert held(world, ino) == [(2, 0, 9, WRITE)]

    run(scenario)


def test_two_shared_flocks_may_both_become_exclusive_in_turn() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        for files, owner in ((a, 1), (b, 2)):
            await files.setlk(ino, owner, 0, 0, READ, 1, wait=False, flock=True)
        turns: list[int] = []

        async def convert(files: Files, owner: int) -> None:
            await files.setlk(ino, owner, 0, 0, WRITE, 1, wait=True, flock=True)
            turns.append(owner)
            await files.setlk(ino, owner, 0, 0, NONE, 1, wait=False, flock=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(convert, a, 1)
            nursery.start_soon(convert, b, 2)
        assert sorted(turns) == [1, 2]

    run(scenario)


def test_locks_go_with_their_owner_and_with_the_handle() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, fa, _ = await two(world)
        second = await a.open(ino, os.O_RDWR)
        await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=False, fh=fa)
        await a.setlk(ino, 2, 20, 29, WRITE, 1, wait=False, fh=fa)
        await a.setlk(ino, 3, 0, 0, WRITE, 1, wait=False, flock=True, fh=fa)
        await a.setlk(ino, 4, 40, 49, WRITE, 1, wait=False, fh=second)
        await a.flush(fa, 1)
        assert held(world, ino) == [(2, 20, 29, WRITE), (4, 40, 49, WRITE)]
        calls = world.calls("meta.mutate", "a")
        await a.flush(fa, 1)
        assert world.calls("meta.mutate", "a") == calls, "an owner without locks costs nothing"
        await a.release(fa)
        await b.setlk(ino, 9, 0, 0, READ, 1, wait=False, flock=True)
        assert held(world, ino) == [(4, 40, 49, WRITE)]
        await a.setlk(ino, 5, 60, 69, WRITE, 1, wait=False)
        await a.release(second)
        await trio.sleep(0.05)
        assert held(world, ino) == []

    run(scenario)


def test_a_new_leader_knows_the_locks_and_the_line() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=False)
        order: list[int] = []

        async def want(files: Files, owner: int) -> None:
            await files.setlk(ino, owner, 0, 9, WRITE, 1, wait=True)
            order.append(owner)
            await files.setlk(ino, owner, 0, 9, NONE, 1, wait=False)

        async with trio.open_nursery() as nursery:
            for files, owner in ((b, 2), (a, 3), (b, 4)):
                nursery.start_soon(want, files, owner)
                await trio.sleep(0.3)
            world.lead(2)
            await trio.sleep(0.5)
            await refused(errno.EAGAIN, b.setlk(ino, 9, 5, 5, READ, 1, wait=False))
            await trio.sleep(8)
            world.lead(1)
            await trio.sleep(8)
            assert order == []
            await a.setlk(ino, 1, 0, 9, NONE, 1, wait=False)
        assert order == [2, 3, 4]

    run(scenario)


def test_lost_replies_leave_no_lock_behind() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        for turn in range(20):
            world.lose.append(lambda method, _: method in {"meta.mutate", "meta.lockwait"})
            await a.setlk(ino, 1, turn, 50, WRITE, 1, wait=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: b.setlk(ino, 2, 0, 50, WRITE, 1, wait=True))
                await trio.sleep(0.2 * (turn % 3))
                await a.setlk(ino, 1, 0, 50, NONE, 1, wait=False)
            assert held(world, ino) == [(2, 0, 50, WRITE)]
            await b.setlk(ino, 2, 0, 50, NONE, 1, wait=False)
        assert held(world, ino) == []
        assert read.totals(world.shared.state).file_locks == 0

    run(scenario)


def test_a_dead_client_loses_its_locks_when_somebody_wants_them_and_hears_of_it() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, fa, _ = await two(world)
        await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=False)
        world.cut.add("a")
        start = trio.current_time()
        await b.setlk(ino, 2, 0, 9, WRITE, 1, wait=True)
        assert 1 < trio.current_time() - start < 6
        assert held(world, ino) == [(2, 0, 9, WRITE)]
        world.cut.clear()
        await trio.sleep(5)
        with pytest.raises(FsError, match="locks were lost"):
            await a.fsync(fa)
        await a.fsync(fa)
        await refused(errno.EAGAIN, a.setlk(ino, 1, 0, 9, WRITE, 1, wait=False))
        await b.setlk(ino, 2, 0, 9, NONE, 1, wait=False)
        await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=False)

    run(scenario)


def test_a_lock_that_was_lost_before_its_answer_came_is_not_believed() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        said: list[str] = []

        def lose_one() -> trio.Event:
            """Lose the reply to the next mutation; give what tells of it."""
            lost = trio.Event()

            def is_it(method: str, _request: object) -> bool:
                if method == "meta.mutate":
                    lost.set()
                return lost.is_set()

            world.lose.append(is_it)
            return lost

        async def lock(*, wait: bool) -> None:
            try:
                await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=wait)
            except FsError as error:
                said.append(errno.errorcode[error.errno])
            else:
                said.append("taken")

        lost = lose_one()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: lock(wait=False))
            await lost.wait()
            world.cut.add("a")
            await b.setlk(ino, 2, 0, 9, WRITE, 1, wait=True)
            world.cut.clear()
        assert said == ["EAGAIN"]
        await b.setlk(ino, 2, 0, 9, NONE, 1, wait=False)
        lost = lose_one()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: lock(wait=True))
            await lost.wait()
            world.cut.add("a")
            await b.setlk(ino, 2, 0, 9, WRITE, 1, wait=True)
            world.cut.clear()
            await trio.sleep(10)
            assert said == ["EAGAIN"]
            await b.setlk(ino, 2, 0, 9, NONE, 1, wait=False)
        assert said == ["EAGAIN", "taken"]
        assert held(world, ino) == [(1, 0, 9, WRITE)]

    run(scenario)


def test_waiting_is_bounded_for_a_client() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a", lock_waiters=2)
        _, attr = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        await a.setlk(attr.ino, 1, 0, 9, WRITE, 1, wait=False)
        async with trio.open_nursery() as nursery:
            for owner in (2, 3):
                nursery.start_soon(lambda o=owner: a.setlk(attr.ino, o, 0, 9, READ, 1, wait=True))
            await trio.sleep(0.1)
            await refused(errno.ENOLCK, a.setlk(attr.ino, 4, 0, 9, READ, 1, wait=True))
            await a.setlk(attr.ino, 1, 0, 9, NONE, 1, wait=False)
        await a.setlk(attr.ino, 4, 0, 9, READ, 1, wait=True)

    run(scenario, 1)


def test_a_dead_waiter_holds_nobody_up_for_long() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, _, _ = await two(world)
        await a.setlk(ino, 1, 0, 9, WRITE, 1, wait=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: b.setlk(ino, 2, 0, 9, WRITE, 1, wait=True))
            await trio.sleep(0.5)
            world.cut.add("b")
            await a.setlk(ino, 1, 0, 9, NONE, 1, wait=False)
            start = trio.current_time()
            await a.setlk(ino, 3, 0, 9, READ, 1, wait=True)
            assert trio.current_time() - start < 10
            nursery.cancel_scope.cancel()
        world.cut.clear()

    run(scenario)


def test_who_locks_sees_what_the_holder_before_wrote() -> None:
    async def scenario(world: World) -> None:
        a, b, ino, fa, fb = await two(world)
        count = 0

        async def add(files: Files, fh: int, owner: int) -> None:
            for _ in range(10):
                await files.setlk(ino, owner, 0, 7, WRITE, 1, wait=True)
                old = int(await files.read(fh, 0, 8) or b"0")
                await files.write(fh, 0, b"%8d" % (old + 1))
                await files.setlk(ino, owner, 0, 7, NONE, 1, wait=False)

        async with trio.open_nursery() as nursery:
            for files, fh, owner in ((a, fa, 1), (a, fa, 2), (b, fb, 3), (b, fb, 4)):
                nursery.start_soon(add, files, fh, owner)
                count += 10
        assert int(await a.read(fa, 0, 8)) == count

    run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_ever_holds_what_another_holds(seed: int) -> None:
    """Random ranges, kinds, interruptions, lost replies and changes of leader."""

    async def scenario(world: World) -> None:
        clients = [await world.client(name) for name in ("a", "b", "c")]
        _, attr = await clients[0].create_file(1, b"f", 0o644, os.O_RDWR)
        ino = attr.ino
        holds: dict[tuple[int, int], list[int]] = {}
        taken = interrupted = circles = 0

        def check(who: tuple[int, int], start: int, end: int, kind: int) -> None:
            for other, have in holds.items():
                for byte in range(start, end + 1):
                    if other != who and have[byte] != NONE:
                        assert kind == have[byte] == READ, (who, other, byte)

        async def work(client: int, owner: int) -> None:
            nonlocal taken, interrupted, circles
            rng = random.Random(seed * 100 + client * 10 + owner)
            files = clients[client]
            mine = holds.setdefault((client, owner), [NONE] * 10)
            for _ in range(40):
                start = rng.randrange(10)
                end, kind = rng.randrange(start, 10), rng.choice([READ, WRITE, NONE])
                before = mine[start : end + 1]
                # what is given up may be another's before this one hears of it
                mine[start : end + 1] = [weaker(kind, b) for b in before]
                try:
                    with trio.move_on_after(rng.choice([0.001, 0.01, 3.0, 30.0])) as scope:
                        await files.setlk(ino, owner, start, end, kind, 1, wait=rng.random() < 0.7)
                except FsError as error:
                    if error.errno not in {errno.EAGAIN, errno.EDEADLK}:
                        raise
                    circles += error.errno == errno.EDEADLK
                    mine[start : end + 1] = before
                else:
                    if scope.cancelled_caught:
                        interrupted += 1
                        if kind != NONE:
                            mine[start : end + 1] = before
                    else:
                        taken += 1
                        if kind != NONE:
                            check((client, owner), start, end, kind)
                        mine[start : end + 1] = [kind] * (end + 1 - start)
                await trio.sleep(rng.choice([0.0, 0.01, 0.3]))
            mine[:] = [NONE] * 10
            await files.setlk(ino, owner, 0, OFFSET_MAX, NONE, 1, wait=False)

        async def disturb() -> None:
            rng = random.Random(seed)
            while True:
                await trio.sleep(rng.choice([0.3, 2.0]))
                if rng.random() < 0.3:
                    world.lead(rng.choice([1, 2]))
                else:
                    world.lose.append(lambda method, _: method in {"meta.mutate", "meta.lockwait"})

        async with trio.open_nursery() as troubled:
            troubled.start_soon(disturb)
            async with trio.open_nursery() as nursery:
                for client in range(3):
                    for owner in (1, 2):
                        nursery.start_soon(work, client, owner)
            troubled.cancel_scope.cancel()
        await trio.sleep(1)
        assert held(world, ino) == []
        assert taken > 60
        assert interrupted > 5
        assert circles

    run(scenario, 1)
