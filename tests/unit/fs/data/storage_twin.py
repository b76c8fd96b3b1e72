"""Storage nodes in memory behind the pool's one call, with fault switches. Virtual time only."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import trio
import trio.testing

from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role
from cfs.core.api.meta import Empty, Extent
from cfs.core.api.store import (
    ChunkRef,
    FindChunks,
    FindChunksReply,
    FragmentInfo,
    GetFragment,
    PublishChunks,
    PutFragment,
)
from cfs.core.data.pipeline import Sealer
from cfs.core.errors import (
    CfsError,
    Corrupt,
    DeadlineExceeded,
    Malformed,
    NoSpace,
    NotFound,
    StaleEpoch,
    Unavailable,
)
from cfs.fs.data.fetcher import Fetcher
from cfs.fs.data.uploader import Uploader

KEY = bytes(range(32))
_T = TypeVar("_T")


class Inline:
    """Threads that are none: virtual time must not run while native code does."""

    def __init__(self) -> None:
        self.hops = 0

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:
        self.hops += 1
        await trio.lowlevel.checkpoint()
        return function(*args)


class StorageNode:
    def __init__(self) -> None:
        self.fragments: dict[tuple[bytes, int], tuple[PutFragment, bytes]] = {}
        self.index: dict[bytes, ChunkRef] = {}
        self.down = self.full = self.hung = self.stale = False
        self.damaged: set[tuple[bytes, int]] = set()
        self.fail_after: int | None = None

    def put(self, request: PutFragment, payload: bytes) -> Empty:
        if self.full:
            raise NoSpace("full")
        if self.stale:
            raise StaleEpoch("stale")
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise CfsError("disk broke")
        name = (request.segment, request.index)
        old = self.fragments.get(name)
        if old is not None and old[1] != payload:
            raise Malformed("other bytes under the same name")
        self.fragments[name] = (request, payload)
        return Empty()

    def get(self, request: GetFragment) -> tuple[FragmentInfo, bytes]:
        index = request.index
        if index == -1:
            held = [i for s, i in self.fragments if s == request.segment]
            if not held:
                raise NotFound("no fragment")
            index = held[0]
        name = (request.segment, index)
        if name not in self.fragments:
            raise NotFound("no fragment")
        if name in self.damaged:
            raise Corrupt("checksum")
        header, data = self.fragments[name]
        end = request.offset + request.length if request.length else len(data)
        info = FragmentInfo(
            segment=header.segment, index=index, data=header.data, parity=header.parity,
            segment_length=header.segment_length, length=len(data),
        )  # fmt: skip
        return info, data[request.offset : end]


class Cluster:
    """`count` storage nodes, one failure domain each."""

    def __init__(self, count: int, profile: Profile, groups: int = 64) -> None:
        self.nodes = {n: StorageNode() for n in range(1, count + 1)}
        rng = random.Random(count)
        size = min(profile.total, count)
        self.map = ClusterMap(
            epoch=1, cluster_id=b"c", name="c", site=0, shard_count=1, profile=profile,
            key_version=1,
            nodes=tuple(
                Node(node_id=n, name=f"n{n}", role=Role.STORAGE, host="h", port=n, domain=f"d{n}",
                     state=NodeState.IN)
                for n in self.nodes
            ),
            groups=(),
            placement=tuple(tuple(rng.sample(list(self.nodes), size)) for _ in range(groups)),
        )  # fmt: skip
        self.calls: Counter[str] = Counter()
        self.refreshed = 0
        self.on_refresh: Callable[[], None] = lambda: None
        self.threads = Inline()

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        self.calls[method] += 1
        await trio.lowlevel.checkpoint()
        at = self.nodes[node]
        if at.down:
            raise Unavailable("down")
        if at.hung:
            await trio.sleep(timeout_s)
            raise DeadlineExceeded("hung")
        match request:
            case PutFragment():
                return at.put(request, bytes(payload)), b""
            case GetFragment():
                return at.get(request)
            case FindChunks():
                refs = tuple(at.index.get(c) for c in request.chunk_ids)
                return FindChunksReply(refs=refs), b""
            case PublishChunks():
                at.index.update({ref.chunk_id: ref for ref in request.refs})
                return Empty(), b""
        raise AssertionError(method)

    async def refresh(self) -> None:
        self.refreshed += 1
        await trio.lowlevel.checkpoint()
        self.on_refresh()

    def uploader(self, session: int = 1, **more: Any) -> Uploader:
        arguments: dict[str, Any] = {
            "pool": self,
            "cluster_map": lambda: self.map,
            "sealer": Sealer({1: KEY}, 1),
            "threads": self.threads,
            "session": lambda: session,
            "refresh": self.refresh,
        }
        return Uploader(**(arguments | more))

    def fetcher(self, cache_bytes: int = 8 << 20) -> Fetcher:
        return Fetcher(
            pool=self,
            cluster_map=lambda: self.map,
            sealer=Sealer({1: KEY}, 1),
            threads=self.threads,
            cache_bytes=cache_bytes,
            refresh=self.refresh,
        )

    def segments(self) -> set[bytes]:
        return {segment for node in self.nodes.values() for segment, _ in node.fragments}

    def holders(self, segment: bytes) -> list[int]:
        return [n for n, at in self.nodes.items() if any(s == segment for s, _ in at.fragments)]


def run(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run under a virtual clock that jumps; bounded at an hour of virtual time."""

    async def bounded() -> _T:
        with trio.fail_after(3600):
            return await main()

    return trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def length_of(extents: list[Extent]) -> int:
    return sum(extent.length for extent in extents)
