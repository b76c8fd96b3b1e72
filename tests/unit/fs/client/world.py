"""A cluster of two metadata nodes in one task tree: the real service over a shared state.

Two `MetaService`s take turns in leading; what Raft would do is one shared store. Messages pass the
codec both ways. Faults are injected by `World`: replies lost, nodes silent, clients cut off.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import trio
import trio.testing

from cfs.core.api import root
from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role, ShardPlacement
from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.api.methods import BY_NAME
from cfs.core.api.store import StoreStat
from cfs.core.errors import CfsError, DeadlineExceeded, NotLeader, Unavailable, from_wire
from cfs.core.kv import MemoryStore
from cfs.core.meta import commands
from cfs.core.meta.shard import Shard
from cfs.fs.client.files import Files
from cfs.fs.client.limits import Limits
from cfs.fs.meta.service import MetaService
from cfs.net.handlers import Context

CHUNK = 65_536


class Clock:
    def __init__(self) -> None:
        self.last = 1_700_000_000 * 10**9

    def time_ns(self) -> int:
        now = 1_700_000_000 * 10**9 + int(trio.current_time() * 1e9)
        self.last = max(self.last + 1, now)
        return self.last


class State(MemoryStore):
    applied = 0


class SharedGroup:
    """What Raft replicates of one shard."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.state = State()
        self.machine = Shard(0, group - 1)
        self.leader: int | None = 1
        self.term = 1


class Group:
    """One node's replica."""

    def __init__(self, node: int, shared: SharedGroup) -> None:
        self.node = node
        self.shared = shared
        self.group = shared.group
        self.watchers: list[Callable[[Any], None]] = []

    state = property(lambda self: self.shared.state)
    applied = property(lambda self: self.shared.state.applied)
    term = property(lambda self: self.shared.term)
    leader = property(lambda self: self.shared.leader)
    is_leader = property(lambda self: self.shared.leader == self.node)
    ready = is_leader
    others_over_s = property(lambda _self: trio.current_time())

    def readable(self) -> bool:
        return self.is_leader

    async def read_barrier(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.is_leader:
            raise NotLeader("moved", leader=self.leader)

    async def propose(self, command: bytes) -> tuple[int, Any]:
        if not self.is_leader:
            raise NotLeader("moved", leader=self.leader)
        await trio.sleep(0.001)
        if not self.is_leader:
            raise Unavailable("moved while proposing")
        state = self.shared.state
        state.applied += 1
        return state.applied, self.shared.machine.apply(state, state.applied, command)

    def watch(self, callback: Callable[[Any], None]) -> None:
        self.watchers.append(callback)


class Host:
    def __init__(self, groups: dict[int, Group]) -> None:
        self.groups = groups


class View:
    def __init__(self, cluster: ClusterMap) -> None:
        self.map = cluster

    async def refresh(self) -> None:
        await trio.lowlevel.checkpoint()


class Peer:
    """A client as the service sees it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.role = Role.CLIENT
        self.closed = trio.Event()
        self.files: Files | None = None

    async def call(self, method: str, request: Any, *, timeout_s: float) -> Any:
        assert method == "client.recall"
        assert self.files is not None
        self.world.log.append((method, self.name, request))
        await trio.sleep(0.0005)
        if self.name in self.world.cut:
            raise Unavailable("cut off")
        gate = self.world.hold_recall
        if gate is not None:
            await gate.wait()
        with trio.move_on_after(timeout_s):
            return await self.files.on_recall(None, recode(type(request), request), b"")
        raise DeadlineExceeded("recall")


class Pool:
    """A client's pool."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.world = world
        self.peer = peer

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        world = self.world
        world.log.append((method, self.peer.name, request))
        await trio.sleep(0.0005)
        if node in world.silent or self.peer.name in world.cut:
            await trio.sleep(timeout_s)
            raise DeadlineExceeded(f"node {node}")
        row = BY_NAME[method]
        with trio.move_on_after(timeout_s):
            try:
                await trio.sleep(world.call_delay(method, request) if world.call_delay else 0)
                answer = await world.serve(node, method, recode(row.request, request), self.peer)
            except CfsError as error:
                raise from_wire(
                    msgspec.msgpack.decode(msgspec.msgpack.encode(error.to_wire()))
                ) from None
            if world.lose and world.lose[0](method, request):
                world.lose.pop(0)
                raise Unavailable("the reply was lost")
            await trio.sleep(world.reply_delay(method, request) if world.reply_delay else 0)
            return recode(row.reply, answer), b""
        raise DeadlineExceeded(f"node {node}")


def recode(kind: Any, value: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


class Data:
    """Uploader and fetcher over one dict."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.fail: list[CfsError] = []
        self.count = 0
        self.session = 900
        self.prefetched = 0

    async def write(self, runs: Any, *, avoid: Any = ()) -> list[list[Extent]]:
        await trio.sleep(0.002)
        if self.fail:
            raise self.fail.pop(0)
        out = []
        for run in runs:
            data = bytes(run.data)
            out.append(
                [
                    self._store(run.offset + at, data[at : at + CHUNK])
                    for at in range(0, len(data), CHUNK)
                ]
            )
        return out

    async def stream(self, feed: Any, *, avoid: Any = ()) -> None:
        rest, offset = b"", feed.offset
        while (part := await feed.next()) is not None:
            rest += bytes(part.slab[part.start : part.stop])
            await trio.sleep(0.002)
            if self.fail:
                raise self.fail.pop(0)
            stop = len(rest) - len(rest) % CHUNK
            for at in range(0, stop, CHUNK):
                feed.landed([self._store(offset + at, rest[at : at + CHUNK])])
            rest, offset = rest[stop:], offset + stop
        if rest and feed.whole:
            feed.landed([self._store(offset, rest)])

    def _store(self, offset: int, piece: bytes) -> Extent:
        self.count += 1
        chunk_id = self.count.to_bytes(32, "big")
        self.chunks[chunk_id] = piece
        segment = self.session.to_bytes(8, "big") + self.count.to_bytes(8, "big")
        return Extent(
            offset=offset, length=len(piece), kind=ExtentKind.CHUNK, chunk_id=chunk_id,
            raw=len(piece), key_version=1, segment=segment, data=2, parity=1,
            segment_length=len(piece), at=0, stored=len(piece),
        )  # fmt: skip

    def inline(self, offset: int, data: bytes) -> Extent:
        self.count += 1
        return Extent(
            offset=offset, length=len(data), kind=ExtentKind.INLINE,
            chunk_id=self.count.to_bytes(32, "big"), raw=len(data), key_version=1,
            stored=len(data), inline=bytes(data),
        )  # fmt: skip

    def forget(self, segments: Any) -> None:
        pass

    async def read(self, extents: Any, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.cached(extents, offset, length)

    def cached(self, extents: Any, offset: int, length: int) -> bytes:
        out = bytearray()
        for e in extents:
            low, high = max(offset, e.offset), min(offset + length, e.offset + e.length)
            if low >= high:
                continue
            assert low == offset + len(out), "a gap"
            if e.kind == ExtentKind.HOLE:
                out += bytes(high - low)
            else:
                plain = e.inline if e.kind == ExtentKind.INLINE else self.chunks[e.chunk_id]
                assert len(plain) == e.raw, (e, plain)
                start = e.skip + low - e.offset
                out += plain[start : start + high - low]
        assert len(out) == length, (len(out), length, extents)
        return bytes(out)

    async def prefetch(self, extents: Any) -> None:
        self.prefetched += sum(e.length for e in extents)


class SlowKernel:
    """Takes a while to drop its pages, as a kernel with locked ones does."""

    async def invalidate(self, ino: int) -> None:
        await trio.sleep(0.003 * (ino % 3))

    async def drop_attributes(self, ino: int) -> None:
        await trio.sleep(0.0001)


STORES = (11, 12, 13)


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.shared = SharedGroup(1)
        self.groups = {n: Group(n, self.shared) for n in (1, 2)}
        self.services = {
            n: MetaService(host=Host({1: g}), clock=self.clock, shard_count=lambda: 1)
            for n, g in self.groups.items()
        }
        nodes = tuple(
            Node(
                node_id=n,
                name=f"{role}{n}",
                role=role,
                host="",
                port=0,
                domain=f"d{n}",
                state=NodeState.IN,
            )
            for n, role in ((1, Role.META), (2, Role.META), *((n, Role.STORAGE) for n in STORES))
        )
        self.map = ClusterMap(
            epoch=1, cluster_id=b"", name="t", site=0, shard_count=1,
            profile=Profile(data=2, parity=1), key_version=1, nodes=nodes,
            groups=(ShardPlacement(group=0, voters=(1,)), ShardPlacement(group=1, voters=(1, 2))),
            placement=(STORES,),
        )  # fmt: skip
        self.data = Data()
        self.free = 1 << 34
        self.sessions = 0
        self.silent: set[int] = set()
        self.cut: set[str] = set()
        self.lose: list[Callable[[str, Any], bool]] = []
        self.call_delay: Callable[[str, Any], float] | None = None
        self.reply_delay: Callable[[str, Any], float] | None = None
        self.hold_recall: trio.Event | None = None
        self.log: list[tuple[str, str, Any]] = []
        self.nursery: trio.Nursery

    async def serve(self, node: int, method: str, request: Any, peer: Peer) -> Any:
        if method == "root.session":
            self.sessions += 1
            return root.NewSessionReply(session=self.sessions)
        if method == "root.status":
            return self._status()
        handler = self.services[node].handlers[method]
        context = Context(peer=peer, method=method, deadline=None, epoch=1)
        answer = handler(context, request, b"")
        return await answer if hasattr(answer, "__await__") else answer

    def _status(self) -> root.Status:
        beat = root.Heartbeat(
            node_id=0, epoch=1, started_ms=0, store=StoreStat(capacity=1 << 35, free=self.free)
        )
        nodes = tuple(
            root.NodeStatus(
                node_id=n,
                name="",
                role="storage",
                address="",
                state="in",
                seen_ms_ago=1,
                heartbeat=beat,
            )
            for n in STORES
        )
        return root.Status(
            map=self.map,
            leader=1,
            nodes=nodes,
            logical_bytes=0,
            inodes=7,
            inline_bytes=0,
            health="ok",
        )

    def lead(self, node: int | None) -> None:
        """Move leadership."""
        self.shared.leader = node
        self.shared.term += 1
        for group in self.groups.values():
            for watcher in group.watchers:
                watcher(group)

    async def client(self, name: str, **limits: Any) -> Files:
        peer = Peer(self, name)
        files = Files(
            pool=Pool(self, peer), view=View(self.map), uploader=self.data, fetcher=self.data,
            clock=self.clock, name=name, limits=Limits(**limits),
        )  # fmt: skip
        peer.files = files
        files.attach(SlowKernel())
        await files.start(self.nursery)
        return files

    def calls(self, method: str, client: str | None = None) -> int:
        return sum(1 for m, c, _ in self.log if m == method and client in {None, c})


@contextlib.asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    world = World()
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        for service in world.services.values():
            await nursery.start(service.run)
        await trio.sleep(0.01)
        init = commands.Batch(world.clock.time_ns(), (commands.InitShard(root=True),))
        await world.groups[1].propose(commands.encode_batch(init))
        yield world
        nursery.cancel_scope.cancel()


def run(scenario: Callable[[World], Any], seeds: int = 3) -> None:
    """Run on virtual time, once for each of some seeds of the scheduler."""
    before = trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        for seed in range(seeds):
            trio._core._run._r.seed(seed)
            _run_once(scenario)
    finally:
        trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = before


def _run_once(scenario: Callable[[World], Any]) -> None:
    async def main() -> None:
        with trio.fail_after(600):
            async with open_world() as world:
                await scenario(world)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
