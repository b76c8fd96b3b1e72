"""The storage node: answers every `store.*` method over all its disks.

Decides which disk takes a fragment (the one that has it; else a hash weighted by free space, so
that disks fill evenly and work in parallel) and whether this node may take it at all (the placement
group lists it, or repair brings it: a group's move copies before the map changes). A disk that
fails is fenced or left out, named in the warnings, and the others go on.

What needs no waiting is answered inline. A read of up to `INLINE_BYTES_MAX` is tried in the page
cache first (RWF_NOWAIT): 64 KiB take 14 us there, 69 us through a thread; longer ones would hold up
the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from hashlib import blake2b
from typing import Any

import trio

from cfs.core.api.cluster import ClusterMap, Role
from cfs.core.api.meta import Empty
from cfs.core.api.store import (
    DeleteSegments,
    FindChunks,
    FindChunksReply,
    FragmentInfo,
    GetFragment,
    ListFragments,
    ListFragmentsReply,
    PublishChunks,
    PutFragment,
    StoreStat,
)
from cfs.core.errors import (
    CfsError,
    Corrupt,
    Malformed,
    NoSpace,
    NotFound,
    Refused,
    StaleEpoch,
    Unavailable,
)
from cfs.core.ids import CHUNK_ID_BYTES, SEGMENT_ID_BYTES, SegmentId
from cfs.core.place.group import placement_group_of
from cfs.core.segment.record import PAYLOAD_BYTES_MAX, aligned, record_length
from cfs.fs.store.committer import Committer
from cfs.fs.store.engine import Disk
from cfs.fs.store.figures import stat_of
from cfs.fs.store.identity import identify
from cfs.fs.store.index import Entry, IndexDamaged
from cfs.fs.store.jobs import Buffer, Delete, Put
from cfs.fs.store.place import DiskPlace
from cfs.net.handlers import Context, Handler
from cfs.net.ports import Entropy, Threads, WallClock

INLINE_BYTES_MAX = 256 << 10
QUEUE_BYTES_MAX = 64 << 20
"""Payloads in memory that wait for a disk; beyond it a put is told to come again."""
LIST_LIMIT_MAX = 10_000
_NS = 1_000_000_000


class StorageService:
    """See the module. Handlers answer Unavailable until `run` has opened the disks."""

    def __init__(
        self,
        *,
        node_id: int,
        cluster_id: bytes,
        disks: list[DiskPlace],
        threads: Threads,
        clock: WallClock,
        entropy: Entropy,
        cluster_map: Callable[[], ClusterMap | None],
        reserve_bytes: int | None = None,
    ) -> None:
        self.handlers: dict[str, Handler] = {
            "store.put": self._put,
            "store.get": self._get,
            "store.delete": self._delete,
            "store.list": self._list,
            "store.find": self._find,
            "store.publish": self._publish,
            "store.stat": lambda _context, _request, _payload: self.stat(),
        }
        self._node_id, self._cluster_id = node_id, cluster_id
        self._places = disks
        self._threads, self._clock, self._entropy = threads, clock, entropy
        self._cluster_map = cluster_map
        self._reserve_bytes = reserve_bytes
        self._committers: list[Committer] = []
        self._failed: dict[str, str] = {}
        self._refusal: Refused | None = None
        self.suspect: Callable[[bytes, int], object] = lambda *_: None
        """Hears of fragments that a read refused."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the disks, serve until cancelled, close them.

        Raises Refused when a directory belongs to someone else, Unavailable when no disk opens.
        """
        try:
            async with trio.open_nursery() as nursery:
                for place in self._places:
                    nursery.start_soon(self._open, place)
            if self._refusal is not None:
                raise self._refusal
            if not self._committers:
                raise Unavailable("no disk could be opened: " + "; ".join(self._failed.values()))
            self._committers.sort(key=lambda c: c.disk.disk_id)
            async with trio.open_nursery() as nursery:
                for committer in self._committers:
                    nursery.start_soon(committer.run)
                    nursery.start_soon(committer.run_checkpoints)
                task_status.started()
        finally:
            committers, self._committers = self._committers, []
            with trio.CancelScope(shield=True):
                for committer in committers:
                    await self._threads.run(committer.disk.close)

    def committers(self) -> list[Committer]:
        """Give the disks that are open. Raises Unavailable when none is yet."""
        if not self._committers:
            raise Unavailable("the disks are not open")
        return self._committers

    def stat(self) -> StoreStat:
        """Give state and counters; a few system calls a disk, no waiting."""
        return stat_of(self._committers, self._failed.values())

    # --- handlers ------------------------------------------------------------------------------

    def _put(
        self, context: Context | None, request: PutFragment, payload: Buffer
    ) -> Coroutine[Any, Any, Empty]:
        if (
            len(request.segment) != SEGMENT_ID_BYTES
            or not 0 <= request.index < request.data + request.parity <= 255
            or request.data < 1
            or min(request.parity, request.raw_bytes, request.sealed_bytes) < 0
            or not 0 < len(payload) <= PAYLOAD_BYTES_MAX
            or not 0 < request.segment_length < 1 << 32
        ):
            raise Malformed("a fragment with impossible parameters")
        segment = SegmentId(request.segment)
        if request.replace and context is not None and context.peer.role != Role.STORAGE:
            raise Refused("only a storage node replaces a fragment")
        if not request.repair or request.epoch:
            self._check_placement(segment, request.epoch)
        if sum(c.queued_bytes for c in self._committers) + len(payload) > QUEUE_BYTES_MAX:
            raise Unavailable("too many puts wait for the disks: come again")
        committer = self._choose(request, aligned(record_length(len(payload))))
        put = Put(
            segment=segment,
            index=request.index,
            data=request.data,
            parity=request.parity,
            segment_length=request.segment_length,
            raw_bytes=request.raw_bytes,
            sealed_bytes=request.sealed_bytes,
            repair=request.repair,
            payload=payload if isinstance(payload, bytes) else memoryview(payload),
            replace=request.replace,
        )
        return self._stored(committer, put, request.epoch)

    def _get(self, _context: Context, request: GetFragment, _payload: Buffer) -> Any:
        _check_segment(request.segment)
        disk, index, entry = self._locate(request)
        offset, length = request.offset, request.length
        if offset < 0 or length < 0 or offset + length > entry.payload_length:
            raise Malformed(f"a fragment of {entry.payload_length} bytes has no such range")
        length = length or entry.payload_length - offset
        if length <= INLINE_BYTES_MAX:
            data = disk.read_now(entry, offset, length)
            if data is not None:
                return self._info(request.segment, index, entry), data
        return self._read(disk, request.segment, index, offset, length)

    async def _read(
        self, disk: Disk, segment: bytes, index: int, offset: int, length: int
    ) -> tuple[FragmentInfo, Buffer]:
        try:
            entry, data = await self._threads.run(disk.read, segment, index, offset, length)
        except Corrupt:
            self.suspect(segment, index)
            raise
        return self._info(segment, index, entry), data

    async def _delete(self, _context: Context, request: DeleteSegments, _payload: Buffer) -> Empty:
        for segment in request.segments:
            _check_segment(segment)
        # What a fenced disk still has is garbage: listed, and deleted, if it ever comes back.
        usable = [c for c in self.committers() if not c.disk.fenced]
        deletes = [Delete(segments=request.segments) for _ in usable]
        async with trio.open_nursery() as nursery:
            for committer, delete in zip(usable, deletes, strict=True):
                nursery.start_soon(_attempted, committer, delete)
        for delete in deletes:
            if delete.error is not None:
                raise delete.error
        return Empty()

    async def _list(
        self, _context: Context, request: ListFragments, _payload: Buffer
    ) -> ListFragmentsReply:
        if request.after:
            _check_segment(request.after)
        limit = max(1, min(request.limit, LIST_LIMIT_MAX))
        before_ns = self._clock.time_ns() - max(0, request.age_min_s) * _NS
        rows: dict[tuple[bytes, int], Entry] = {}
        for committer in self.committers():
            page = await self._threads.run(
                committer.disk.after, request.after, request.after_index, limit, before_ns
            )
            rows.update({(segment, index): entry for segment, index, entry in page})
        chosen = sorted(rows)[:limit]
        # A disk that filled its page may have more; so may whatever was cut off here.
        return ListFragmentsReply(
            fragments=tuple(self._info(s, i, rows[s, i]) for s, i in chosen),
            end=len(rows) < limit,
        )

    def _find(self, _context: Context, request: FindChunks, _payload: Buffer) -> FindChunksReply:
        indexes = [c.disk.index for c in self.committers()]
        return FindChunksReply(
            refs=tuple(
                next((ref for index in indexes if (ref := index.find(chunk_id)) is not None), None)
                for chunk_id in request.chunk_ids
            )
        )

    def _publish(self, _context: Context, request: PublishChunks, _payload: Buffer) -> Empty:
        usable = [c.disk for c in self.committers() if c.disk.usable]
        if not usable:
            return Empty()
        for ref in request.refs:
            if len(ref.chunk_id) != CHUNK_ID_BYTES or len(ref.segment) != SEGMENT_ID_BYTES:
                raise Malformed("a dedupe entry with impossible ids")
            if not usable[ref.chunk_id[0] % len(usable)].checkpoint_due:  # best effort, bounded
                usable[ref.chunk_id[0] % len(usable)].index.publish((ref,))
        return Empty()

    # --- private -------------------------------------------------------------------------------

    async def _open(self, place: DiskPlace) -> None:
        try:
            disk = await self._threads.run(self._open_disk, place)
        except OSError as error:
            self._failed[place.name] = f"disk {place.name} cannot be opened ({error}): replace it"
        except Refused as error:
            self._refusal = error
        else:
            self._committers.append(Committer(disk, self._threads))

    def _open_disk(self, place: DiskPlace) -> Disk:
        disk_id = identify(
            place.directory,
            name=place.name,
            cluster_id=self._cluster_id,
            node_id=self._node_id,
            entropy=self._entropy,
        )
        return Disk(
            name=place.name,
            disk_id=disk_id,
            directory=place.directory,
            open_store=place.open_store,
            clock=self._clock,
            reserve_bytes=self._reserve_bytes,
        )

    async def _stored(self, committer: Committer, put: Put, epoch: int) -> Empty:
        if not put.repair or epoch:  # again: a seal may have come in between
            self._check_placement(put.segment, epoch)
        await committer.carry_out(put)
        return Empty()

    def _check_placement(self, segment: SegmentId, epoch: int) -> None:
        """Raise StaleEpoch unless the writer's list of the group and this node's are the same."""
        cluster_map = self._cluster_map()
        if cluster_map is None:
            raise Unavailable("this node has no cluster map yet")
        placement = cluster_map.placement
        if placement:
            group = placement_group_of(segment, len(placement))
            since = cluster_map.list_epochs[group] if cluster_map.list_epochs else 0
            if self._node_id in placement[group] and (epoch >= since or epoch == 0):
                return
        raise StaleEpoch(
            f"node {self._node_id} is not a member of the segment's placement group, or was not "
            f"at epoch {epoch}",
            epoch=cluster_map.epoch,
        )

    def _choose(self, request: PutFragment, span: int) -> Committer:
        """Choose the disk that has the fragment, else one with room. Raises NoSpace."""
        best: Committer | None = None
        best_score = math.inf
        for committer in self.committers():
            disk = committer.disk
            if not disk.usable:
                continue
            if disk.find(request.segment, request.index) is not None:
                return committer
            try:
                room = disk.room()[1] - committer.queued_bytes - span
            except OSError:
                continue
            if request.repair:
                room += disk.reserve_bytes // 2
            if room < 0:
                continue
            digest = blake2b(request.segment + disk.disk_id, digest_size=8).digest()
            chance = (int.from_bytes(digest, "big") + 1) / (1 << 64)
            score = -math.log(chance) / (room + 1)
            if best is None or score < best_score:
                best, best_score = committer, score
        if best is None:
            if not any(c.disk.usable for c in self._committers):
                raise Unavailable("every disk of this node failed")
            raise NoSpace("no disk of this node has room above its reserve")
        return best

    def _locate(self, request: GetFragment) -> tuple[Disk, int, Entry]:
        damaged: IndexDamaged | None = None
        for committer in self.committers():
            try:
                found = committer.disk.find(request.segment, request.index)
            except IndexDamaged as error:
                damaged = error
                continue
            if found is not None:
                return committer.disk, *found
        raise damaged or NotFound(
            f"fragment {request.segment.hex()}.{request.index} is not on node {self._node_id}"
        )

    def _info(self, segment: bytes, index: int, entry: Entry) -> FragmentInfo:
        return FragmentInfo(
            segment=segment,
            index=index,
            data=entry.data,
            parity=entry.parity,
            segment_length=entry.segment_length,
            length=entry.payload_length,
            age_s=max(0, self._clock.time_ns() - entry.written_ns) // _NS,
        )


async def _attempted(committer: Committer, delete: Delete) -> None:
    try:
        await committer.carry_out(delete)
    except CfsError as error:
        delete.error = error


def _check_segment(segment: bytes) -> None:
    if len(segment) != SEGMENT_ID_BYTES:
        raise Malformed(f"a segment id has {SEGMENT_ID_BYTES} bytes")
