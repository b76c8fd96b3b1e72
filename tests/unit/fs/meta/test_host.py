"""A cluster of hosts: proposals, failover, restart, snapshots, membership, failing disks."""

from __future__ import annotations

import contextlib
import errno
import functools
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from cfs.core.errors import NotLeader, Unavailable
from cfs.core.raft.message import SnapshotMeta
from cfs.fs.disk.memory import MemoryDirectory
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.meta.group_record import record_hash
from cfs.fs.meta.host import Group
from cfs.fs.meta.snapshot import PIECE_BYTES
from cfs.fs.meta.state import State
from cfs.fs.meta.wal import SEGMENTS_MAX, LogFailed, Prepared, Wal
from cfs.fs.meta.wal_format import Kind
from cfs.fs.root.heartbeat import load_of
from tests.unit.fs.meta.host_cluster import Cluster, Node, running, until

Story = Callable[[Path], Awaitable[None]]


def story(function: Story) -> Callable[[Path], None]:
    @functools.wraps(function)
    def test(tmp_path: Path) -> None:
        async def main() -> None:
            with trio.fail_after(20):
                await function(tmp_path)

        trio.run(main)

    return test


async def same_digests(cluster: Cluster, group: int = 1) -> None:
    replicas = await cluster.settled(group)
    assert len({g.digest for g in replicas}) == 1
    first = dict(replicas[0].state.scan(b"", b"\xff"))
    total = sum(record_hash(k, v) for k, v in first.items()) % (1 << 128)
    assert total.to_bytes(16, "little") == replicas[0].digest
    for replica in replicas[1:]:
        assert dict(replica.state.scan(b"", b"\xff")) == first


@story
async def test_proposals_are_applied_everywhere(tmp_path: Path) -> None:
    async with running(tmp_path, groups=(1, 2)) as (cluster, _):
        leader = await cluster.leader()
        indexes = []

        async def client(number: int) -> None:
            for count in range(5):
                index, _ = await leader.propose(b"%d-%d=x" % (number, count))
                indexes.append(index)

        async with trio.open_nursery() as clients:
            for number in range(8):
                clients.start_soon(client, number)
        assert len(set(indexes)) == 40
        assert await leader.read_barrier() >= max(indexes)
        index, (same, count) = await leader.propose(b"?=")
        assert index == same
        assert count == 41
        await same_digests(cluster)
        follower = next(g for g in cluster.live() if g is not leader)
        with pytest.raises(NotLeader) as refusal:
            await follower.propose(b"a=b")
        assert refusal.value.leader == leader._host.node
        with pytest.raises(NotLeader):
            await follower.read_barrier()
        assert not follower.readable()
        await cluster.propose(b"k=v", group=2)
        await same_digests(cluster, 2)


@story
async def test_the_log_can_be_written_in_the_loop(tmp_path: Path) -> None:
    async with running(tmp_path, inline_log=True) as (cluster, nursery):
        for number in range(10):
            await cluster.propose(b"k%d=v" % number)
        for node in cluster.nodes.values():
            await node.stop()
            assert isinstance(node.directory, MemoryDirectory)
            node.directory.crash()
            await node.start(nursery)
        await cluster.propose(b"more=v")
        await same_digests(cluster)


@story
async def test_reads_under_a_lease_do_not_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, _):
        leader = await cluster.leader()
        await leader.propose(b"a=1")
        coroutine = leader.read_barrier()
        with pytest.raises(StopIteration) as done:
            coroutine.send(None)
        assert done.value.value == leader.applied
        assert leader.state.get(b"a") == b"1"


@story
async def test_a_cut_leader_stops_serving_and_another_takes_over(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, _):
        old = await cluster.leader()
        await old.propose(b"a=1")
        cluster.cut = {old._host.node}
        with pytest.raises(Unavailable), trio.fail_after(5):
            await old.propose(b"lost=1")
        assert not old.readable()
        new = await cluster.leader()
        assert new is not old
        await new.propose(b"a=2")
        with pytest.raises((Unavailable, NotLeader)):
            await old.read_barrier()
        cluster.cut = set()
        await cluster.propose(b"b=3")
        await same_digests(cluster)
        assert old.state.get(b"a") == b"2"
        assert old.state.get(b"lost") is None


@story
async def test_watchers_hear_of_a_ready_leader(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, _):
        heard: list[tuple[int, str, bool]] = []
        for node in cluster.nodes:
            replica = cluster.group(node)
            replica.watch(lambda g: heard.append((g._host.node, g.role, g.ready)))
        leader = await cluster.leader()
        peer = next(n for n in cluster.nodes if n != leader._host.node)
        await leader.transfer(peer)
        new = await cluster.leader()
        assert new._host.node == peer
        assert (peer, "leader", True) in heard
        assert heard.index((peer, "leader", False)) < heard.index((peer, "leader", True))
        assert any(node == leader._host.node and role == "follower" for node, role, _ in heard)


@story
async def test_every_node_restarts_from_its_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, nursery):
        for number in range(30):
            await cluster.propose(b"k%d=%d" % (number % 7, number))
        for node in cluster.nodes.values():
            await node.stop()
            assert node.failure is None
            assert isinstance(node.directory, MemoryDirectory)
            node.directory.crash()
        for node in cluster.nodes.values():
            await node.start(nursery)
        leader = await cluster.leader()
        assert leader.state.get(b"k1") == b"29"
        assert not any(g.doubtful for g in cluster.live())
        await cluster.propose(b"after=1")
        await same_digests(cluster)


@story
async def test_an_unclean_end_replays_the_log_over_the_state(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, nursery):
        for number in range(20):
            await cluster.propose(b"k%d=%d" % (number % 7, number))
        await cluster.settled()
        victim = cluster.nodes[(await cluster.leader())._host.node]
        assert victim.host is not None
        # Dies at once: neither the pending batch nor the overlay is saved on the way out.
        victim.host.fail(LogFailed("killed"))
        await victim.ended.wait()
        assert isinstance(victim.failure, LogFailed)
        assert isinstance(victim.directory, MemoryDirectory)
        victim.directory.crash()
        store = LmdbStore(victim.path)
        behind = State(store).groups.get(1)
        assert behind is None or behind.applied <= 30
        store.close()
        await cluster.propose(b"meanwhile=1")
        await victim.start(nursery)
        await same_digests(cluster)


@story
async def test_torn_tails_of_all_wait_for_everyone_and_lose_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, nursery):
        await cluster.propose(b"a=1")
        await cluster.settled()
        for node in cluster.nodes.values():
            await node.stop()
            directory = node.directory
            assert isinstance(directory, MemoryDirectory)
            file = directory.open(directory.names()[-1])
            file.append([b"what a dying disk wrote"])
            file.sync()
        with structlog.testing.capture_logs() as logs:
            for number in (1, 2):
                host = await cluster.nodes[number].start(nursery)
                assert host.groups[1].doubtful
                assert load_of(1, host.groups[1]).role == "doubtful"
            await until(lambda: any(log.get("missing") == [3] for log in logs))
        assert not any(group.is_leader for group in cluster.live())
        await cluster.nodes[3].start(nursery)
        assert (await cluster.leader()).state.get(b"a") == b"1"
        await until(lambda: not any(group.doubtful for group in cluster.live()))
        await cluster.propose(b"b=1")
        await same_digests(cluster)


@story
async def test_a_torn_tail_keeps_a_replica_doubtful_until_it_caught_up(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, nursery):
        await cluster.propose(b"a=1")
        await cluster.settled()
        node = cluster.nodes[1]
        await node.stop()
        directory = node.directory
        assert isinstance(directory, MemoryDirectory)
        file = directory.open(directory.names()[-1])
        file.truncate(file.size() - 1)
        file.sync()
        host = await node.start(nursery)
        assert host.log.torn is not None
        assert host.groups[1].doubtful
        await cluster.propose(b"b=1")
        await until(lambda: not cluster.group(1).doubtful)
        await same_digests(cluster)
        await node.stop()
        await node.start(nursery)
        assert not cluster.group(1).doubtful


@story
async def test_a_lonely_voter_goes_on_after_a_torn_tail(tmp_path: Path) -> None:
    async with running(tmp_path, count=1) as (cluster, nursery):
        await cluster.propose(b"a=1")
        node = cluster.nodes[1]
        await node.stop()
        directory = node.directory
        assert isinstance(directory, MemoryDirectory)
        directory.open(directory.names()[-1]).append([b"torn"])
        await node.start(nursery)
        await cluster.propose(b"b=1")
        assert cluster.group(1).state.get(b"a") == b"1"


@story
async def test_an_empty_replica_gets_a_snapshot_in_pieces(tmp_path: Path) -> None:
    async with running(tmp_path, count=4) as (cluster, nursery):
        for node in cluster.nodes.values():
            assert node.host is not None
            await node.host.remove(1)
        hosts = {n: node.host for n, node in cluster.nodes.items()}
        for n in (1, 2, 3):
            hosts[n].create(1, (1, 2, 3))
        hosts[4].create(1, ())
        value = b"v" * (PIECE_BYTES // 10)
        for number in range(25):
            await cluster.propose(b"k%02d=" % number + value)
        leader = await cluster.leader()
        await until(lambda: leader.machine.first_index > 1)
        assert cluster.pieces == 0
        await leader.change_config((1, 2, 3), (4,))
        await until(lambda: cluster.group(4).applied >= leader.applied)
        assert cluster.pieces >= 3
        await same_digests(cluster)
        leader = await cluster.leader()
        await leader.change_config((1, 2, 4), ())
        assert leader.config.voters == (1, 2, 4)
        await cluster.nodes[3].host.remove(1)
        await cluster.propose(b"more=1")
        await same_digests(cluster)
        await cluster.nodes[4].stop()
        await cluster.nodes[4].start(nursery)
        await same_digests(cluster)
        assert cluster.group(4).state.get(b"k07") == value
        await cluster.nodes[3].stop()
        host = await cluster.nodes[3].start(nursery)
        assert dict(host.groups) == {}
        assert list(host.state.store.scan(b"", b"\xff\xff\xff\xff\xff")) == []


@story
async def test_a_failed_sync_stops_the_node(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, _):
        leader = await cluster.leader()
        node = cluster.nodes[leader._host.node]
        assert isinstance(node.directory, MemoryDirectory)
        node.directory.fail(1, errno.EIO, for_ever=True)
        with pytest.raises(Unavailable):
            await leader.propose(b"a=1")
        await node.ended.wait()
        assert isinstance(node.failure, LogFailed)
        await cluster.propose(b"b=1")


@story
async def test_a_state_machine_that_raises_stops_the_node_and_leaves_no_half(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, count=1) as (cluster, _):
        leader = await cluster.leader()
        with pytest.raises(Unavailable):
            await leader.propose(b"boom")
        node = cluster.nodes[1]
        await node.ended.wait()
        assert isinstance(node.failure, RuntimeError)
        store = LmdbStore(node.path)
        assert State(store).groups.get(1, store).get(b"half") is None
        store.close()
        assert b"half" not in leader.state._active.values


@story
async def test_cancelled_proposals_leave_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, _):
        leader = await cluster.leader()
        for _ in range(20):
            with trio.move_on_after(0):
                await leader.propose(b"a=1")
        await leader.propose(b"b=1")
        assert leader._waiters.tasks == {}
        assert leader._waiters.proposals == {}


@story
async def test_acknowledged_proposals_survive_power_loss_of_all_nodes(tmp_path: Path) -> None:
    """Kill all nodes in the middle of traffic, again and again; what was answered is there."""
    async with running(tmp_path) as (cluster, nursery):
        acknowledged: dict[bytes, int] = {}
        for life in range(4):
            leader = await cluster.leader()
            async with trio.open_nursery() as clients:
                for number in range(6):
                    clients.start_soon(_write_until_failure, leader, number, acknowledged)
                for node in cluster.nodes.values():
                    for _ in range(40 + 30 * life):
                        await trio.lowlevel.checkpoint()
                    assert node.host is not None
                    node.host.fail(LogFailed("power loss"))
                    await node.ended.wait()
                    assert isinstance(node.directory, MemoryDirectory)
                    node.directory.crash()
            for node in cluster.nodes.values():
                await node.start(nursery)
            leader = await cluster.leader()
            for key, value in acknowledged.items():
                assert int(leader.state.get(key) or b"-1") >= value
            await same_digests(cluster)
        assert len(acknowledged) == 6


async def _write_until_failure(leader: Group, number: int, acknowledged: dict[bytes, int]) -> None:
    key = b"client%d" % number
    value = acknowledged.get(key, 0)
    with contextlib.suppress(Unavailable, NotLeader):
        while True:
            value += 1000 if value % 1000 else 1
            await leader.propose(key + b"=%d" % value)
            acknowledged[key] = value


@story
async def test_a_crash_between_installing_and_the_logs_restart(tmp_path: Path) -> None:
    """LMDB already shows the snapshot, the log still ends before it: the state wins."""
    async with running(tmp_path) as (cluster, nursery):
        victim = cluster.nodes[3]
        await cluster.propose(b"early=1")
        await cluster.settled()
        await victim.stop()
        value = b"v" * 20000
        for number in range(20):
            await cluster.propose(b"k%02d=" % number + value)
        leader = await cluster.leader()
        await until(lambda: leader.machine.first_index > cluster_last(victim))
        victim_host = await victim.start(nursery)
        # Everything but the log's restart: its directory fails from here on.
        fail = victim_host.reset_log
        installed = trio.Event()

        def reset_log(group: Group, meta: SnapshotMeta) -> None:
            installed.set()
            victim_host.fail(LogFailed("power loss"))
            fail(group, meta)

        victim_host.reset_log = reset_log  # type: ignore[method-assign]
        await installed.wait()
        await victim.ended.wait()
        assert isinstance(victim.directory, MemoryDirectory)
        victim.directory.crash()
        again = await victim.start(nursery)
        assert again.groups[1].state.get(b"k03") == value
        assert again.groups[1].machine.first_index > 2
        await cluster.propose(b"late=1")
        await same_digests(cluster)


def cluster_last(node: Node) -> int:
    """Give the last index in a stopped node's log."""
    replayed = Wal(node.directory).replayed[1]
    return replayed.snapshot.index + len(replayed.entries)


@story
async def test_the_log_stays_bounded_with_an_idle_group(tmp_path: Path) -> None:
    async with running(tmp_path, groups=(1, 2), count=1, segment_bytes=200_000) as (cluster, _):
        await cluster.propose(b"idle=1", group=2)
        node = cluster.nodes[1]
        assert node.host is not None
        for _ in range(6):
            for _ in range(20):
                await cluster.propose(b"big=" + bytes(20_000))
            await node.host.flush()
            node.host.want_flush()
        assert isinstance(node.directory, MemoryDirectory)
        await until(lambda: node.host.log.segment_count <= SEGMENTS_MAX + 2)
        assert node.host.log.bytes_used() < 2_400_000


@story
async def test_followers_acknowledge_only_what_their_disk_holds(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, _):
        leader = await cluster.leader()
        await cluster.settled()
        followers = [n for n in cluster.nodes.values() if n.node != leader._host.node]
        gates = [_hold_back(node) for node in followers]
        answered = trio.Event()

        async def client() -> None:
            await leader.propose(b"a=1")
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await until(lambda: all(entered.is_set() for entered, _ in gates))
            await trio.testing.wait_all_tasks_blocked()
            assert not answered.is_set()
            assert leader.commit < leader.last_index
            gates[0][1].set()
            await answered.wait()
            gates[1][1].set()
        await same_digests(cluster)


def _hold_back(node: Node) -> tuple[threading.Event, threading.Event]:
    """Make the next batch of a node wait: (it began, let it go on)."""
    assert node.host is not None
    log = node.host.log
    commit = log.commit
    entered, go_on = threading.Event(), threading.Event()

    def slow(prepared: Prepared) -> None:
        if any(record.kind is Kind.ENTRIES for record in prepared.records):
            entered.set()
            go_on.wait(5)
        commit(prepared)

    log.commit = slow  # type: ignore[method-assign]
    return entered, go_on
