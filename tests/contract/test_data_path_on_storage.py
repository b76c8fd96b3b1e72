"""The data path over real storage services (disks in memory): what the twin promises holds."""

from __future__ import annotations

import random
from typing import Any

import trio

from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role
from cfs.core.data.pipeline import Sealer
from cfs.core.errors import Unavailable
from cfs.core.kv import MemoryStore
from cfs.fs.data.fetcher import Fetcher
from cfs.fs.data.uploader import Run, Uploader
from cfs.fs.disk.memory import MemoryDirectory
from cfs.fs.store.service import DiskPlace, StorageService


class _Outside:
    """Clock, entropy and threads."""

    def __init__(self) -> None:
        self._rng = random.Random(4)

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)

    async def run(self, function: Any, *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)


class _Storage:
    """Three storage services behind the pool's one call."""

    def __init__(self) -> None:
        self.map = ClusterMap(
            epoch=1,
            cluster_id=b"c" * 16,
            name="c",
            site=0,
            shard_count=1,
            profile=Profile(2, 1),
            key_version=1,
            nodes=tuple(
                Node(
                    node_id=n,
                    name=f"n{n}",
                    role=Role.STORAGE,
                    host="h",
                    port=n,
                    domain=f"d{n}",
                    state=NodeState.IN,
                )
                for n in (1, 2, 3)
            ),
            groups=(),
            placement=((1, 2, 3), (2, 3, 1), (3, 1, 2)),
        )
        self.down: set[int] = set()
        outside = _Outside()
        self.services = {
            n: StorageService(
                node_id=n,
                cluster_id=self.map.cluster_id,
                disks=[
                    DiskPlace(
                        name="d0",
                        directory=MemoryDirectory(capacity=1 << 28),
                        open_store=lambda _fresh: MemoryStore(),
                    )
                ],
                threads=outside,
                clock=outside,
                entropy=outside,
                cluster_map=lambda: self.map,
                reserve_bytes=0,
            )
            for n in (1, 2, 3)
        }

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        if node in self.down:
            raise Unavailable("down")
        with trio.fail_after(timeout_s):
            answer = self.services[node].handlers[method](None, request, payload)  # type: ignore[arg-type]
            if hasattr(answer, "__await__"):
                answer = await answer
        return answer if isinstance(answer, tuple) else (answer, b"")


def test_write_dedupe_and_read_through_the_loss_of_each_node() -> None:
    storage = _Storage()
    data = random.Random(1).randbytes(700_000)
    sealer = Sealer({1: bytes(32)}, 1)
    threads = _Outside()

    async def refresh() -> None:
        await trio.lowlevel.checkpoint()

    def uploader(session: int) -> Uploader:
        return Uploader(
            pool=storage,
            cluster_map=lambda: storage.map,
            sealer=sealer,
            threads=threads,
            session=lambda: session,
            refresh=refresh,
        )

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for service in storage.services.values():
                await nursery.start(service.run)
            large, small = await uploader(1).write([Run(0, data), Run(0, b"small")])
            [tiny] = await uploader(1 << 40).write([Run(0, b"tiny")])
            second = uploader(2)
            assert await second.write([Run(0, data), Run(0, b"small")]) == [large, small]
            assert second.dedupe.hits == len(large) + 1
            assert second.dedupe.failures == 0
            for down in ((), (1,), (2,), (3,)):
                storage.down = set(down)
                fetcher = Fetcher(
                    pool=storage,
                    cluster_map=lambda: storage.map,
                    sealer=sealer,
                    threads=threads,
                    cache_bytes=1 << 20,
                )
                assert await fetcher.read(large, 0, len(data)) == data
                assert await fetcher.read(small, 0, 5) == b"small"
                assert await fetcher.read(tiny, 0, 4) == b"tiny"
                assert bool(fetcher.counters.degraded) == bool(down)
            storage.down = {2}
            [during] = await uploader(3).write([Run(0, data[::-1])])
            storage.down = {1}
            assert await fetcher.read(during, 0, len(data)) == data[::-1]
            nursery.cancel_scope.cancel()

    trio.run(main)
