"""Byte ranges of segments, read from whichever fragments can give them.

A healthy read asks the one node whose data fragment has the bytes. When that node is down, slow
(no answer within `HEDGE_S`), without the fragment or with a damaged one, the same range of `k`
other fragments gives the bytes; when even those are too few, every member of the group is asked
for each index, for the placement may just have changed, and once more under a newer map.

What comes back is as the nodes' checksums left it. Whether it is the right chunk only the seal
tells: when it does not match, `alternatives` gives the range as every other choice of fragments has
it, until the caller is content.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import trio

from cfs.core.api.cluster import Profile
from cfs.core.code import erasure
from cfs.core.errors import (
    CfsError,
    Corrupt,
    DeadlineExceeded,
    Malformed,
    NotFound,
    Refused,
    Unavailable,
)
from cfs.fs.data.fragment_client import Buffer, FragmentClient
from cfs.fs.data.nodes import Nodes
from cfs.net.tasks import open_tasks

HEDGE_S = 1.0
PATIENT_S = 10.0
"""How long the last one that could answer is waited for."""
ANY = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as an extent names it."""

    segment_id: bytes
    profile: Profile
    length: int


@dataclass(frozen=True, slots=True)
class _Range:
    """The same bytes of each fragment of a segment."""

    segment: Segment
    offset: int
    length: int


@dataclass(slots=True)
class ReadCounters:
    """What reading met."""

    reads: int = 0
    bytes_read: int = 0
    degraded: int = 0
    """Ranges rebuilt, or taken from another than the first replica, because one failed."""
    hedged: int = 0
    corrupt_fragments: int = 0
    """Fragments that a node's checksum refused."""
    bad_seals: int = 0
    """Chunks whose seal did not match at first."""


class Fragments:
    """Reads ranges of segments."""

    def __init__(
        self,
        *,
        client: FragmentClient,
        nodes: Nodes,
        refresh: Callable[[], Awaitable[object]] | None,
        counters: ReadCounters,
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._refresh = refresh
        self.counters = counters

    async def read(self, segment: Segment, at: int, length: int) -> Buffer:
        """Give bytes `[at, at + length)` of a segment.

        Raises Unavailable (nodes did not answer; again later), Corrupt or NotFound (too few good
        fragments among all that answered).
        """
        pieces = erasure.locate(at, length, segment.profile, segment.length)
        if len(pieces) == 1:
            return await self._piece(segment, *pieces[0])
        parts: list[Buffer] = [b""] * len(pieces)
        errors: list[CfsError] = []

        async def fill(slot: int) -> None:
            try:
                parts[slot] = await self._piece(segment, *pieces[slot])
            except CfsError as error:
                errors.append(error)
                nursery.cancel_scope.cancel()

        async with open_tasks() as nursery:
            for slot in range(len(pieces)):
                nursery.start_soon(fill, slot)
        if errors:
            raise _worst(errors)
        return b"".join(parts)

    async def alternatives(
        self, segment: Segment, at: int, length: int
    ) -> AsyncIterator[Callable[[], bytes]]:
        """Give the range as each other choice of fragments has it, likeliest first.

        Each item computes its bytes when called. At most `k + m` fragments are asked, once.
        """
        profile = segment.profile
        pieces = erasure.locate(at, length, profile, segment.length)
        if profile.data == 1:
            for node in self._nodes.places(segment.segment_id):
                copy = await self._try(node, _Range(segment, at, length), ANY, PATIENT_S)
                if not isinstance(copy, CfsError):
                    yield lambda whole=copy: bytes(whole)  # type: ignore[misc]
            return
        columns = [
            await self._columns(_Range(segment, offset, count), range(profile.total), None, [])
            for _, offset, count in pieces
        ]
        direct = sorted({index for index, _, _ in pieces})
        order = direct + [i for i in range(profile.total) if i not in direct]
        for size in range(1, profile.parity + 1):
            for excluded in itertools.combinations(order, size):
                yield lambda without=excluded: _assemble(pieces, columns, without, profile)  # type: ignore[misc]

    async def _piece(self, segment: Segment, index: int, offset: int, length: int) -> Buffer:
        self.counters.reads += 1
        self.counters.bytes_read += length
        where = _Range(segment, offset, length)
        if segment.profile.data == 1:
            return await self._copy(where)
        members = self._nodes.members(segment.segment_id)
        failed: list[CfsError] = []
        if index < len(members) and self._nodes.live(members[index]):
            got = await self._try(members[index], where, index, HEDGE_S)
            if not isinstance(got, CfsError):
                return got
            failed.append(got)
        self.counters.degraded += 1
        need = segment.profile.data
        others = [i for i in range(segment.profile.total) if i != index]
        for attempt in range(2):
            columns = await self._columns(where, others, need, failed)
            if len(columns) >= need:
                return erasure.reconstruct(index, columns, segment.profile)
            found = await self._anywhere(where, index, failed)
            if found is not None:
                return found
            if attempt == 0 and not await self._newer_map():
                break
        raise _worst(failed)

    async def _copy(self, where: _Range) -> Buffer:
        """Read a replicated segment from any member."""
        failed: list[CfsError] = []
        for attempt in range(2):
            members = self._nodes.places(where.segment.segment_id)
            live = [node for node in members if self._nodes.live(node)]
            for patience_s, nodes in ((HEDGE_S, live), (PATIENT_S, members)):
                for node in nodes:
                    got = await self._try(node, where, ANY, patience_s)
                    if not isinstance(got, CfsError):
                        self.counters.degraded += not _only_absent(failed)
                        return got
                    failed.append(got)
            if attempt == 0 and not await self._newer_map():
                break
        raise _worst(failed)

    async def _columns(
        self, where: _Range, indexes: Sequence[int], need: int | None, failed: list[CfsError]
    ) -> dict[int, Buffer]:
        """Read the same range of several fragments: of `need` of them, or (None) of all."""
        columns: dict[int, Buffer] = {}
        members = self._nodes.members(where.segment.segment_id)

        async def fetch(index: int, patience_s: float) -> None:
            got = await self._try(members[index], where, index, patience_s)
            if isinstance(got, CfsError):
                failed.append(got)
            else:
                columns[index] = got

        placed = [i for i in indexes if i < len(members)]
        placed.sort(key=lambda i: not self._nodes.live(members[i]))
        wanted = len(placed) if need is None else need
        while placed and len(columns) < wanted:
            lacking = wanted - len(columns)
            wave, placed = placed[:lacking], placed[lacking:]
            async with open_tasks() as nursery:
                for index in wave:
                    nursery.start_soon(fetch, index, HEDGE_S if placed else PATIENT_S)
        for index in indexes:
            if len(columns) >= wanted:
                break
            if index not in columns:
                got = await self._anywhere(where, index, failed)
                if got is not None:
                    columns[index] = got
        return columns

    async def _anywhere(self, where: _Range, index: int, failed: list[CfsError]) -> Buffer | None:
        """Ask every node that may hold it for one fragment."""
        for node in self._nodes.places(where.segment.segment_id):
            got = await self._try(node, where, index, HEDGE_S)
            if not isinstance(got, CfsError):
                return got
            failed.append(got)
        return None

    async def _try(
        self, node: int, where: _Range, index: int, patience_s: float
    ) -> Buffer | CfsError:
        try:
            return await self._client.get(
                node,
                where.segment.segment_id,
                index,
                where.offset,
                where.length,
                timeout_s=patience_s,
            )
        except (NotFound, Corrupt) as error:
            self.counters.corrupt_fragments += isinstance(error, Corrupt)
            return error
        except (Malformed, Refused) as error:
            return error
        except CfsError as error:
            self.counters.hedged += isinstance(error, DeadlineExceeded)
            self._nodes.suspect(node)
            return error

    async def _newer_map(self) -> bool:
        if self._refresh is None:
            return False
        before = self._nodes.map.epoch
        try:
            with trio.move_on_after(HEDGE_S):
                await self._refresh()
        except CfsError:
            return False
        return self._nodes.map.epoch != before


def _assemble(
    pieces: Sequence[tuple[int, int, int]],
    columns: Sequence[dict[int, Buffer]],
    without: Collection[int],
    profile: Profile,
) -> bytes:
    parts: list[Buffer] = []
    for (index, _, _), column in zip(pieces, columns, strict=True):
        left = {i: memoryview(c) for i, c in column.items() if i not in without}
        parts.append(left[index] if index in left else erasure.reconstruct(index, left, profile))
    return b"".join(parts)


def _only_absent(failed: Sequence[CfsError]) -> bool:
    """Tell whether nothing worse was met than members that never held a copy."""
    return all(isinstance(error, NotFound) for error in failed)


def _worst(failed: Sequence[CfsError]) -> CfsError:
    """Choose what to tell the caller: whatever may pass comes first."""
    for error in failed:
        if not isinstance(error, Corrupt | NotFound | Malformed | Refused):
            return Unavailable(f"too few fragments can be read now: {error}")
    for error in failed:
        if isinstance(error, Corrupt):
            return error
    return failed[0] if failed else Unavailable("no storage node is placed for this segment")
