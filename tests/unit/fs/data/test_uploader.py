"""What `write` gives is durable against any m losses, whatever fails on the way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec
import pytest
import trio
from storage_twin import Cluster, length_of, noise, run

from cfs.core.api.cluster import NodeState, Profile
from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.data import chunking
from cfs.core.data.pipeline import Sealer
from cfs.core.errors import NoSpace
from cfs.core.segment import container
from cfs.fs.data.dedupe import RECENT_S
from cfs.fs.data.source import Part
from cfs.fs.data.uploader import Limits, Run

SMALL = Limits(batch_bytes=1 << 20, bytes_in_flight=2 << 20, segments_in_flight=2)


async def _read_back(cluster: Cluster, extents: list[Extent], offset: int, data: bytes) -> None:
    assert await cluster.fetcher().read(extents, offset, len(data)) == data


async def _survives_any_losses(cluster: Cluster, extents: list[Extent], data: bytes) -> None:
    down_already = [n for n, at in cluster.nodes.items() if at.down]
    for lost in itertools.combinations(cluster.nodes, cluster.map.profile.parity):
        for node in lost:
            cluster.nodes[node].down = True
        await _read_back(cluster, extents, extents[0].offset, data)
        for node in lost:
            cluster.nodes[node].down = node in down_already


@pytest.mark.parametrize(("count", "profile"), [(3, Profile(2, 1)), (7, Profile(4, 2))])
@pytest.mark.parametrize("size", [1, 20_000, 100_000, 3_000_000])
def test_any_parity_nodes_may_be_lost(count: int, profile: Profile, size: int) -> None:
    cluster = Cluster(count, profile)
    data = noise(size)

    async def main() -> None:
        [extents] = await cluster.uploader().write([Run(5000, data)])
        assert extents[0].offset == 5000
        assert length_of(extents) == size
        kind = 1 if size <= 60_000 else profile.data
        assert {e.data for e in extents} == {kind}
        await _survives_any_losses(cluster, extents, data)

    run(main)


def test_runs_share_segments_and_keep_their_extents_apart() -> None:
    cluster = Cluster(3, Profile(2, 1))
    runs = [Run(i * 10**6, noise(3000 + i, i)) for i in range(200)]

    async def main() -> None:
        every = await cluster.uploader().write(runs)
        for part, extents in zip(runs, every, strict=True):
            assert len(extents) == 1
            await _read_back(cluster, extents, part.offset, bytes(part.data))
        assert len(cluster.segments()) == 1

    run(main)


def test_cuts_do_not_depend_on_batches() -> None:
    data = noise(5_500_000)
    expected = list(chunking.cut(data))

    async def main() -> None:
        cluster = Cluster(3, Profile(2, 1))
        [_, extents, _] = await cluster.uploader(limits=SMALL).write(
            [Run(0, noise(70_000, 2)), Run(9, data), Run(10**8, noise(900_000, 3))]
        )
        assert [e.length for e in extents] == expected
        assert [e.offset for e in extents] == [
            9 + at for at in itertools.accumulate([0, *expected[:-1]])
        ]
        await _read_back(cluster, extents, 9, data)

    run(main)


class Given:
    """A feed of parts that are there."""

    def __init__(self, parts: list[Part], *, whole: bool, offset: int = 5) -> None:
        self.offset = offset
        self.whole = whole
        self.extents: list[Extent] = []
        self._parts = parts

    async def next(self) -> Part | None:
        await trio.lowlevel.checkpoint()
        return self._parts.pop(0) if self._parts else None

    def landed(self, extents: Sequence[Extent]) -> None:
        self.extents += extents


def parts_of(data: bytes, seed: int) -> list[Part]:
    """Lay data into slabs in parts of all sizes, some side by side."""
    chance = random.Random(seed)
    parts = []
    at = 0
    while at < len(data):
        slab = memoryview(data[at : at + chance.choice((900, 70_000, 1_500_000, 9_000_000))])
        low = 0
        while low < len(slab):
            high = min(len(slab), low + chance.choice((1000, 4096, 300_000, 1 << 20, 5 << 20)))
            parts.append(Part(slab, low, high))
            low = high
        at += len(slab)
    return parts


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("whole", [True, False])
def test_a_stream_is_cut_as_a_run_is(seed: int, *, whole: bool) -> None:
    data = noise(13_000_000, seed)

    async def main() -> None:
        cluster = Cluster(3, Profile(2, 1))
        [expected] = await cluster.uploader().write([Run(5, data)])
        feed = Given(parts_of(data, seed), whole=whole)
        await cluster.uploader().stream(feed)
        cuts = [(e.offset, e.length, e.chunk_id) for e in expected]
        if not whole:
            cuts = [c for c in cuts if c[0] - 5 + c[1] <= chunking.complete(data)]
        assert [(e.offset, e.length, e.chunk_id) for e in feed.extents] == cuts
        await _read_back(cluster, feed.extents, 5, data[: sum(c[1] for c in cuts)])

    run(main)


def test_a_stream_that_ends_in_repeats_of_what_has_landed() -> None:
    async def main() -> None:
        uploader = Cluster(3, Profile(2, 1)).uploader()
        for megabytes in (5, 9, 16, 23):
            data = bytes(megabytes << 20)
            feed = Given(parts_of(data, megabytes), whole=True)
            await uploader.stream(feed)
            assert sum(e.length for e in feed.extents) == len(data)

    run(main)


def test_streams_of_little() -> None:
    async def main() -> None:
        uploader = Cluster(3, Profile(2, 1)).uploader()
        for data in (b"", b"few", noise(100_000)):
            parts = [Part(memoryview(data), 0, len(data))] if data else []
            whole, open_ended = Given(list(parts), whole=True), Given(list(parts), whole=False)
            await uploader.stream(whole)
            await uploader.stream(open_ended)
            assert sum(e.length for e in whole.extents) == len(data)
            assert sum(e.length for e in open_ended.extents) == chunking.complete(data)
        assert await uploader.write([]) == []
        assert await uploader.write([Run(0, b"")]) == [[]]

    run(main)


def test_large_writes_stay_within_their_bounds_and_never_starve() -> None:
    cluster = Cluster(4, Profile(2, 1))
    uploader = cluster.uploader(limits=SMALL)
    data = {n: noise(3_000_000, n) for n in range(5)}
    results: dict[int, list[Extent]] = {}

    async def write(n: int) -> None:
        [results[n]] = await uploader.write([Run(0, data[n])])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for n in data:
                nursery.start_soon(write, n)
        for n, extents in results.items():
            await _read_back(cluster, extents, 0, data[n])
        assert uploader._engine.budget._free == SMALL.bytes_in_flight
        assert uploader._engine.sending.value == SMALL.segments_in_flight

    run(main)


@pytest.mark.parametrize("node", [1, 2, 3])
def test_one_node_down_at_write(node: int) -> None:
    cluster = Cluster(3, Profile(2, 1))
    cluster.nodes[node].down = True
    data = noise(400_000)

    async def main() -> None:
        [extents] = await cluster.uploader().write([Run(0, data)])
        assert {(e.data, e.parity) for e in extents} == {(1, 1)}
        await _read_back(cluster, extents, 0, data)
        cluster.nodes[node].down = False
        await _survives_any_losses(cluster, extents, data)

    run(main)


def test_a_spare_node_keeps_segments_coded_while_one_is_down() -> None:
    cluster = Cluster(6, Profile(2, 1))
    cluster.nodes[2].down = True
    data = noise(900_000)

    async def main() -> None:
        uploader = cluster.uploader()
        for n in range(4):
            [extents] = await uploader.write([Run(n * 10**6, noise(900_000, n))])
            assert {e.data for e in extents} == {2}
            assert 2 not in cluster.holders(extents[0].segment)
        assert data

    run(main)


def test_the_map_says_down() -> None:
    cluster = Cluster(3, Profile(2, 1))
    nodes = list(cluster.map.nodes)
    nodes[0] = msgspec.structs.replace(nodes[0], state=NodeState.DOWN)
    cluster.map = msgspec.structs.replace(cluster.map, nodes=tuple(nodes))

    async def main() -> None:
        [extents] = await cluster.uploader().write([Run(0, noise(300_000))])
        assert {e.data for e in extents} == {1}
        assert not cluster.nodes[1].fragments
        assert cluster.calls["store.put"] == 2

    run(main)


def test_a_hung_node_delays_but_does_not_fail() -> None:
    cluster = Cluster(3, Profile(2, 1))
    cluster.nodes[1].hung = True
    data = noise(300_000)

    async def main() -> None:
        started = trio.current_time()
        uploader = cluster.uploader()
        [extents] = await uploader.write([Run(0, data)])
        assert trio.current_time() - started < 7
        await _read_back(cluster, extents, 0, data)
        await uploader.write([Run(0, noise(300_000, 4))])
        assert trio.current_time() - started < 9

    run(main)


def test_every_put_may_fail_and_no_id_is_used_twice() -> None:
    for fail_at in range(12):
        cluster = Cluster(4, Profile(2, 1))
        cluster.nodes[1].fail_after = fail_at
        cluster.nodes[2].fail_after = 2 * fail_at
        data = noise(2_500_000)

        async def main(cluster: Cluster = cluster, data: bytes = data) -> None:
            uploader = cluster.uploader(
                limits=Limits(batch_bytes=1 << 20, bytes_in_flight=4 << 20, segments_in_flight=1)
            )
            extents: list[Extent] = []
            for at in range(0, len(data), 250_000):
                [part] = await uploader.write([Run(at, data[at : at + 250_000])])
                extents += part
            for node in (1, 2):
                cluster.nodes[node].fail_after = None
            await _survives_any_losses(cluster, extents, data)

        run(main)


def test_waits_while_too_few_domains_live_and_then_completes() -> None:
    cluster = Cluster(3, Profile(2, 1))
    cluster.nodes[1].down = cluster.nodes[2].down = True
    data = noise(300_000)

    async def main() -> None:
        async def repair() -> None:
            await trio.sleep(60)
            cluster.nodes[1].down = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repair)
            [extents] = await cluster.uploader().write([Run(0, data)])
        assert 60 < trio.current_time() - start < 70
        assert {e.data for e in extents} == {1}
        await _read_back(cluster, extents, 0, data)

    async def timed() -> None:
        nonlocal start
        start = trio.current_time()
        await main()

    start = 0.0
    run(timed)


def test_cancelled_while_waiting_gives_everything_back() -> None:
    cluster = Cluster(3, Profile(2, 1))
    cluster.nodes[1].down = cluster.nodes[2].down = True

    async def main() -> None:
        uploader = cluster.uploader(limits=SMALL)
        with trio.move_on_after(20) as scope:
            await uploader.write([Run(0, noise(6_000_000))])
        assert scope.cancelled_caught
        assert uploader._engine.budget._free == SMALL.bytes_in_flight
        assert uploader._engine.sending.value == SMALL.segments_in_flight

    run(main)


def test_full_nodes_are_avoided_until_too_few_have_room() -> None:
    cluster = Cluster(4, Profile(2, 1))
    cluster.nodes[3].full = True
    data = noise(400_000)

    async def main() -> None:
        uploader = cluster.uploader(limits=SMALL)
        started = trio.current_time()
        [extents] = await uploader.write([Run(0, data)])
        await _read_back(cluster, extents, 0, data)
        cluster.nodes[1].full = True
        [extents] = await uploader.write([Run(0, noise(400_000, 2))])
        assert {e.data for e in extents} == {1}
        cluster.nodes[2].full = True
        for n in range(3):
            with pytest.raises(NoSpace):
                await uploader.write([Run(0, noise(5_000_000, 3 + n))])
        with pytest.raises(NoSpace):
            await uploader.write([Run(0, b"tiny")])
        assert trio.current_time() - started < 1
        assert uploader._engine.budget._free == SMALL.bytes_in_flight
        assert uploader._engine.sending.value == SMALL.segments_in_flight
        for node in (1, 2, 3):
            cluster.nodes[node].full = False
        await trio.sleep(6)
        [extents] = await uploader.write([Run(0, b"tiny")])
        await _read_back(cluster, extents, 0, b"tiny")

    run(main)


def test_a_moment_of_refusal_is_sat_out() -> None:
    cluster = Cluster(3, Profile(2, 1))
    cluster.nodes[2].down = True

    async def main() -> None:
        async def come_back() -> None:
            await trio.sleep(0.05)
            cluster.nodes[2].down = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            [extents] = await cluster.uploader().write([Run(0, noise(300_000))])
        assert {e.data for e in extents} == {2}

    run(main)


def test_a_stale_map_is_refreshed() -> None:
    cluster = Cluster(3, Profile(2, 1))
    for at in cluster.nodes.values():
        at.stale = True

    def renew() -> None:
        for at in cluster.nodes.values():
            at.stale = False

    cluster.on_refresh = renew

    async def main() -> None:
        [extents] = await cluster.uploader().write([Run(0, noise(300_000))])
        assert {e.data for e in extents} == {2}
        assert cluster.refreshed == 1

    run(main)


def test_duplicates_are_found_within_a_write_and_across_clients() -> None:
    cluster = Cluster(3, Profile(2, 1))
    data = noise(600_000)

    async def main() -> None:
        first = cluster.uploader(session=1)
        one, two = await first.write([Run(0, data), Run(10**6, data)])
        assert [e.segment for e in one] == [e.segment for e in two]
        assert {
            header.raw_bytes for at in cluster.nodes.values() for header, _ in at.fragments.values()
        } == {len(data)}
        before = cluster.segments()
        puts = cluster.calls["store.put"]
        [again] = await cluster.uploader(session=2).write([Run(0, data)])
        assert again == one
        assert cluster.segments() == before
        assert cluster.calls["store.put"] == puts
        assert first.dedupe.hits == 0

    run(main)


def test_forgotten_and_avoided_segments_are_not_offered() -> None:
    cluster = Cluster(3, Profile(2, 1))
    data = noise(200_000)

    async def main() -> None:
        uploader = cluster.uploader()
        [one] = await uploader.write([Run(0, data)])
        old = {e.segment for e in one}
        [two] = await uploader.write([Run(0, data)], avoid=old)
        assert not old & {e.segment for e in two}
        other = cluster.uploader(session=2)
        other.forget(old | {e.segment for e in two})
        [three] = await other.write([Run(0, data)])
        assert {e.segment for e in three}.isdisjoint(old | {e.segment for e in two})
        [four] = await other.write([Run(0, data)])
        assert four == three
        await _read_back(cluster, three, 0, data)

    run(main)


def test_own_chunks_are_used_unasked_for_a_moment_only() -> None:
    cluster = Cluster(3, Profile(2, 1))
    data = noise(100_000)

    async def main() -> None:
        uploader = cluster.uploader()
        [one] = await uploader.write([Run(0, data)])
        for node in cluster.nodes.values():
            node.index.clear()  # the collector has them withheld
        [two] = await uploader.write([Run(0, data)])
        assert {e.segment for e in two} == {e.segment for e in one}
        await trio.sleep(RECENT_S + 0.1)
        [three] = await uploader.write([Run(0, data)])
        assert not {e.segment for e in three} & {e.segment for e in one}

    run(main)


def test_a_dead_dedupe_owner_is_a_miss_and_not_asked_again() -> None:
    cluster = Cluster(3, Profile(2, 1), groups=1)
    cluster.nodes[cluster.map.placement[0][0]].hung = True

    async def main() -> None:
        started = trio.current_time()
        uploader = cluster.uploader()
        assert await uploader.dedupe.find([bytes(32)]) == {}
        assert await uploader.dedupe.find([bytes(32)]) == {}
        assert trio.current_time() - started < 0.3
        assert cluster.calls["store.find"] == 1

    run(main)


def test_pack_needs_no_key_and_dedupes() -> None:
    cluster = Cluster(3, Profile(2, 1))
    sealer = Sealer({1: bytes(range(32))}, 1)
    sealed = [sealer.seal(noise(900 + n % 50, n % 50)) for n in range(120)]

    async def main() -> None:
        packer = cluster.uploader(session=7, sealer=None)
        refs = await packer.pack(sealed)
        assert [r.chunk_id for r in refs] == [s.chunk_id for s in sealed]
        [segment] = cluster.segments()
        stored = next(
            data for at in cluster.nodes.values() for (s, _), (_, data) in at.fragments.items()
        )
        rows = container.parse_table(stored)
        assert len(rows) == 50
        assert {container.extract(stored, row) for row in rows} == set(sealed)
        assert all(
            header.repair for at in cluster.nodes.values() for header, _ in at.fragments.values()
        )
        assert await cluster.uploader(session=8, sealer=None).pack(sealed) == refs
        moved = await packer.pack(sealed, avoid={segment})
        assert segment not in {r.segment for r in moved}
        anew = await packer.pack(sealed, accept=lambda _ref: False)
        assert {r.segment for r in anew}.isdisjoint({segment, *(r.segment for r in moved)})
        assert await packer.pack([]) == []

    run(main)


def test_inline_extents_read_back() -> None:
    cluster = Cluster(3, Profile(2, 1))

    async def main() -> None:
        extent = cluster.uploader().inline(100, b"inline bytes" * 10)
        assert extent.kind is ExtentKind.INLINE
        assert extent.stored == len(extent.inline)
        await _read_back(cluster, [extent], 100, b"inline bytes" * 10)
        assert not cluster.calls

    run(main)
