"""Garbage rounds: nothing referred to is deleted, everything else is, from wherever it stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cfs.core.api import meta as meta_api
from cfs.core.api import store
from cfs.core.api.cluster import NodeState
from cfs.core.api.methods import Internal, InternalReply
from cfs.core.api.scrub import ForgetEntries
from cfs.core.errors import CfsError, Unavailable
from cfs.core.meta import commands as shard_commands
from cfs.core.meta import queries, results
from cfs.core.root import commands, rounds
from cfs.core.root.records import Phase
from cfs.fs.root.collector import GRACE_S, Collector
from cfs.fs.root.sweep import Sweep
from cfs.fs.root.workers import Worker
from tests.unit.fs.root.test_service import Cluster


def segment(number: int) -> bytes:
    return number.to_bytes(16, "big")


class FakeShard:
    """What the shard's machine promises of rounds, in a few lines."""

    def __init__(self) -> None:
        self.live: set[bytes] = set()
        self.noted: set[bytes] = set()
        self.condemned: dict[bytes, int] = {}
        self.gone: set[bytes] = set()
        self.closed = 0
        self.down = False

    def apply(self, command: Any) -> Any:
        match command:
            case shard_commands.Condemn():
                if command.round <= self.closed:
                    return results.Condemned(live=(-1,) * len(command.segments))
                for s in command.segments:
                    self.condemned.setdefault(s, command.round)
                return results.Condemned(live=tuple(int(s in self.live) for s in command.segments))
            case shard_commands.Withdraw():
                self.condemned = {s: r for s, r in self.condemned.items() if r != command.round}
                self.closed = max(self.closed, command.round)
                return results.Done()
            case shard_commands.Standing():
                count = sum(r == command.round for r in self.condemned.values())
                return results.Stands(count=count)
            case shard_commands.Collected():
                live = tuple(s for s in command.segments if s in self.live)
                self.gone |= set(command.segments) - set(live)
                self.noted -= self.gone
                return results.Gone(live=live)
        raise AssertionError(command)


class FakeShards:
    def __init__(self, count: int) -> None:
        self.shards = [FakeShard() for _ in range(count)]
        self.fail_command_after = -1
        self.before: Callable[[Any], None] = lambda _command: None

    async def call(self, group: int, method: str, request: Internal, *, timeout_s: float) -> Any:
        shard = self._shard(group)
        assert request.read
        asked = queries._QUERY.decode(request.command)
        if isinstance(asked, queries.Candidates):
            found = sorted(shard.noted)
        else:
            found = [s for s in asked.segments if s not in shard.live]
        return InternalReply(result=queries._ENCODER.encode(queries.Segments(tuple(found))))

    async def command(self, group: int, command: Any, *, timeout_s: float) -> Any:
        await trio.lowlevel.checkpoint()
        self.before(command)
        if self.fail_command_after == 0:
            raise Unavailable("injected")
        self.fail_command_after -= 1
        return self._shard(group).apply(command)

    def _shard(self, group: int) -> FakeShard:
        shard = self.shards[group - 1]
        if shard.down:
            raise Unavailable("down")
        return shard


class Disks:
    """Storage nodes that hold fragments."""

    def __init__(self, cluster: Cluster, nodes: list[int]) -> None:
        self.held: dict[int, set[bytes]] = {n: set() for n in nodes}
        self.withheld: dict[int, set[bytes]] = {}
        self._cluster = cluster
        for node in nodes:
            self.up(node)

    def up(self, node: int) -> None:
        def delete(_c: Any, request: store.DeleteSegments, _p: Any) -> meta_api.Empty:
            self.held[node] -= set(request.segments)
            return meta_api.Empty()

        def listing(_c: Any, request: store.ListFragments, _p: Any) -> store.ListFragmentsReply:
            found = [
                store.FragmentInfo(
                    segment=s, index=0, data=2, parity=1, segment_length=1, length=1, age_s=999
                )
                for s in sorted(self.held[node])
                if s > request.after
            ]
            return store.ListFragmentsReply(fragments=tuple(found), end=True)

        def forget(_c: Any, request: ForgetEntries, _p: Any) -> meta_api.Empty:
            self.withheld.setdefault(node, set()).update(request.segments)
            return meta_api.Empty()

        self._cluster.calls.handlers[node] = {
            "store.delete": delete,
            "store.list": listing,
            "store.forget": forget,
        }

    def fill(self, *segments: bytes) -> None:
        for held in self.held.values():
            held |= set(segments)

    def all(self) -> set[bytes]:
        return set().union(*self.held.values())


class Bench:
    def __init__(self, cluster: Cluster, nodes: list[int]) -> None:
        self.cluster = cluster
        self.shards = FakeShards(2)
        self.disks = Disks(cluster, nodes)
        self.worker = Worker("collector", "m1")
        self.collector = self.make()

    def make(self) -> Collector:
        """A new leader's collector."""
        c = self.cluster
        sweep = Sweep(view=c.view, shards=self.shards, calls=c.calls)
        return Collector(
            replica=c.replica, view=c.view, shards=self.shards, calls=c.calls, sweep=sweep,
            worker=self.worker,
        )  # fmt: skip

    def rounds(self) -> list[Any]:
        return rounds.read_rounds(self.cluster.replica.state)


def run(tmp_path: Path, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path / "m1")
        await cluster.make()
        nodes = [await cluster.add_storage(f"s{n}") for n in (1, 2, 3)]
        for number, node in enumerate(nodes, 1):
            await cluster.beat(node, f"s{number}")
        await cluster.settle()
        await story(Bench(cluster, nodes))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_noted_garbage_is_freed_and_the_rest_stays(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        one, two, three = segment(1), segment(2), segment(3)
        b.disks.fill(one, two, three)
        b.shards.shards[0].noted = {one, two}
        b.shards.shards[1].live = {two}  # deduplicated into another shard
        await b.collector.collect(sweep=False)
        assert b.disks.all() == {two, three}
        assert all(s.gone == {one} for s in b.shards.shards)
        assert b.rounds() == []

    run(tmp_path, story)


def test_the_index_stops_offering_a_segment_before_its_round(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        one, two = segment(1), segment(2)
        b.disks.fill(one, two)
        b.shards.shards[0].noted = {one, two}
        seen = []
        began = trio.current_time()

        def check(command: Any) -> None:
            if isinstance(command, shard_commands.Condemn):
                assert trio.current_time() >= began + GRACE_S
                assert len(b.disks.withheld) == 3
                assert all(set(command.segments) <= held for held in b.disks.withheld.values())
                seen.append(command.round)

        b.shards.before = check
        b.shards.shards[1].live = {two}
        await b.collector.collect(sweep=False)
        assert seen
        assert b.disks.all() == {two}
        assert all(held == {one} for held in b.disks.withheld.values())

    run(tmp_path, story)


def test_what_is_found_in_the_index_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.disks.fill(segment(1))
        b.shards.shards[0].noted = {segment(1)}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: b.collector.collect(sweep=False))
            await trio.sleep(GRACE_S / 2)
            b.shards.shards[1].live = {segment(1)}
        assert b.disks.all() == {segment(1)}
        assert b.rounds() == []
        assert all(not s.gone for s in b.shards.shards)

    run(tmp_path, story)


def test_orphans_on_storage_are_found(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.disks.fill(segment(1), segment(2))
        b.shards.shards[1].live = {segment(1)}
        await b.collector.collect(sweep=True)
        assert b.disks.all() == {segment(1)}

    run(tmp_path, story)


def test_a_reference_made_meanwhile_withdraws_the_round(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.disks.fill(segment(1), segment(2))
        b.shards.shards[0].noted = {segment(1), segment(2)}

        def refer(command: Any) -> None:
            if isinstance(command, shard_commands.Condemn) and command.round == 1:
                b.shards.shards[1].live.add(segment(1))

        b.shards.before = refer
        await b.collector.collect(sweep=False)
        # Round 1 was withdrawn, round 2 took what was free in it.
        assert b.disks.all() == {segment(1)}
        assert b.shards.shards[1].closed == 1
        assert b.rounds() == []

    run(tmp_path, story)


def test_nothing_is_deleted_when_the_round_does_not_stand(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.disks.fill(segment(1))
        b.shards.shards[0].noted = {segment(1)}

        def lose(command: Any) -> None:
            if isinstance(command, shard_commands.Standing):
                b.shards.shards[1].condemned.clear()

        b.shards.before = lose
        await b.collector.collect(sweep=False)
        assert b.disks.all() == {segment(1)}
        assert b.rounds() == []

    run(tmp_path, story)


def test_a_down_node_owes_the_deletion(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        c = b.cluster
        b.disks.fill(segment(1))
        b.shards.shards[0].noted = {segment(1)}
        del c.calls.handlers[4]
        await c.replica.propose(
            commands.SetStates(changes=(commands.StateChange(4, "in", "down", False),))
        )
        await b.collector.collect(sweep=False)
        assert b.disks.held[2] == b.disks.held[3] == set()
        assert b.disks.held[4] == {segment(1)}
        assert [(r.phase, r.pending) for r in b.rounds()] == [(Phase.OWED, (4,))]
        b.disks.up(4)
        await c.replica.propose(
            commands.SetStates(changes=(commands.StateChange(4, "down", "in"),))
        )
        assert c.view.node(4).state == NodeState.IN  # type: ignore[union-attr]
        await b.make().collect(sweep=False)
        assert b.disks.all() == set()
        assert b.rounds() == []

    run(tmp_path, story)


def test_a_silent_node_that_is_in_is_waited_for(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.disks.fill(segment(1))
        b.shards.shards[0].noted = {segment(1)}
        del b.cluster.calls.handlers[4]
        with trio.move_on_after(GRACE_S + 5):
            await b.collector.collect(sweep=False)
        assert [(r.phase, r.pending) for r in b.rounds()] == [(Phase.DELETING, (4,))]
        b.disks.up(4)
        await b.make().collect(sweep=False)
        assert b.disks.all() == set()
        assert b.rounds() == []

    run(tmp_path, story)


@pytest.mark.parametrize("what", ["shard", "root"])
def test_every_interruption_is_resumed(tmp_path: Path, what: str) -> None:
    """Fail the nth step, n = 1, 2, ...: a new leader's collector finishes what was begun."""

    async def story(b: Bench) -> None:
        for nth in range(1, 30):
            doomed, kept = segment(2 * nth), segment(2 * nth + 1)
            b.disks.fill(doomed, kept)
            b.shards.shards[0].noted |= {doomed, kept}
            b.shards.shards[1].live.add(kept)
            if what == "shard":
                b.shards.fail_command_after = nth - 1
            else:
                b.cluster.host.groups[0].fail_next = nth
            clean = False
            try:
                await b.collector.collect(sweep=False)
                clean = True
            except CfsError:
                pass
            assert kept in b.disks.all()
            b.shards.fail_command_after = -1
            b.cluster.host.groups[0].fail_next = 0
            b.collector = b.make()
            await b.collector.collect(sweep=False)
            assert doomed not in b.disks.all()
            assert kept in b.disks.all()
            assert b.rounds() == []
            assert not any(s.condemned.keys() - s.gone for s in b.shards.shards)
            if clean:
                return
        raise AssertionError("no run was ever whole")

    run(tmp_path, story)


def test_the_worker_survives_failures(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.disks.fill(segment(1))
        b.shards.shards[0].noted = {segment(1)}
        b.shards.shards[1].down = True
        with trio.move_on_after(3):
            await b.collector.run()
        assert b.worker.last_error == "down"
        b.shards.shards[1].down = False
        with trio.move_on_after(GRACE_S + 3):
            await b.collector.run()
        assert b.worker.last_error == ""
        assert b.disks.all() == set()

    run(tmp_path, story)
