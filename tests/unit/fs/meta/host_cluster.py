"""Three hosts in one process: in-memory links that can be cut, disks that outlive a host."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import trio

from cfs.core.api.methods import RaftMessages, SnapshotChunk
from cfs.core.errors import CfsError, Unavailable
from cfs.core.kv import Writer
from cfs.core.raft.settings import Settings
from cfs.fs.disk.memory import MemoryDirectory
from cfs.fs.disk.port import Directory
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.meta.host import Group, Host
from cfs.fs.meta.state import State
from cfs.fs.meta.wal import SEGMENT_BYTES, Wal

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

FAST = Settings(
    heartbeat_ms=60, election_ms_min=250, election_ms_max=500, lease_margin_ms=60,
    log_bytes_max=64 << 10,
)  # fmt: skip


async def until(condition: Callable[[], bool], seconds: float = 8) -> None:
    """Look again every few milliseconds; fails after `seconds`."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is looked at has no event
            await trio.sleep(0.005)


class TrioThreads:
    """`Threads` over trio's."""

    async def run(self, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        return await trio.to_thread.run_sync(function, *args)


class Counter:
    """`key=value` puts, `-key` deletes, `?` counts; the result is how many keys there are."""

    def apply(self, kv: Writer, index: int, command: bytes) -> Any:
        if command == b"boom":
            kv.put(b"half", b"done")
            raise RuntimeError("a bug")
        if command.startswith(b"-"):
            kv.delete(command[1:])
        else:
            key, _, value = command.partition(b"=")
            kv.put(key, value)
        return index, sum(1 for _ in kv.scan(b"", b"\xff")) if command == b"?=" else None


class Node:
    """A host with its disk."""

    def __init__(self, cluster: Cluster, node: int, path: Path, directory: Directory) -> None:
        self.cluster = cluster
        self.node = node
        self.path = path
        self.directory = directory
        self.host: Host | None = None
        self.scope = trio.CancelScope()
        self.failure: BaseException | None = None
        self.ended = trio.Event()

    async def start(self, nursery: trio.Nursery, settings: Settings = FAST, **wal: Any) -> Host:
        store = LmdbStore(self.path)
        log = Wal(self.directory, **wal)
        self.host = Host(
            node=self.node, log=log, state=State(store), machines=lambda _group: Counter(),
            send=self, threads=TrioThreads(), seed=self.cluster.seed, settings=settings,
            inline_log=self.cluster.inline_log,
        )  # fmt: skip
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        await nursery.start(self._run, self.host, store, log)
        return self.host

    async def _run(self, host: Host, store: LmdbStore, log: Wal, *, task_status: Any) -> None:
        try:
            with self.scope:
                await host.run(task_status=task_status)
        except Exception as error:  # noqa: BLE001 - what ended the host is what tests ask
            self.failure = error
        finally:
            self.host = None
            store.close()
            log.close()
            self.ended.set()

    async def stop(self) -> None:
        self.scope.cancel()
        await self.ended.wait()

    def send(self, node: int, messages: list[bytes]) -> None:
        target = self.cluster.reach(self.node, node)
        if target is not None:
            request = RaftMessages(sender=self.node, messages=tuple(messages))
            target.on_raft_messages(None, request, b"")

    async def send_snapshot(self, node: int, chunk: SnapshotChunk, payload: bytes) -> None:
        target = self.cluster.reach(self.node, node)
        if target is None:
            raise Unavailable("cut")
        self.cluster.pieces += 1
        await target.on_snapshot_chunk(None, chunk, payload)


class Cluster:
    """Nodes 1..count."""

    def __init__(
        self, path: Path, *, count: int = 3, seed: int = 1, disk: Any = None,
        inline_log: bool = False,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.pieces = 0
        self.inline_log = inline_log
        self.cut: set[int] = set()
        make = disk or (lambda _path: MemoryDirectory())
        self.nodes = {
            n: Node(self, n, path / f"kv{n}", make(path / f"wal{n}")) for n in range(1, count + 1)
        }

    def reach(self, sender: int, receiver: int) -> Host | None:
        if {sender, receiver} & self.cut or receiver not in self.nodes:
            return None
        return self.nodes[receiver].host

    def group(self, node: int, group: int = 1) -> Group:
        host = self.nodes[node].host
        assert host is not None
        return host.groups[group]

    def live(self, group: int = 1) -> list[Group]:
        hosts = [n.host for n in self.nodes.values() if n.host and n.node not in self.cut]
        return [h.groups[group] for h in hosts if group in h.groups]

    async def leader(self, group: int = 1) -> Group:
        """Wait for one that is ready."""
        with trio.fail_after(8):
            while True:
                for replica in self.live(group):
                    if replica.ready and replica.readable():
                        return replica
                await trio.sleep(0.01)

    async def propose(self, command: bytes, group: int = 1) -> tuple[int, Any]:
        """Propose at whoever leads, again until it took effect (commands here repeat safely)."""
        with trio.fail_after(8):
            while True:
                with contextlib.suppress(CfsError):
                    return await (await self.leader(group)).propose(command)
                await trio.sleep(0.01)

    async def settled(self, group: int = 1) -> list[Group]:
        """Wait until all live replicas applied the same index."""
        leader = await self.leader(group)
        await until(lambda: {g.applied for g in self.live(group)} == {leader.last_index})
        return self.live(group)


@contextlib.asynccontextmanager
async def running(
    path: Path,
    *,
    groups: tuple[int, ...] = (1,),
    settings: Settings = FAST,
    segment_bytes: int = SEGMENT_BYTES,
    **options: Any,
) -> AsyncIterator[tuple[Cluster, trio.Nursery]]:
    """Run three nodes that all hold `groups`."""
    cluster = Cluster(path, **options)
    async with trio.open_nursery() as nursery:
        for node in cluster.nodes.values():
            host = await node.start(nursery, settings, segment_bytes=segment_bytes)
            for group in groups:
                host.create(group, tuple(cluster.nodes))
        yield cluster, nursery
        for node in cluster.nodes.values():
            if node.host is not None:
                await node.stop()
