"""Delegations: two clients and every fault against a model, and what a crash leaves."""

from __future__ import annotations

import contextlib
import math
import os
import random
from typing import Any

import pytest
import trio

from cfs.core.api.meta import Mutate
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.core.meta import read
from cfs.core.meta.name_filter import NameFilter
from cfs.fs.client.files import Files
from tests.unit.fs.client.history import (
    ATTRIBUTES,
    ENTRIES,
    WEIGHTS,
    Inode,
    Model,
    Op,
    histories,
    perform,
    stored,
)
from tests.unit.fs.client.world import World, run

EAGER = {"delegate_pause_s": 0.05, "delegate_pause_max_s": 0.1}


def outcome_of(model: Model, op: Op) -> Any:
    try:
        value = model.apply(op)
    except FsError as error:
        return error.errno
    return value if op.kind in {"list", "read", "stat"} else None


async def outcome(files: Files, op: Op) -> Any:
    try:
        return await perform(files, op)
    except FsError as error:
        return error.errno


async def in_step(world: World, seed: int, count: int, clients: list[Files], fault: Any) -> None:
    """Let clients take turns; each must see at once what the others finished."""
    rng = random.Random(seed)
    model = Model()
    log: list[tuple[int, Op]] = []
    turn = 0
    for op in histories(seed, count):
        if rng.random() < 0.2:
            turn = rng.randrange(len(clients))
        await fault(rng)
        log.append((turn, op))
        expected = outcome_of(model, op)
        got = await outcome(clients[turn], op)
        if op.kind in {"list", "read", "stat"} or expected is not None:
            assert got == expected, (seed, log[-12:], got, expected)
        else:
            assert not isinstance(got, int), (seed, log[-12:], got)
    for files in clients:
        await files.sync()
    shape, data = stored(world.shared.state)
    assert shape == model.shape()
    assert data == {path: node.versions[-1] for path, node in model.files().items()}


@pytest.mark.parametrize("seed", range(12))
def test_clients_see_each_other_at_every_step(seed: int) -> None:
    async def scenario(world: World) -> None:
        async def none(_rng: random.Random) -> None:
            pass

        clients = [await world.client(n, **EAGER) for n in ("a", "b")]
        await in_step(world, seed, 250, clients, none)
        assert any(r.chained for m, _, r in world.log if m == "meta.mutate")

    run(scenario, seeds=1)


@pytest.mark.parametrize("seed", range(12))
def test_large_directories_are_delegated_with_most_of_their_names_folded(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"queue_ops": 1, "entries_unfolded": 2, "entries": 3}
    folded: list[bytes] = []
    add = NameFilter.add

    def noted(names: NameFilter, name: bytes) -> None:
        folded.append(name)
        add(names, name)

    monkeypatch.setattr(NameFilter, "add", noted)

    async def scenario(world: World) -> None:
        async def none(_rng: random.Random) -> None:
            pass

        clients = [await world.client(n, **EAGER, **small) for n in ("a", "b")[: 1 + seed % 2]]
        await in_step(world, seed, 400, clients, none)
        assert any(r.chained for m, _, r in world.log if m == "meta.mutate")

    run(scenario, seeds=1)
    assert folded


def test_a_directory_too_large_for_the_cache_stays_delegated() -> None:
    names = [b"n%d" % n for n in range(600)]

    async def scenario(world: World) -> None:
        files = await world.client("a", **EAGER, entries=80, entries_unfolded=20, queue_ops=8)
        await files.getattr(ROOT_INO)
        top = (await files.mkdir(ROOT_INO, b"top", 0o755)).ino
        for name in names:
            await files.mknod(top, name, 0o600)
        assert world.calls("meta.mutate") < len(names) / 5
        for name in names[::7]:
            with pytest.raises(FsError):
                await files.mknod(top, name, 0o600)
            await files.rename(top, name, top, b"moved-" + name)
        with pytest.raises(FsError):
            await files.lookup(top, b"none")
        handle = await files.opendir(top)
        seen: list[bytes] = []
        cookie = 0
        while page := await files.readdir(handle, cookie):
            seen += [e.name for e in page]
            cookie = page[-1].cookie
        moved = {b"moved-" + n for n in names[::7]}
        assert sorted(seen) == sorted(moved | set(names) - set(names[::7]))
        for name in seen:
            await files.unlink(top, name)
        await files.rmdir(ROOT_INO, b"top")

    run(scenario, seeds=1)


@pytest.mark.parametrize("by", ["name", "ino"])
def test_leases_are_taken_in_the_order_in_which_entries_go(by: str) -> None:
    async def scenario(world: World) -> None:
        files = await world.client("a", writable=200, delegated=200)
        await files.getattr(ROOT_INO)
        top = (await files.mkdir(ROOT_INO, b"top", 0o755)).ino
        for number in range(1000):
            await files.mknod(top, b"n%d" % number, 0o600)
        await files.sync()
        handle, page = await files.opendir(top), []
        listed: list[Any] = []
        while page := await files.readdir(handle, listed[-1].cookie if listed else 0):
            listed += page
        before = world.calls("meta.mutate")
        for entry in sorted(listed, key=lambda e: e.ino) if by == "ino" else listed:
            await files.unlink(top, entry.name)
        await files.sync()
        assert world.calls("meta.mutate") - before < 60

    run(scenario, seeds=1)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_or_done_twice_through_faults(seed: int) -> None:
    async def scenario(world: World) -> None:
        async def fault(rng: random.Random) -> None:
            if rng.random() < 0.1:
                world.lose.append(lambda method, _: method in {"meta.mutate", "meta.readdir"})
            if rng.random() < 0.03:
                world.lead(3 - (world.shared.leader or 1))

        delays = random.Random(seed)
        world.reply_delay = lambda method, _: (
            delays.choice((0.0, 0.1)) if method == "meta.mutate" else 0.0
        )
        clients = [await world.client(n, **EAGER) for n in ("a", "b")]
        await in_step(world, 100 + seed, 150, clients, fault)

    run(scenario, seeds=1)


@pytest.mark.parametrize("seed", range(8))
def test_attributes_are_what_the_shard_makes_them(seed: int) -> None:
    """What the client shows before the shard has heard of it is what the shard says after."""

    async def scenario(world: World) -> None:
        a = await world.client("a")
        compared = 0
        for op in histories(200 + seed, 300):
            await outcome(a, op)
            client = a.client
            if client.queue.pending and op.number % 5 == 0:
                shown = {
                    ino: node.attr
                    for ino in client.queue.pending
                    if (node := client.cache.peek(ino)) is not None
                    and not (ino in client.writeback.files and client.writeback.files[ino].unclean)
                }
                await client.queue.drained()
                for ino, attr in shown.items():
                    there = read.inode(world.shared.state, ino)
                    if there is not None and attr is not None:
                        compared += 1
                        assert there.attr(ino) == attr, op
        assert compared > 20

    run(scenario, seeds=1)


# --- crashes


class Crash:
    """Lets the first `after` mutations of a client through, and nothing later."""

    def __init__(self, world: World, after: float, *, reply: bool) -> None:
        self.seen = 0
        self.after = after
        self.dead = trio.Event()
        serve = world.serve

        async def cut(node: int, method: str, request: Any, peer: Any) -> Any:
            if self.dead.is_set():
                await trio.sleep_forever()
            if method == "meta.mutate":
                if self.seen >= self.after and not reply:
                    self.dead.set()
                    await trio.sleep_forever()
                self.seen += 1
                answer = await serve(node, method, request, peer)
                if self.seen > self.after and reply:
                    self.dead.set()
                    await trio.sleep_forever()
                return answer
            return await serve(node, method, request, peer)

        world.serve = cut  # type: ignore[method-assign]


async def live(world: World, ops: list[Op], crash: Crash) -> tuple[int, list[int]]:
    """Run a history until the crash; give how far it got, and the places of finished fsyncs."""
    begun = 0
    synced: list[int] = []

    async with trio.open_nursery() as nursery:
        home, world.nursery = world.nursery, nursery
        a = await world.client("a", patience_s=1e6, batch_ops=6)

        async def play() -> None:
            nonlocal begun
            for place, op in enumerate(ops, 1):
                begun = place
                got = await outcome(a, op)
                if op.kind in {"fsync", "fsyncdir"} and got is None:
                    synced.append(place)
            await a.sync()
            begun = len(ops)
            crash.dead.set()

        nursery.start_soon(play)
        await crash.dead.wait()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    world.nursery = home
    return begun, synced


def versions_allowed(node: Inode, prefix: int) -> range:
    """Give which versions of a file's bytes may go with the names after a prefix."""
    low, high = 0, len(node.versions)
    for place, version, sets in node.marks:
        if place <= prefix:
            low = max(low, version)
        elif sets:
            high = min(high, version)
    return range(low, high)


def check_prefix(ops: list[Op], begun: int, synced: list[int], state: Any) -> None:
    """Assert that a shard holds what a prefix of the history left, and all that was synced."""
    shape, data = stored(state)
    needed = names_needed(ops[:begun], synced)
    model = Model()
    for prefix in range(begun + 1):
        if prefix:
            outcome_of(model, ops[prefix - 1])
        if prefix < needed or model.shape() != shape:
            continue
        if bytes_fit(ops[:begun], prefix, synced, data):
            return
    pytest.fail(f"no prefix from {needed} to {begun} left {shape}")


def names_needed(ops: list[Op], synced: list[int]) -> int:
    """Give the shortest prefix with every operation on names that was synced."""
    model = Model()
    needed = 0
    last: dict[int, int] = {}
    for place, op in enumerate(ops, 1):
        before = _concerned(model, op)
        try:
            value = model.apply(op)
        except FsError:
            continue
        if isinstance(value, Inode):
            if place in synced:
                needed = max(needed, last.get(id(value), 0))
        else:
            last.update(dict.fromkeys((id(i) for i in before + _concerned(model, op)), place))
    return needed


def _concerned(model: Model, op: Op) -> list[Inode]:
    if op.kind == "rename" and _same(model, op.path, op.other):
        return []  # nothing happens
    paths = [op.path] if op.kind in ENTRIES | ATTRIBUTES else []
    if op.kind in ENTRIES - {"link"}:
        paths.append(op.path[:-1])
    if op.kind in {"rename", "link"}:
        paths += [op.other, op.other[:-1]]
    found = []
    for path in paths:
        with contextlib.suppress(FsError):
            found.append(model.find(path))
    return found


def _same(model: Model, one: tuple[bytes, ...], other: tuple[bytes, ...]) -> bool:
    try:
        return model.find(one) is model.find(other)
    except FsError:
        return False


def bytes_fit(ops: list[Op], prefix: int, synced: list[int], data: dict[Any, bytes]) -> bool:
    """Tell whether every file's bytes may go with the names after `prefix` operations."""
    model = Model()
    here: dict[Any, Inode] = {}
    for place, op in enumerate(ops, 1):
        with contextlib.suppress(FsError):
            value = model.apply(op)
            if place in synced and isinstance(value, Inode):
                value.marks.append((0, len(value.versions) - 1, False))
        if place == prefix:
            here = model.files()
    return all(
        data[path] in {node.versions[v] for v in versions_allowed(node, prefix)}
        for path, node in here.items()
    )


def batches(ops: list[Op]) -> int:
    total = 0

    async def scenario(world: World) -> None:
        nonlocal total
        crash = Crash(world, math.inf, reply=False)
        begun, synced = await live(world, ops, crash)
        total = crash.seen
        check_prefix(ops, begun, synced, world.shared.state)

    run(scenario, seeds=1)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_what_survives_a_crash_is_a_prefix(seed: int) -> None:
    weights = {k: v for k, v in WEIGHTS.items() if k not in {"list", "read", "stat"}}
    ops = histories(300 + seed, 120, weights)
    total = batches(ops)
    assert total > 3
    for after in range(total):
        for reply in (False, True):

            async def scenario(world: World, at: tuple[int, bool] = (after, reply)) -> None:
                crash = Crash(world, at[0], reply=at[1])
                begun, synced = await live(world, ops, crash)
                check_prefix(ops, begun, synced, world.shared.state)

            run(scenario, seeds=1)


# --- single stories


def test_operations_under_a_delegation_travel_together() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        await a.getattr(1)
        d = await a.mkdir(1, b"d", 0o755)
        await a.mknod(d.ino, b"first", 0o644)
        before = world.calls("meta.mutate")
        for i in range(100):
            await a.mknod(d.ino, b"%d" % i, 0o644)
            await a.rename(d.ino, b"%d" % i, d.ino, b"n%d" % i)
        for i in range(50):
            await a.unlink(d.ino, b"n%d" % i)
        await a.sync()
        assert world.calls("meta.mutate") - before <= 4
        entries, _ = read.listing(world.shared.state, d.ino, 0, 200)
        assert len(entries) == 51
        assert [e.name for e in await a.list_directory("/d")] == [e.name for e in entries]
        requests = [r for m, _, r in world.log if m == "meta.mutate"]
        assert all(isinstance(r, Mutate) for r in requests)

    run(scenario)


def test_two_clients_do_not_take_a_directory_from_each_other_all_the_time() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        await b.walk("/d")
        for i in range(200):
            await a.mknod(d, b"a%d" % i, 0o644)
            await b.mknod(d, b"b%d" % i, 0o644)
            await trio.sleep(0.05)
        recalls = world.calls("client.recall")
        assert recalls < 2.5 * 400
        taken = sum(
            type(op).__name__ == "Acquire"
            for m, _, r in world.log if m == "meta.mutate" for op in r.ops
        )  # fmt: skip
        assert taken <= 10

    run(scenario, seeds=1)


def test_a_session_that_expired_replays_its_queue() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        await a.mknod(d, b"before", 0o644)
        await a.sync()
        world.cut.add("a")
        await a.mknod(d, b"new", 0o644)
        await a.rename(d, b"before", d, b"after")
        assert {e.name for e in await b.list_directory("/d")} == {b"before"}  # a is expired
        await b.mknod(d, b"other", 0o644)
        world.cut.clear()
        await a.sync()
        names = {b"new", b"after", b"other"}
        assert {e.name for e in await b.list_directory("/d")} == names
        assert {e.name for e in await a.list_directory("/d")} == names

    run(scenario)


def test_a_replay_that_conflicts_fails_with_all_behind_it() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        await a.mknod(d, b"x", 0o644)
        await a.sync()
        world.cut.add("a")
        await a.mknod(d, b"one", 0o644)
        await a.unlink(d, b"x")
        await a.mknod(d, b"two", 0o644)
        handle = await a.opendir(d)
        await b.rename(d if (await b.walk("/d")).ino == d else 0, b"x", d, b"y")
        await b.mknod(d, b"x", 0o644)  # a different one
        world.cut.clear()
        with pytest.raises(FsError) as caught:
            await a.fsyncdir(handle)
        assert caught.value.errno == 5
        names = {b"one", b"x", b"y"}
        assert {e.name for e in await b.list_directory("/d")} == names
        assert {e.name for e in await a.list_directory("/d")} == names
        await a.mknod(d, b"three", 0o644)
        assert (await b.walk("/d/three")).nlink == 1

    run(scenario)


def test_bytes_are_read_between_the_answers_to_their_commit_and_to_a_rename() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        await a.write_file("/d/x", b"")
        await a.sync()
        world.reply_delay = lambda method, _: 0.2 if method == "meta.mutate" else 0.0
        await a.write_file("/d/f", b"some bytes")
        before = world.calls("meta.mutate")
        ino = (await a.walk("/d/f")).ino
        file = a.client.writeback.files[ino]
        await trio.sleep(0.8)  # the timer has put the commit in line
        assert file.in_line
        await a.rename(d, b"f", d, b"g")
        seen = 0
        while ino in a.client.queue.pending:
            assert await a.read_file("/d/g") == b"some bytes"
            seen += not file.unclean
            await trio.sleep(0.03)
        assert seen
        assert world.calls("meta.mutate") >= before + 2

    run(scenario)


def test_leases_on_what_others_made_are_taken_in_growing_groups() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        for i in range(200):
            await a.write_file(f"/d/{i}", b"%d" % i)
        await a.sync()
        await trio.sleep(1)
        kept = await a.open((await a.walk("/d/150")).ino, os.O_RDONLY)
        listed = await b.list_directory("/d")
        a.client.delegations.recalled(d)  # a is not to take it back at once
        before = world.calls("meta.mutate", "b")
        for entry in listed:
            await b.unlink(d, entry.name)
        await b.sync()
        assert world.calls("meta.mutate", "b") - before < 30
        assert read.listing(world.shared.state, d, 0, 10)[0] == ()
        assert await a.read(kept, 0, 10) == b"150"
        await b.write_file("/d/new", b"x")
        assert await a.read_file("/d/new") == b"x"

    run(scenario)


def test_a_lease_taken_with_others_is_written_under() -> None:
    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        for i in range(40):
            await a.write_file(f"/d/{i}", b"0123456789")
        await a.sync()
        await b.list_directory("/d")
        await trio.sleep(1)
        for i in range(20):
            await b.unlink(d, b"%d" % i)
        for i in range(20, 40):
            fh = await b.open((await b.walk(f"/d/{i}")).ino, os.O_WRONLY | os.O_APPEND)
            await b.write(fh, 0, b"!")
            await b.release(fh)
        for i in range(20, 40):
            assert await a.read_file(f"/d/{i}") == b"0123456789!"

    run(scenario)


def test_a_reply_put_off_while_operations_are_in_line_still_counts() -> None:
    """A chmod in line passes an unlink that waits for a recall; its answer comes last."""

    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        f = (await a.mknod(1, b"f", 0o644)).ino
        await a.link(f, d, b"g")
        await a.sync()
        await b.getattr(d)  # a's delegation is gone, b reads
        await a.setattr(f, mode=0o640)
        await a.sync()
        world.hold_recall = hold = trio.Event()
        world.reply_delay = lambda method, r: (
            0.3 if method == "meta.mutate" and type(r.ops[0]).__name__ == "SetAttr" else 0.0
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.unlink, d, b"g")
            await trio.sleep(0.05)
            await a.setattr(f, mode=0o600)
            await trio.sleep(0.05)
            world.hold_recall = None
            hold.set()
        assert f in a.client.queue.pending
        await a.sync()
        there = read.attr(world.shared.state, f)
        assert (there.nlink, there.mode & 0o777) == (1, 0o600)
        assert await a.getattr(f) == there

    run(scenario)


def test_a_new_file_is_synced_by_one_entry() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        await a.mknod(d, b"first", 0o644)
        await a.sync()
        before = world.calls("meta.mutate")
        fh, _ = await a.create_file(d, b"f", 0o644, os.O_RDWR)
        await a.write(fh, 0, b"data")
        await a.fsync(fh)
        assert world.calls("meta.mutate") == before + 1
        assert (await a.getattr(d)) == read.attr(world.shared.state, d)

    run(scenario)


def test_times_of_a_large_file_outlive_its_upload() -> None:
    async def scenario(world: World) -> None:
        a = await world.client("a")
        await a.getattr(1)
        d = (await a.mkdir(1, b"d", 0o755)).ino
        await a.mknod(d, b"first", 0o644)
        for pause in (0.0, 0.7):  # before the upload, and while it is under way
            fh, attr = await a.create_file(d, b"f%d" % (pause * 10), 0o644, os.O_RDWR)
            await a.write(fh, 0, b"x" * 100_000)
            if pause:
                nap = trio.Event()
                write = world.data.write

                async def held(
                    *args: Any, nap: trio.Event = nap, write: Any = write, **more: Any
                ) -> Any:
                    await nap.wait()
                    return await write(*args, **more)

                world.data.write = held  # type: ignore[method-assign]
                await trio.sleep(pause)
            calls = world.calls("meta.mutate")
            await a.setattr(attr.ino, mtime_ns=10**18, mode=0o640)
            assert world.calls("meta.mutate") == calls
            if pause:
                nap.set()
            assert (await a.getattr(attr.ino)).mtime_ns == 10**18
            await a.fsync(fh)
            await a.sync()
            there = read.attr(world.shared.state, attr.ino)
            assert (there.mtime_ns, there.size, there.mode & 0o777) == (10**18, 100_000, 0o640)
            assert await a.getattr(attr.ino) == there

    run(scenario)


def test_a_file_emptied_and_taken_away_is_flushed_when_it_is_written_again() -> None:
    """The simulator's seed 4017692246: the state of before was flushed in place of the new one."""

    async def scenario(world: World) -> None:
        a, b = await world.client("a"), await world.client("b")
        await a.getattr(1)
        handle, made = await a.create_file(1, b"f", 0o644, os.O_RDWR)
        await a.write(handle, 0, b"x" * 100)
        await a.fsync(handle)
        await a.write(handle, 0, b"y" * 50_000)
        await a.setattr(made.ino, size=0)
        await a.release(handle)
        other = await b.open(made.ino, os.O_RDONLY)
        assert made.ino not in a.client.writeback.files
        assert made.ino not in a.client.writeback._unclean  # a state that is gone is not flushed
        again = await a.open(made.ino, os.O_RDWR)
        await a.write(again, 0, b"z" * 5000)
        await a.sync()
        assert await b.read(other, 0, 5001) == b"z" * 5000

    run(scenario)


def test_what_was_written_here_is_read_without_asking_where_it_is():
    """As an archiver writes: made, filled, closed, then its mode and times set."""

    async def scenario(world: World) -> None:
        files = await world.client("a", **EAGER)
        top = (await files.mkdir(ROOT_INO, b"d", 0o755)).ino
        made = {}
        for number in range(20):
            data = bytes([number]) * (50 * number if number % 2 else 17_000)
            handle, attr = await files.create_file(top, b"f%d" % number, 0o644, os.O_RDWR)
            await files.write(handle, 0, data)
            await files.release(handle)
            await files.setattr(attr.ino, mode=0o600, mtime_ns=5)
            made[attr.ino] = data
        await files.sync()
        before = world.calls("meta.layout")
        for ino, data in made.items():
            handle = await files.open(ino, os.O_RDONLY)
            assert await files.read(handle, 0, 1 << 20) == data
            await files.release(handle)
        assert world.calls("meta.layout") == before

    run(scenario)
