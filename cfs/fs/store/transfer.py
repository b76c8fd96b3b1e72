"""A storage node's part in moves: it lists, fetches, seals and drops fragments of whole groups.

Order of a move, as seen from here (the root leader drives it, `cfs.fs.root.mover`):

    target   fetch     get from whoever has it, or rebuild -> store -> read back -> digest
    members  seal      the map that names the target is on disk here; older writes are done
    target   fetch     what the source took meanwhile; every fragment is read back again
    source   drop      only what a digest of the target's bytes proves, and only when no member

Invariants: nothing is dropped here that this node's own map gives to it; nothing is dropped whose
stored checksums differ from what another node read back from its disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import trio

from cfs.core.api.cluster import ClusterMap, Profile
from cfs.core.api.meta import Empty
from cfs.core.api.moving import (
    DropFragments,
    DropReply,
    Fetch,
    Fetched,
    FetchFragments,
    FetchReply,
    Held,
    ListHeld,
    ListHeldReply,
    Proof,
    SealAt,
)
from cfs.core.api.store import GetFragment, PutFragment
from cfs.core.code import erasure
from cfs.core.errors import (
    CfsError,
    Corrupt,
    Malformed,
    NotFound,
    Refused,
    Unavailable,
)
from cfs.core.ids import SEGMENT_ID_BYTES, SegmentId
from cfs.core.place.group import placement_group_of
from cfs.fs.store.committer import Committer
from cfs.fs.store.engine import Disk
from cfs.fs.store.index import Entry
from cfs.fs.store.jobs import Delete
from cfs.net.handlers import Context, Handler
from cfs.net.ports import Threads
from cfs.net.tasks import open_tasks

PAGE_ROWS = 2000
PAGE_LOOKED_AT = 50_000
"""Index entries one page looks at on each disk: 0.2 s."""
FETCHES_MAX = 256
FETCHES_AT_ONCE = 4
"""Whole fragments (at most 4 MiB) in memory at the same time, times those of a rebuild."""
GET_S = 10.0
DIGEST_BYTES = 16
_HOP_BYTES = 256 << 10
"""Rebuilding below this costs less than handing it to a thread."""

Buffer = bytes | bytearray | memoryview
_Key = tuple[bytes, int]


class Calls(Protocol):
    """The connection pool."""

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        """Call a node; give (reply, payload). Raises the error tree."""
        ...


class Transfers:
    """The handlers `store.held`, `store.fetch`, `store.seal`, `store.drop`."""

    def __init__(
        self,
        *,
        node_id: int,
        committers: Callable[[], Sequence[Committer]],
        put: Handler,
        calls: Calls,
        threads: Threads,
        cluster_map: Callable[[], ClusterMap | None],
        hold_epoch: Callable[[int], Awaitable[None]],
    ) -> None:
        self.handlers: Mapping[str, Handler] = {
            "store.held": self._held,
            "store.fetch": self._fetch,
            "store.seal": self._seal,
            "store.drop": self._drop,
        }
        self._node_id = node_id
        self._committers = committers
        self._put = put
        self._calls = calls
        self._threads = threads
        self._cluster_map = cluster_map
        self._hold_epoch = hold_epoch

    # --- listing

    async def _held(self, _context: Context, request: ListHeld, _payload: Buffer) -> ListHeldReply:
        if request.group_count < 1 or (request.after and len(request.after) != SEGMENT_ID_BYTES):
            raise Malformed("an impossible list of placement groups")
        rows: dict[_Key, Held] = {}
        stops: list[_Key] = []
        for committer in self._committers():
            page, stop = await self._threads.run(page_of, committer.disk, request)
            if stop is not None:
                stops.append(stop)
            for row in page:
                known = rows.get((row.segment, row.index))
                if known is None or not known.sound:
                    rows[row.segment, row.index] = row
        chosen = sorted(rows)
        if stops:  # beyond where the slowest disk stopped another page begins
            chosen = [key for key in chosen if key <= min(stops)]
        after, after_index = min(stops) if stops else (b"", 0)
        return ListHeldReply(
            fragments=tuple(rows[key] for key in chosen),
            end=not stops,
            after=after,
            after_index=after_index,
        )

    # --- fetching

    async def _fetch(
        self, _context: Context, request: FetchFragments, _payload: Buffer
    ) -> FetchReply:
        if len(request.fragments) > FETCHES_MAX:
            raise Malformed(f"at most {FETCHES_MAX} fragments can be fetched at once")
        done: list[Fetched] = [Fetched()] * len(request.fragments)
        limiter = trio.CapacityLimiter(FETCHES_AT_ONCE)

        async def fetch(slot: int, wanted: Fetch) -> None:
            async with limiter:
                try:
                    done[slot] = await self._have(wanted)
                except (NotFound, Corrupt) as error:
                    done[slot] = Fetched(error=str(error), lost=True)
                except CfsError as error:
                    done[slot] = Fetched(error=str(error))

        async with open_tasks() as nursery:
            for slot, wanted in enumerate(request.fragments):
                nursery.start_soon(fetch, slot, wanted)
        return FetchReply(fragments=tuple(done))

    async def _have(self, wanted: Fetch) -> Fetched:
        digest = await self._read_back(wanted)
        if digest:
            return Fetched(digest=digest)
        payload = await self._obtain(wanted)
        header = PutFragment(
            segment=wanted.segment,
            index=wanted.index,
            data=wanted.data,
            parity=wanted.parity,
            segment_length=wanted.segment_length,
            raw_bytes=wanted.raw_bytes,
            sealed_bytes=wanted.sealed_bytes,
            repair=True,
        )
        await self._put(None, header, payload)  # type: ignore[arg-type]
        digest = await self._read_back(wanted)
        if not digest:
            raise Unavailable(f"{_name(wanted)} was stored and cannot be read back: check the disk")
        return Fetched(digest=digest, copied=len(payload))

    async def _read_back(self, wanted: Fetch) -> bytes:
        """Read a fragment from the disk, past its cache; empty when it is not here and sound."""
        for committer in self._committers():
            disk = committer.disk
            if not disk.usable:
                continue
            if disk.find(wanted.segment, wanted.index) is None:
                continue
            entry, said = await self._threads.run(disk.damage_of, wanted.segment, wanted.index)
            if entry is not None and not said:
                return digest_of(entry)
        return b""

    async def _obtain(self, wanted: Fetch) -> Buffer:
        """Copy a fragment from a holder, or rebuild it from those of its segment."""
        profile = Profile(wanted.data, wanted.parity)
        failed: list[CfsError] = []
        for node, index in wanted.holders:
            if profile.data == 1 or index == wanted.index:
                got = await self._get(node, wanted, index, failed)
                if got is not None:
                    return got
        columns: dict[int, Buffer] = {}
        if profile.data > 1:
            columns = await self._columns(wanted, profile.data, failed)
            if len(columns) == profile.data:
                rebuild = erasure.reconstruct
                if wanted.segment_length < _HOP_BYTES:
                    return rebuild(wanted.index, columns, profile)
                return await self._threads.run(rebuild, wanted.index, columns, profile)
        for error in failed:
            if not isinstance(error, NotFound | Corrupt):
                raise Unavailable(f"{_name(wanted)} cannot be had now: {error}")
        raise NotFound(
            f"{_name(wanted)} cannot be rebuilt: {len(columns)} good fragments of the "
            f"{profile.data} needed are left"
        )

    async def _columns(self, wanted: Fetch, need: int, failed: list[CfsError]) -> dict[int, Buffer]:
        """Read `need` other fragments of the segment, or all that can be read."""
        columns: dict[int, Buffer] = {}
        for node, index in wanted.holders:
            if len(columns) == need:
                break
            if index != wanted.index and index not in columns:
                got = await self._get(node, wanted, index, failed)
                if got is not None:
                    columns[index] = got
        return columns

    async def _get(
        self, node: int, wanted: Fetch, index: int, failed: list[CfsError]
    ) -> Buffer | None:
        """Read a whole fragment of another node, or from a failing disk of this one."""
        length = erasure.fragment_length(wanted.segment_length, Profile(wanted.data, wanted.parity))
        try:
            if node == self._node_id:
                payload = await self._own(wanted.segment, index)
            else:
                request = GetFragment(segment=wanted.segment, index=index)
                _, payload = await self._calls.call(node, "store.get", request, timeout_s=GET_S)
        except CfsError as error:
            failed.append(error)
            return None
        if len(payload) != length:
            failed.append(Corrupt(f"{len(payload)} bytes of {_name(wanted)}, not {length}"))
            return None
        return payload

    async def _own(self, segment: bytes, index: int) -> Buffer:
        for committer in self._committers():
            found = committer.disk.find(segment, index)
            if found is not None:
                length = found[1].payload_length
                _, payload = await self._threads.run(committer.disk.read, segment, index, 0, length)
                return payload
        raise NotFound(f"fragment {segment.hex()}.{index} is not here")

    # --- sealing and dropping

    async def _seal(self, _context: Context, request: SealAt, _payload: Buffer) -> Empty:
        await self._hold_epoch(request.epoch)
        for committer in self._committers():
            try:  # whatever was admitted before is in front of this in the queue
                await committer.carry_out(Delete(segments=()))
            except CfsError:
                if committer.disk.usable:
                    raise
        return Empty()

    async def _drop(self, _context: Context, request: DropFragments, _payload: Buffer) -> DropReply:
        for proof in request.proofs:
            self._check_foreign(proof.segment)
        dropped = kept = 0
        for committer in self._committers():
            disk = committer.disk
            if not disk.usable:
                continue
            held = [p for p in request.proofs if disk.find(p.segment, p.index) is not None]
            same = [p for p in held if _is_proven(disk, p)]
            kept += len(held) - len(same)
            if same:
                await committer.carry_out(
                    Delete(segments=(), fragments=tuple((p.segment, p.index) for p in same))
                )
                dropped += len(same)
        return DropReply(dropped=dropped, kept=kept)

    def _check_foreign(self, segment: bytes) -> None:
        if len(segment) != SEGMENT_ID_BYTES:
            raise Malformed(f"a segment id has {SEGMENT_ID_BYTES} bytes")
        known = self._cluster_map()
        if known is None or not known.placement:
            raise Unavailable("this node has no cluster map yet")
        group = placement_group_of(SegmentId(segment), len(known.placement))
        incoming = any(m.group == group and m.target == self._node_id for m in known.moves)
        if incoming or self._node_id in known.placement[group]:
            raise Refused(f"this node is a member of placement group {group}: nothing is dropped")


def page_of(disk: Disk, request: ListHeld) -> tuple[list[Held], _Key | None]:
    """List a disk's fragments of some groups: a page and where it stopped (None: at the end)."""
    groups = frozenset(request.groups)
    rows: list[Held] = []
    sound = disk.usable
    entries: Iterator[tuple[bytes, int, Entry]] = disk.index.after(
        request.after, request.after_index
    )
    for looked_at, (segment, index, entry) in enumerate(entries, start=1):
        if placement_group_of(SegmentId(segment), request.group_count) in groups:
            rows.append(
                Held(
                    segment=segment,
                    index=index,
                    data=entry.data,
                    parity=entry.parity,
                    segment_length=entry.segment_length,
                    length=entry.payload_length,
                    raw_bytes=entry.raw_bytes,
                    sealed_bytes=entry.sealed_bytes,
                    digest=digest_of(entry),
                    sound=sound,
                )
            )
        if len(rows) >= PAGE_ROWS or looked_at >= PAGE_LOOKED_AT:
            return rows, (segment, index)
    return rows, None


def digest_of(entry: Entry) -> bytes:
    """Give what is the same for the same bytes in the same form."""
    form = f"{entry.data} {entry.parity} {entry.segment_length} {entry.payload_length} "
    return blake2b(form.encode() + entry.block_crcs, digest_size=DIGEST_BYTES).digest()


def _is_proven(disk: Disk, proof: Proof) -> bool:
    found = disk.find(proof.segment, proof.index)
    return found is not None and digest_of(found[1]) == proof.digest


def _name(wanted: Fetch) -> str:
    return f"fragment {wanted.segment.hex()}.{wanted.index}"
