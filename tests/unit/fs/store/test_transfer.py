"""A storage node's part in moves: pages of groups, fetching, proofs, what may be dropped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from cfs.core.api.cluster import ClusterMap, Move, Profile
from cfs.core.api.moving import DropFragments, Fetch, FetchFragments, ListHeld, Proof, SealAt
from cfs.core.api.store import GetFragment, PutFragment
from cfs.core.code import erasure
from cfs.core.errors import NotFound, Refused, Unavailable
from cfs.core.place.group import placement_group_of
from cfs.fs.store import transfer
from cfs.fs.store.committer import Committer
from cfs.fs.store.jobs import Put
from cfs.fs.store.transfer import Transfers
from tests.unit.fs.root.fakes import InlineThreads
from tests.unit.fs.store.rig import Rig, segment_of

PROFILE = Profile(2, 1)
CONTENT = bytes(range(250)) * 8


class Node:
    """One storage node with one disk in memory; `peers` answers its calls."""

    def __init__(self, node_id: int, world: World) -> None:
        self.node_id = node_id
        self.disk = Rig().open()
        self.committer = Committer(self.disk, InlineThreads())
        self.held_epoch = 0
        self.transfers = Transfers(
            node_id=node_id,
            committers=lambda: [self.committer],
            put=self.put,
            calls=world,
            threads=InlineThreads(),
            cluster_map=lambda: world.map,
            hold_epoch=self.hold,
        )

    async def hold(self, epoch: int) -> None:
        self.held_epoch = epoch

    async def put(self, _context: Any, request: PutFragment, payload: bytes) -> None:
        await self.committer.carry_out(
            Put(
                segment=segment_of(int.from_bytes(request.segment, "big")), index=request.index,
                data=request.data, parity=request.parity, segment_length=request.segment_length,
                raw_bytes=request.raw_bytes, sealed_bytes=request.sealed_bytes,
                repair=request.repair, payload=payload,
            )
        )  # fmt: skip

    async def ask(self, method: str, request: Any) -> Any:
        return await self.transfers.handlers[method](None, request, b"")  # type: ignore[arg-type, misc]


class World:
    """Three nodes that hold one group after another."""

    def __init__(self) -> None:
        self.map = ClusterMap(
            epoch=3, cluster_id=b"c", name="c", site=0, shard_count=1, profile=PROFILE,
            key_version=1, nodes=(), groups=(), placement=((1, 2, 3),) * 4,
        )  # fmt: skip
        self.nodes = {n: Node(n, self) for n in (1, 2, 3, 4)}
        self.down: set[int] = set()

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        del payload, timeout_s
        assert method == "store.get"
        assert isinstance(request, GetFragment)
        if node in self.down:
            raise Unavailable("down")
        disk = self.nodes[node].disk
        found = disk.find(request.segment, request.index)
        if found is None:
            raise NotFound("not here")
        return None, disk.read(request.segment, request.index, 0, found[1].payload_length)[1]

    async def store(self, number: int, *, without: int = -1) -> None:
        for index, fragment in enumerate(erasure.encode(CONTENT, PROFILE)):
            if index != without:
                request = PutFragment(
                    segment=segment_of(number), index=index, data=2, parity=1,
                    segment_length=len(CONTENT), raw_bytes=7, sealed_bytes=5,
                )  # fmt: skip
                await self.nodes[index + 1].put(None, request, bytes(fragment))


def wanted(number: int, index: int, *holders: tuple[int, int]) -> Fetch:
    return Fetch(
        segment=segment_of(number), index=index, data=2, parity=1, segment_length=len(CONTENT),
        raw_bytes=7, sealed_bytes=5, holders=holders,
    )  # fmt: skip


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        async with trio.open_nursery() as nursery:
            for node in world.nodes.values():
                nursery.start_soon(node.committer.run)
            await story(world)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_fragment_is_copied_from_its_holder_or_rebuilt_and_read_back() -> None:
    async def story(world: World) -> None:
        await world.store(1)
        new = world.nodes[4]
        for number, holders in ((1, ((1, 0), (2, 1))), (1, ((2, 1), (3, 2)))):
            request = FetchFragments(fragments=(wanted(number, 0, *holders),))
            (done,) = (await new.ask("store.fetch", request)).fragments
            entry = world.nodes[1].disk.find(segment_of(number), 0)
            assert entry is not None
            assert done.digest == transfer.digest_of(entry[1])
        assert done.copied == 0, "it was there already the second time"
        await world.store(2, without=0)
        request = FetchFragments(fragments=(wanted(2, 0, (2, 1), (3, 2)),))
        (done,) = (await new.ask("store.fetch", request)).fragments
        assert done.copied == len(CONTENT) // 2
        assert new.disk.read(segment_of(2), 0, 0, 1000)[1] == CONTENT[:1000]

    play(story)


def test_what_may_come_back_is_told_from_what_is_lost() -> None:
    async def story(world: World) -> None:
        await world.store(1, without=0)
        world.down = {2}
        fetch = FetchFragments(fragments=(wanted(1, 0, (2, 1), (3, 2)),))
        (done,) = (await world.nodes[4].ask("store.fetch", fetch)).fragments
        assert done.error
        assert not done.lost
        world.down = set()
        fetch = FetchFragments(fragments=(wanted(1, 0, (3, 2)),))
        (done,) = (await world.nodes[4].ask("store.fetch", fetch)).fragments
        assert done.lost

    play(story)


def test_only_what_is_proven_and_foreign_is_dropped() -> None:
    async def story(world: World) -> None:
        await world.store(1)
        old = world.nodes[1]
        found = old.disk.find(segment_of(1), 0)
        assert found is not None
        digest = transfer.digest_of(found[1])
        proof = Proof(segment=segment_of(1), index=0, digest=digest)
        with pytest.raises(Refused, match="member"):
            await old.ask("store.drop", DropFragments(proofs=(proof,)))
        group = placement_group_of(segment_of(1), 4)
        coming = Move(group=group, position=0, source=4, target=1, switched=False)
        world.map = ClusterMap(
            epoch=4, cluster_id=b"c", name="c", site=0, shard_count=1, profile=PROFILE,
            key_version=1, nodes=(), groups=(), placement=((4, 2, 3),) * 4, moves=(coming,),
        )  # fmt: skip
        with pytest.raises(Refused, match="member"):
            await old.ask("store.drop", DropFragments(proofs=(proof,)))
        world.map = ClusterMap(
            epoch=5, cluster_id=b"c", name="c", site=0, shard_count=1, profile=PROFILE,
            key_version=1, nodes=(), groups=(), placement=((4, 2, 3),) * 4,
        )  # fmt: skip
        wrong = Proof(segment=segment_of(1), index=0, digest=b"x" * 16)
        reply = await old.ask("store.drop", DropFragments(proofs=(wrong,)))
        assert (reply.dropped, reply.kept) == (0, 1)
        assert old.disk.find(segment_of(1), 0) is not None
        reply = await old.ask("store.drop", DropFragments(proofs=(proof,)))
        assert (reply.dropped, reply.kept) == (1, 0)
        assert old.disk.find(segment_of(1), 0) is None

    play(story)


def test_pages_go_through_every_fragment_of_a_group_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAGE_ROWS", 3)
    monkeypatch.setattr(transfer, "PAGE_LOOKED_AT", 7)

    async def story(world: World) -> None:
        for number in range(1, 40):
            await world.store(number)
        for groups in ((0,), (1, 3), (0, 1, 2, 3)):
            seen: list[bytes] = []
            request = ListHeld(groups=groups, group_count=4)
            while True:
                reply = await world.nodes[2].ask("store.held", request)
                seen += [row.segment for row in reply.fragments]
                if reply.end:
                    break
                request = ListHeld(
                    groups=groups, group_count=4, after=reply.after, after_index=reply.after_index
                )
            expected = [
                segment_of(n)
                for n in range(1, 40)
                if placement_group_of(segment_of(n), 4) in groups
            ]
            assert seen == expected

    play(story)


def test_a_seal_waits_for_what_was_admitted_before() -> None:
    async def story(world: World) -> None:
        node = world.nodes[1]
        await world.store(1)
        await node.ask("store.seal", SealAt(epoch=9))
        assert node.held_epoch == 9
        assert node.disk.find(segment_of(1), 0) is not None

    play(story)
