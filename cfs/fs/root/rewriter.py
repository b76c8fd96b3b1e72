"""Brings segments to the erasure profile in force: the job `reencode`.

What was written while nodes were missing is replicated, and what was written by an earlier profile
has that one's form. A segment is never changed: its chunks are written again, into new segments,
under new ids, and every extent that refers to them is switched in the log of its shard. The old
segment is garbage then, and the collector frees it like any other.

Sealed bytes move; no key is needed. Nothing is lost when it is interrupted: chunks already written
again are found by the dedupe index, or become garbage.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from cfs.core.api.cluster import Profile
from cfs.core.api.store import ChunkRef
from cfs.core.data.pipeline import Sealed
from cfs.core.errors import Condemned, Corrupt, NotFound, Unavailable
from cfs.core.ids import ShardId, group_of
from cfs.core.meta import commands as shard_commands
from cfs.core.meta import results
from cfs.core.root import commands
from cfs.core.root.nodes import read_settings
from cfs.core.root.records import get_counters
from cfs.core.segment import container
from cfs.fs.data.fragments import Segment
from cfs.fs.data.sender import REPLICATE_BYTES_MAX
from cfs.fs.root.fragments import Fragments
from cfs.fs.root.jobs import Job, JobContext, JobKind
from cfs.fs.root.mover import Mover
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.sweep import Shards
from cfs.net.tasks import run_all

_LOG = structlog.get_logger()

GROUPS_AT_ONCE = 32
BATCH_BYTES = 4 << 20
"""Small segments of one batch are written together."""
COMMAND_S = 15.0


class Reader(Protocol):
    """`cfs.fs.data.fragments.Fragments`."""

    async def read(self, segment: Segment, at: int, length: int) -> Any:
        """Give bytes of a segment."""
        ...


class Packs(Protocol):
    """`cfs.fs.data.uploader.Uploader`."""

    async def pack(
        self,
        sealed: Sequence[Sealed],
        *,
        avoid: Collection[bytes] = (),
        accept: Callable[[ChunkRef], bool] = ...,
    ) -> list[ChunkRef]:
        """Store sealed chunks; give where each is, once durable."""
        ...

    def forget(self, segments: Iterable[bytes]) -> None:
        """Take segments out of every later answer."""
        ...


class DataPath(NamedTuple):
    """How this process reads and writes segments; `ready` waits until it may write."""

    reader: Reader
    uploader: Packs
    ready: Callable[[], Awaitable[None]]


class Rewriter:
    """See the module. `kind` is to be registered."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        mover: Mover,
        fragments: Fragments,
        shards: Shards,
        data: DataPath,
    ) -> None:
        self._replica = replica
        self._mover = mover
        self._fragments = fragments
        self._shards = shards
        self._reader, self._uploader, self._ready = data
        self.kind = JobKind(
            name="reencode",
            run=self.run,
            key=lambda _spec: "reencode",
            rate=lambda: read_settings(replica.state).move_rate,
        )

    async def run(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Rewrite what has another form than the profile in force gives it."""
        await self._ready()
        self._require_members()
        degraded = self._replica.degraded()
        epoch = get_counters(self._replica.state).epoch
        nodes = {r.node.node_id for r in self._replica.nodes()}
        await self._fragments.seal(nodes, epoch)  # no write by an older profile comes after this
        lists = self._mover.lists()
        first = int(job.cursor or b"0")
        rewritten = 0
        for start in range(first, len(lists), GROUPS_AT_ONCE):
            groups = range(start, min(start + GROUPS_AT_ONCE, len(lists)))
            context.message = f"group {start} of {len(lists)}"
            old = await self._old_segments({g: lists[g].members for g in groups})
            context.total = max(context.total, context.done + sum(s.length for s in old))
            for batch in batches(old):
                await context.pace(2 * sum(s.length for s in batch))
                rewritten += await self._rewrite(context, batch)
                context.advance(sum(s.length for s in batch))
            context.advance(0, cursor=str(groups[-1] + 1).encode())
        if degraded:
            await self._replica.propose(commands.Whole(epoch=degraded))
        context.total = context.done
        return {"segments": rewritten, "bytes": context.done}

    def _require_members(self) -> None:
        """Have the placer finish first: what is written to a short list takes another form."""
        total = self._replica.cluster().profile.total
        short = sum(len(record.members) < total for record in self._mover.lists())
        if short:
            raise Unavailable(f"{short} groups have fewer members than the profile needs")

    async def _old_segments(self, lists: dict[int, tuple[int, ...]]) -> list[Segment]:
        """List the segments of some groups that have another form, and that are referred to."""
        profile = self._replica.cluster().profile
        listing = await self._fragments.listing(lists)
        old: dict[bytes, Segment] = {}
        for segments in listing.values():
            for name, copies in segments.items():
                form = copies.held[0][1]
                if Profile(form.data, form.parity) != form_of(form.segment_length, profile):
                    old[name] = Segment(name, Profile(form.data, form.parity), form.segment_length)
        garbage = await self._fragments.garbage(list(old))
        return [segment for name, segment in sorted(old.items()) if name not in garbage]

    async def _rewrite(self, context: JobContext, batch: list[Segment]) -> int:
        """Write the chunks of segments again and switch every reference; give how many segments."""
        chunks: dict[bytes, list[Sealed]] = {}
        for segment in batch:
            try:
                chunks[segment.segment_id] = await self._chunks(segment)
            except (Corrupt, NotFound) as error:
                context.findings += 1
                context.last_error = f"segment {segment.segment_id.hex()}: {error}"
        sealed = [chunk for of_segment in chunks.values() for chunk in of_segment]
        if not sealed:
            return 0
        # an attempt before this one may have left copies in another form: those do not count
        refs = await self._uploader.pack(sealed, avoid=frozenset(chunks), accept=self._in_form)
        if not all(map(self._in_form, refs)):
            profile = self._replica.cluster().profile
            raise Unavailable(
                f"{profile.data}+{profile.parity} cannot be written now: nodes are missing, or "
                "groups wait for members"
            )
        by_id = {bytes(ref.chunk_id): ref for ref in refs}
        for name, of_segment in chunks.items():
            await self._switch(name, tuple({by_id[c.chunk_id] for c in of_segment}))
        return len(chunks)

    async def _chunks(self, segment: Segment) -> list[Sealed]:
        whole = await self._reader.read(segment, 0, segment.length)
        rows = container.parse_table(memoryview(whole)[: container.table_length(whole)])
        return [container.extract(whole, row) for row in rows]

    async def _switch(self, segment: bytes, refs: tuple[ChunkRef, ...]) -> None:
        """Have every shard read these chunks from where they are now."""

        async def switch(shard: int) -> None:
            group, after = group_of(ShardId(shard)), b""
            while True:
                command = shard_commands.Relocate(segment=segment, refs=refs, after=after)
                result = await self._shards.command(group, command, timeout_s=COMMAND_S)
                assert isinstance(result, results.Relocated)
                after = result.after
                if not after:
                    return

        try:
            await run_all(switch, range(self._replica.cluster().shard_count))
        except Condemned as error:
            self._uploader.forget(error.detail.get("segments", ()))
            raise Unavailable("a new segment was collected meanwhile: again") from error

    def _in_form(self, ref: ChunkRef) -> bool:
        form = form_of(ref.segment_length, self._replica.cluster().profile)
        return (ref.data, ref.parity) == _pair(form)


def form_of(length: int, profile: Profile) -> Profile:
    """Give the form that a segment of so many bytes should have."""
    return Profile(1, profile.parity) if length <= REPLICATE_BYTES_MAX else profile


def batches(segments: Iterable[Segment]) -> list[list[Segment]]:
    """Cut a list of segments into batches of about `BATCH_BYTES`."""
    made: list[list[Segment]] = []
    size = BATCH_BYTES
    for segment in segments:
        if size + segment.length > BATCH_BYTES:
            made.append([])
            size = 0
        made[-1].append(segment)
        size += segment.length
    return made


def _pair(profile: Profile) -> tuple[int, int]:
    return profile.data, profile.parity
