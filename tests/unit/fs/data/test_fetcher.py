"""Reads give the right bytes or an error, whatever m nodes do; and no more traffic than needed."""

from __future__ import annotations

import itertools

import msgspec
import pytest
import trio
import trio.testing
from storage_twin import Cluster, noise, run

from cfs.core.api.cluster import Profile
from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.errors import Corrupt, NotFound, Unavailable
from cfs.fs.data.uploader import Run

DATA = noise(1_500_000)


async def _written(cluster: Cluster, data: bytes = DATA) -> list[Extent]:
    [extents] = await cluster.uploader().write([Run(0, data)])
    return extents


def _flip(cluster: Cluster, node: int, *, seen_by_node: bool) -> None:
    """Damage every fragment a node holds, noticed by its checksum or not."""
    at = cluster.nodes[node]
    for name, (header, data) in at.fragments.items():
        if seen_by_node:
            at.damaged.add(name)
        else:
            at.fragments[name] = (header, bytes(b ^ 0x55 for b in data))


def test_a_healthy_read_asks_one_fragment() -> None:
    cluster = Cluster(7, Profile(4, 2))

    async def main() -> None:
        extents = await _written(cluster)
        fetcher = cluster.fetcher()
        chunk = extents[1]
        got = await fetcher.read(extents, chunk.offset + 10, 100)
        assert got == DATA[chunk.offset + 10 : chunk.offset + 110]
        assert cluster.calls["store.get"] <= 2
        assert fetcher.counters.degraded == 0
        asked = cluster.calls["store.get"]
        assert await fetcher.read(extents, chunk.offset, 5) == DATA[chunk.offset :][:5]
        assert cluster.calls["store.get"] == asked
        assert fetcher.cache_hits == 1

    run(main)


def test_neighbours_are_read_as_one_range_per_fragment() -> None:
    cluster = Cluster(3, Profile(2, 1))

    async def main() -> None:
        extents = await _written(cluster)
        fetcher = cluster.fetcher()
        await fetcher.prefetch(extents)
        assert cluster.calls["store.get"] <= 4
        asked = cluster.calls["store.get"]
        assert await fetcher.read(extents, 0, len(DATA)) == DATA
        assert cluster.calls["store.get"] == asked

    run(main)


@pytest.mark.parametrize("fault", ["down", "hung", "seen", "unseen", "gone"])
@pytest.mark.parametrize(("count", "profile"), [(3, Profile(2, 1)), (6, Profile(4, 2))])
@pytest.mark.parametrize("size", [3000, 300_000])
def test_any_parity_nodes_may_misbehave(
    fault: str, count: int, profile: Profile, size: int
) -> None:
    data = noise(size)
    for bad in itertools.combinations(range(1, count + 1), profile.parity):
        cluster = Cluster(count, profile, groups=8)

        async def main(cluster: Cluster = cluster, bad: tuple[int, ...] = bad) -> None:
            extents = await _written(cluster, data)
            for node in bad:
                if fault in {"down", "hung"}:
                    setattr(cluster.nodes[node], fault, True)
                elif fault == "gone":
                    cluster.nodes[node].fragments.clear()
                else:
                    _flip(cluster, node, seen_by_node=fault == "seen")
            started = trio.current_time()
            fetcher = cluster.fetcher()
            assert await fetcher.read(extents, 0, size) == data
            assert trio.current_time() - started < 15
            started = trio.current_time()
            assert await cluster.fetcher().read(extents, size // 2, 1) == data[size // 2 :][:1]
            assert trio.current_time() - started < 15

        run(main)


def test_a_single_hung_node_costs_about_a_second_once() -> None:
    cluster = Cluster(3, Profile(2, 1))

    async def main() -> None:
        extents = await _written(cluster)
        cluster.nodes[1].hung = True
        fetcher = cluster.fetcher(cache_bytes=0)
        started = trio.current_time()
        for extent in extents:
            await fetcher.read(extents, extent.offset, 1)
        assert trio.current_time() - started < 2.5
        assert fetcher.counters.hedged

    run(main)


def test_too_many_losses_are_an_error_never_wrong_bytes() -> None:
    async def main() -> None:
        cluster = Cluster(3, Profile(2, 1))
        extents = await _written(cluster)
        for node in (1, 2):
            cluster.nodes[node].down = True
        with pytest.raises(Unavailable):
            await cluster.fetcher().read(extents, 0, len(DATA))
        for node in (1, 2):
            cluster.nodes[node].down = False
            _flip(cluster, node, seen_by_node=False)
        with pytest.raises(Corrupt):
            await cluster.fetcher().read(extents, 0, len(DATA))
        for node in cluster.nodes.values():
            node.fragments.clear()
        with pytest.raises(NotFound):
            await cluster.fetcher().read(extents, 0, len(DATA))
        for node in cluster.nodes:
            cluster.nodes[node].down = True
            with pytest.raises(Unavailable):
                await cluster.fetcher().read(extents, 0, len(DATA))
            cluster.nodes[node].down = False

    run(main)


@pytest.mark.parametrize("size", [3000, 300_000])
def test_fragments_on_other_members_are_found(size: int) -> None:
    cluster = Cluster(3, Profile(2, 1))
    data = noise(size)

    async def main() -> None:
        extents = await _written(cluster, data)
        rotated = tuple((*group[1:], group[0]) for group in cluster.map.placement)
        cluster.map = msgspec.structs.replace(cluster.map, epoch=2, placement=rotated)
        assert await cluster.fetcher().read(extents, 0, size) == data
        for node in cluster.nodes.values():
            node.down = True
            assert await cluster.fetcher().read(extents, 0, size) == data
            node.down = False

    run(main)


@pytest.mark.parametrize("size", [3000, 300_000])
def test_a_newer_map_is_asked_for(size: int) -> None:
    cluster = Cluster(6, Profile(2, 1))
    data = noise(size)

    async def main() -> None:
        extents = await _written(cluster, data)
        right = cluster.map
        others = tuple(
            tuple(n for n in cluster.nodes if n not in group) for group in right.placement
        )
        cluster.map = msgspec.structs.replace(right, placement=others)

        def renew() -> None:
            cluster.map = msgspec.structs.replace(right, epoch=2)

        cluster.on_refresh = renew
        assert await cluster.fetcher().read(extents, 0, size) == data

    run(main)


def test_holes_skips_and_edges() -> None:
    cluster = Cluster(3, Profile(2, 1))

    async def main() -> None:
        uploader = cluster.uploader()
        [[chunk]] = await uploader.write([Run(0, b"0123456789")])
        tiles = [
            msgspec.structs.replace(chunk, offset=0, length=4, skip=3),
            Extent(offset=4, length=6),
            msgspec.structs.replace(uploader.inline(10, b"abcdef"), length=3, skip=2),
        ]
        expected = b"3456" + bytes(6) + b"cde"
        fetcher = cluster.fetcher()
        for start in range(13):
            for stop in range(start, 14):
                assert await fetcher.read(tiles, start, stop - start) == expected[start:stop]
        for wrong in ((tiles[::2], 0, 13), (tiles, 0, 14), ([], 0, 1), (tiles[1:], 0, 1)):
            with pytest.raises(Corrupt):
                await fetcher.read(*wrong)
        liar = msgspec.structs.replace(chunk, length=11)
        with pytest.raises(Corrupt):
            await fetcher.read([liar], 0, 11)
        outside = msgspec.structs.replace(chunk, at=chunk.segment_length, chunk_id=b"x" * 32)
        with pytest.raises(Corrupt):
            await fetcher.read([outside], 0, 10)
        assert (await fetcher.read([Extent(offset=0, length=9)], 2, 5)) == bytes(5)
        assert tiles[1].kind is ExtentKind.HOLE

    run(main)


def test_one_fetch_serves_all_who_wait_and_survives_a_cancelled_one() -> None:
    cluster = Cluster(3, Profile(2, 1))

    async def main() -> None:
        extents = await _written(cluster, DATA[:60_000])
        fetcher = cluster.fetcher(cache_bytes=0)
        got: list[bytes] = []

        async def read() -> None:
            got.append(await fetcher.read(extents, 0, 60_000))

        before = cluster.calls["store.get"]
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)
        asked = cluster.calls["store.get"] - before
        assert asked <= 2 * len(extents)
        assert got == [DATA[:60_000]] * 10
        for node in cluster.nodes.values():
            node.hung = True
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def doomed() -> None:
                with scope:
                    await read()

            nursery.start_soon(doomed)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            for node in cluster.nodes.values():
                node.hung = False
            scope.cancel()
        assert len(got) == 11
        assert not fetcher._flights

    run(main)


def test_the_cache_stays_within_its_bytes() -> None:
    cluster = Cluster(3, Profile(2, 1))

    async def main() -> None:
        extents = await _written(cluster)
        fetcher = cluster.fetcher(cache_bytes=400_000)
        await fetcher.prefetch(extents)
        assert 0 < fetcher.cache_bytes <= 400_000
        assert await fetcher.read(extents, 0, len(DATA)) == DATA
        assert fetcher.cache_bytes == sum(map(len, fetcher._cache.values())) <= 400_000

    run(main)
