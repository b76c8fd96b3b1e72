"""The storage service over several disks: placement, choice, faults, group commit, real files."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from cfs.core.api.cluster import ClusterMap, Profile
from cfs.core.api.store import (
    ChunkRef,
    DeleteSegments,
    FindChunks,
    GetFragment,
    ListFragments,
    PublishChunks,
    PutFragment,
)
from cfs.core.errors import (
    Corrupt,
    Malformed,
    NoSpace,
    NotFound,
    Refused,
    StaleEpoch,
    Unavailable,
)
from cfs.core.place.group import placement_group_of
from cfs.fs.store.place import DiskPlace, place_on
from cfs.fs.store.service import StorageService

from .rig import Rig, segment_of

CLUSTER = b"cluster-id-16byt"


class World:
    """Ports of a storage node."""

    def __init__(self, *, real: bool = False, members: tuple[int, ...] = (1,)) -> None:
        self.real = real
        self.random = random.Random(5)
        self.map: ClusterMap | None = ClusterMap(
            epoch=9,
            cluster_id=CLUSTER,
            name="c",
            site=0,
            shard_count=1,
            profile=Profile(2, 1),
            key_version=1,
            nodes=(),
            groups=(),
            placement=(members,) * 8,
        )

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.real:
            return await trio.to_thread.run_sync(function, *args)
        await trio.lowlevel.checkpoint()
        return function(*args)

    def time_ns(self) -> int:
        return time.time_ns()

    def random_bytes(self, count: int) -> bytes:
        return self.random.randbytes(count)

    def service(self, *places: DiskPlace, node_id: int = 1, reserve: int = 0) -> StorageService:
        return StorageService(
            node_id=node_id,
            cluster_id=CLUSTER,
            disks=list(places),
            threads=self,
            clock=self,
            entropy=self,
            cluster_map=lambda: self.map,
            reserve_bytes=reserve,
        )


def memory_place(rig: Rig, name: str = "m0") -> DiskPlace:
    return DiskPlace(name=name, directory=rig.directory, open_store=rig.open_store)


def serve(service: StorageService, body: Callable[[Any], Awaitable[None]]) -> None:
    async def call(method: str, request: Any, payload: bytes = b"") -> Any:
        answer = service.handlers["store." + method](None, request, payload)  # type: ignore[arg-type]
        return await answer if hasattr(answer, "__await__") else answer

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: service.run(task_status=task_status))
            with trio.fail_after(30):
                await body(call)
            nursery.cancel_scope.cancel()

    trio.run(main)


def fragment(number: int, index: int = 0, **changes: Any) -> PutFragment:
    return PutFragment(
        segment=segment_of(number), index=index, data=2, parity=1, segment_length=10, **changes
    )


def ref(chunk: int, segment: int) -> ChunkRef:
    return ChunkRef(
        chunk_id=chunk.to_bytes(32, "little"),
        segment=segment_of(segment),
        data=2,
        parity=1,
        segment_length=9,
        at=0,
        stored=4,
        raw=8,
        key_version=1,
    )


def test_put_get_list_delete_over_three_disks():
    rigs = [Rig() for _ in range(3)]
    world = World()
    service = world.service(*(memory_place(r, f"m{n}") for n, r in enumerate(rigs)))

    async def body(call):
        for number in range(1, 31):
            await call("put", fragment(number, number % 3), bytes([number]) * 5000)
        assert all(r.directory.open("00000001.volume").size() > 5 * 8192 for r in rigs)
        info, data = await call("get", GetFragment(segment=segment_of(7), index=1))
        assert bytes(data) == b"\7" * 5000
        assert (info.index, info.length, info.data, info.parity) == (1, 5000, 2, 1)
        info, data = await call("get", GetFragment(segment=segment_of(7), index=-1, offset=9))
        assert len(data) == 4991
        seen: list[int] = []
        after, after_index = b"", 0
        while True:
            page = await call("list", ListFragments(after=after, after_index=after_index, limit=7))
            seen += [int.from_bytes(f.segment, "big") for f in page.fragments]
            if page.end:
                break
            after, after_index = page.fragments[-1].segment, page.fragments[-1].index
        assert seen == list(range(1, 31))
        await call(
            "delete", DeleteSegments(segments=(segment_of(7), segment_of(8)), round_number=1)
        )
        with pytest.raises(NotFound):
            await call("get", GetFragment(segment=segment_of(7), index=1))
        stat = service.stat()
        assert stat.fragments == 28
        assert not stat.full
        assert stat.warnings == ()

    serve(service, body)
    with pytest.raises(Unavailable):
        service.handlers["store.get"](None, GetFragment(segment=segment_of(1), index=0), b"")  # type: ignore[arg-type]


def test_only_members_of_the_placement_group_take_a_fragment_unless_repairing():
    world = World(members=(2, 3))
    service = world.service(memory_place(Rig()))

    async def body(call):
        with pytest.raises(StaleEpoch) as caught:
            await call("put", fragment(1), b"x")
        assert caught.value.detail["epoch"] == 9
        await call("put", fragment(1, repair=True), b"x")
        assert world.map is not None
        members = [(2,)] * 8
        members[placement_group_of(segment_of(2), 8)] = (1,)
        world.map = type(world.map)(
            **{f: getattr(world.map, f) for f in world.map.__struct_fields__ if f != "placement"},
            placement=tuple(members),
        )
        await call("put", fragment(2), b"x")
        world.map = None
        with pytest.raises(Unavailable):
            await call("put", fragment(3), b"x")

    serve(service, body)


def test_impossible_requests_are_malformed():
    service = World().service(memory_place(Rig()))

    async def body(call):
        for request, payload in (
            (fragment(1, 3), b"x"),
            (fragment(1, -1), b"x"),
            (fragment(1), b""),
            (PutFragment(segment=b"x", index=0, data=1, parity=1, segment_length=1), b"x"),
        ):
            with pytest.raises(Malformed):
                await call("put", request, payload)
        await call("put", fragment(1), b"abc")
        for offset, length in ((0, 4), (4, 0), (-1, 1), (2, 2)):
            with pytest.raises(Malformed):
                await call(
                    "get",
                    GetFragment(segment=segment_of(1), index=0, offset=offset, length=length),
                )

    serve(service, body)


def test_a_failing_disk_is_named_and_the_other_goes_on():
    rigs = [Rig(), Rig()]
    service = World().service(memory_place(rigs[0], "bad"), memory_place(rigs[1], "good"))

    async def body(call):
        rigs[0].directory.fail(1, errno.EIO, for_ever=True)
        failures = 0
        for number in range(1, 21):
            try:
                await call("put", fragment(number), b"x" * 99)
            except Unavailable:
                failures += 1
                await call("put", fragment(number), b"x" * 99)
        assert failures <= 1
        for number in range(1, 21):
            await call("get", GetFragment(segment=segment_of(number), index=0))
        stat = service.stat()
        assert any("bad" in w for w in stat.warnings)
        assert stat.fragments == 20

    serve(service, body)


def test_a_disk_that_does_not_open_is_left_out():
    rigs = [Rig(), Rig()]
    rigs[0].directory.fail(1, errno.EIO, for_ever=True)
    service = World().service(memory_place(rigs[0], "bad"), memory_place(rigs[1], "good"))

    async def body(call):
        await call("put", fragment(1), b"x")
        assert any("bad cannot be opened" in w for w in service.stat().warnings)

    serve(service, body)


def test_a_full_node_says_so_at_once_and_recovers_by_deleting():
    rig = Rig(capacity=16 << 20)
    service = World().service(memory_place(rig), reserve=2 << 20)

    async def body(call):
        count = 0
        while True:
            count += 1
            try:
                await call("put", fragment(count), bytes(1 << 20))
            except NoSpace:
                break
        assert 10 < count < 16
        stat = service.stat()
        assert stat.full
        assert any("full" in w for w in stat.warnings)
        await call("put", fragment(count, repair=True), bytes(1 << 20))
        doomed = tuple(segment_of(n) for n in range(1, 7))
        await call("delete", DeleteSegments(segments=doomed, round_number=1))
        assert not service.stat().full
        await call("put", fragment(200), bytes(1 << 20))

    serve(service, body)


def test_concurrent_puts_share_syncs():
    rig = Rig()
    service = World().service(memory_place(rig))

    async def body(call):
        before = rig.directory.calls
        async with trio.open_nursery() as nursery:
            for number in range(1, 101):
                nursery.start_soon(call, "put", fragment(number), b"x" * 100)
        assert service.stat().fragments == 100
        assert rig.directory.calls - before < 100 * 2 + 60  # room is asked for each, no sync is

    serve(service, body)


def test_dedupe_entries_are_found_and_die_with_their_segment():
    service = World().service(memory_place(Rig(), "a"), memory_place(Rig(), "b"))

    async def body(call):
        await call("publish", PublishChunks(refs=tuple(ref(c, 1 + c % 2) for c in range(20))))
        ids = tuple(ref(c, 1).chunk_id for c in range(21))
        found = (await call("find", FindChunks(chunk_ids=ids))).refs
        assert found == (*(ref(c, 1 + c % 2) for c in range(20)), None)
        await call("delete", DeleteSegments(segments=(segment_of(1),), round_number=1))
        found = (await call("find", FindChunks(chunk_ids=ids))).refs
        assert [r is not None for r in found] == [c % 2 == 1 for c in range(20)] + [False]

    serve(service, body)


def test_a_directory_of_another_cluster_or_node_is_refused(tmp_path: Path):
    world = World(real=True)

    async def body(call):
        await call("put", fragment(1), b"x")

    place = place_on(tmp_path)
    serve(world.service(place), body)
    with pytest.raises(BaseException) as caught:
        serve(world.service(place, node_id=2), body)
    assert (
        caught.group_contains(Refused, match="belongs to node 1")
        if hasattr(caught, "group_contains")
        else isinstance(caught.value, Refused)
    )
    (tmp_path / "cfs-disk.json").write_bytes(b"damaged")
    serve(world.service(place), body)
    assert b"cluster_id" in (tmp_path / "cfs-disk.json").read_bytes()
    for name in ("cfs-disk.json", "cfs-disk.copy.json"):
        (tmp_path / name).unlink()
    with pytest.raises(BaseException) as caught:
        serve(world.service(place), body)
    assert "no readable" in repr(caught.value)


@pytest.mark.parametrize("damage", ["none", "missing", "cut", "garbage", "holes"])
def test_real_files_survive_a_restart_with_any_index(tmp_path: Path, damage: str):
    world = World(real=True)
    payloads = {n: random.Random(n).randbytes(20_000 * n) for n in range(1, 30)}

    async def fill(call):
        for number, payload in payloads.items():
            await call("put", fragment(number), payload)
        await call("delete", DeleteSegments(segments=(segment_of(3),), round_number=1))

    async def check(call):
        for number, payload in payloads.items():
            get = GetFragment(segment=segment_of(number), index=0)
            if number == 3:
                with pytest.raises(NotFound):
                    await call("get", get)
                continue
            while True:
                try:
                    _, data = await call("get", get)
                    break
                except Unavailable:  # being rebuilt
                    await trio.sleep(0.05)
            assert bytes(data) == payload

    place = place_on(tmp_path)
    serve(world.service(place), fill)
    file = tmp_path / "index" / "data.mdb"
    if damage == "missing":
        shutil.rmtree(tmp_path / "index")
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2 // 4096 * 4096)
    elif damage == "garbage":
        file.write_bytes(os.urandom(1 << 16))
    elif damage == "holes":
        data = bytearray(file.read_bytes())
        for at in range(3 * 4096 + 100, len(data), 512):
            data[at] ^= 0xFF
        file.write_bytes(data)
    service = world.service(place)
    serve(service, check)
    volume = tmp_path / "00000001.volume"
    live = sum(len(p) + 64 for n, p in payloads.items() if n != 3)
    assert volume.stat().st_blocks * 512 * 0.95 < live


def test_a_flipped_byte_in_a_real_volume_is_corrupt(tmp_path: Path):
    world = World(real=True)
    place = place_on(tmp_path)
    service = world.service(place)

    async def body(call):
        await call("put", fragment(1), bytes(100_000))
        with (tmp_path / "00000001.volume").open("r+b") as file:
            file.seek(80_000)
            file.write(b"!")
        await call("get", GetFragment(segment=segment_of(1), index=0, offset=0, length=100))
        with pytest.raises(Corrupt):
            await call("get", GetFragment(segment=segment_of(1), index=0, offset=70_000, length=1))
        assert service.stat().corrupt_reads == 1

    serve(service, body)
