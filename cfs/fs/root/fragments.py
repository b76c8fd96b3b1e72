"""The fragments of placement groups as the root leader sees them: listed, fetched, proven, dropped.

Asks storage nodes and decides nothing about placement. A batch of groups is in memory at a time;
its caller keeps it small.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog
import trio

from cfs.core.api.cluster import NodeState, Profile, Role
from cfs.core.api.moving import (
    DropFragments,
    Fetch,
    Fetched,
    FetchFragments,
    Held,
    ListHeld,
    Proof,
    SealAt,
)
from cfs.core.code.erasure import fragment_length
from cfs.core.errors import CfsError, Unavailable
from cfs.core.ids import SegmentId
from cfs.core.place import repair
from cfs.core.place.group import placement_group_of
from cfs.core.place.repair import Copies, owner_of
from cfs.fs.root.jobs import JobContext
from cfs.fs.root.ports import Calls
from cfs.fs.root.view import ClusterView
from cfs.net.tasks import open_tasks, run_all

_LOG = structlog.get_logger()

LIST_S = 30.0
FETCH_S = 120.0
SEAL_S = 15.0
DROP_S = 30.0
CALL_FRAGMENTS = 128
CALL_BYTES = 16 << 20
"""One request: what pace is kept by, and what a lost reply makes to be looked at again."""
TARGETS_AT_ONCE = 4
ASKED_MAX = 4096

Listing = dict[int, dict[bytes, Copies]]
"""By group, by segment."""
Wanted = tuple[int, Fetch]
"""A placement group, and a fragment of it that a node is to have."""


class Fragments:
    """Calls to storage nodes about whole groups."""

    def __init__(
        self,
        *,
        view: ClusterView,
        calls: Calls,
        unreferred: Callable[[list[bytes]], Awaitable[list[bytes]]],
    ) -> None:
        self._view = view
        self._calls = calls
        self._unreferred = unreferred

    def answers(self, node_id: int) -> bool:
        """Tell whether a storage node is expected to answer."""
        node = self._view.node(node_id)
        return (
            node is not None
            and node.role == Role.STORAGE
            and node.state in (NodeState.IN, NodeState.DRAINING)
        )

    def name_of(self, node_id: int) -> str:
        """Name a node as people do."""
        return self._view.name_of(node_id) or f"node {node_id}"

    async def listing(self, parties: Mapping[int, Iterable[int]]) -> Listing:
        """List what `parties` (nodes, by group) hold. Raises what a node that should answer raises.

        Nodes that are not expected to answer are passed over.
        """
        listing: Listing = {group: {} for group in parties}
        groups_of: dict[int, list[int]] = {}
        for group, nodes in parties.items():
            for node in set(nodes):
                if self.answers(node):
                    groups_of.setdefault(node, []).append(group)

        async def ask(node: int) -> None:
            try:
                await self._list_node(node, sorted(groups_of[node]), listing)
            except CfsError as error:
                raise Unavailable(f"{self.name_of(node)} cannot be listed: {error}") from error

        await run_all(ask, groups_of)
        return listing

    async def _list_node(self, node: int, groups: list[int], listing: Listing) -> None:
        count = len(self._view.map.placement)
        after, after_index = b"", 0
        while True:
            request = ListHeld(
                groups=tuple(groups), group_count=count, after=after, after_index=after_index
            )
            reply, _ = await self._calls.call(node, "store.held", request, timeout_s=LIST_S)
            for row in reply.fragments:
                of_group = listing[placement_group_of(SegmentId(row.segment), count)]
                copies = of_group.get(row.segment)
                if copies is None:
                    copies = of_group[row.segment] = Copies(held=[])
                copies.held.append((node, row))
            if reply.end:
                return
            after, after_index = reply.after, reply.after_index

    async def fetch(
        self, context: JobContext, wanted: Mapping[int, Sequence[Wanted]]
    ) -> dict[int, str]:
        """Have nodes (by id) hold fragments; give the groups where that failed, and why.

        What can never be had, because too few fragments are left anywhere, is a finding of the job
        unless nothing refers to it; it does not make its group fail.
        """
        failed: dict[int, str] = {}
        lost: list[bytes] = []
        limiter = trio.CapacityLimiter(TARGETS_AT_ONCE)

        async def serve(node: int, rows: Sequence[Wanted]) -> None:
            async with limiter:
                for page in pages(rows):
                    left = [row for row in page if row[0] not in failed]
                    await context.pace(sum(bytes_of(fetch) for _, fetch in left))
                    for (group, fetch), done in zip(
                        left, await self._fetch_page(node, left), strict=True
                    ):
                        context.advance(done.copied)
                        if done.lost:
                            lost.append(fetch.segment)
                        elif done.error:
                            failed[group] = f"{self.name_of(node)}: {done.error}"

        async with open_tasks() as nursery:
            for node, rows in wanted.items():
                nursery.start_soon(serve, node, rows)
        await self.note_lost(context, lost)
        return failed

    async def _fetch_page(self, node: int, page: Sequence[Wanted]) -> Sequence[Fetched]:
        if not page:
            return ()
        request = FetchFragments(fragments=tuple(fetch for _, fetch in page))
        try:
            reply, _ = await self._calls.call(node, "store.fetch", request, timeout_s=FETCH_S)
        except CfsError as error:
            return [Fetched(error=str(error))] * len(page)
        done: Sequence[Fetched] = reply.fragments
        return done

    async def note_lost(self, context: JobContext, segments: Sequence[bytes]) -> None:
        """Count segments that have too few fragments left and that something refers to."""
        for start in range(0, len(segments), ASKED_MAX):
            asked = list(dict.fromkeys(segments[start : start + ASKED_MAX]))
            garbage = set(await self._unreferred(asked))
            for segment in asked:
                if segment not in garbage:
                    context.findings += 1
                    context.last_error = f"segment {segment.hex()} has too few fragments left"
                    _LOG.error("segment_lost", segment=segment.hex())

    async def garbage(self, segments: list[bytes]) -> set[bytes]:
        """Give those of a few segments that nothing refers to."""
        found: set[bytes] = set()
        for start in range(0, len(segments), ASKED_MAX):
            found.update(await self._unreferred(segments[start : start + ASKED_MAX]))
        return found

    async def seal(self, nodes: Iterable[int], epoch: int) -> None:
        """Have nodes refuse what older maps would let them take. Raises when one cannot yet."""

        async def ask(node: int) -> None:
            try:
                await self._calls.call(node, "store.seal", SealAt(epoch=epoch), timeout_s=SEAL_S)
            except CfsError as error:
                if self.answers(node):
                    message = f"{self.name_of(node)} is not sealed: {error}"
                    raise Unavailable(message) from error

        await run_all(ask, (node for node in sorted(set(nodes)) if self.answers(node)))

    async def evict(
        self, context: JobContext, node: int, lists: Mapping[int, Sequence[int]]
    ) -> int:
        """Prove what `node` holds of groups it is no member of, and drop it; give what stays.

        `lists`: the members, by group.
        """
        listing = await self.listing({g: (*members, node) for g, members in lists.items()})
        owed: dict[int, list[tuple[Wanted, Held]]] = {}
        stays = 0
        for group, segments in listing.items():
            for copies in segments.values():
                for row in [r for holder, r in copies.held if holder == node]:
                    owner, index = owner_of(copies, row.index, lists[group], node)
                    if owner == 0 or not self.answers(owner):
                        stays += 1
                        continue
                    wanted = (group, repair.fetch_of(copies, index))
                    owed.setdefault(owner, []).append((wanted, row))
        for owner, rows in owed.items():
            for start in range(0, len(rows), CALL_FRAGMENTS):
                stays += await self._prove(
                    context, node, owner, rows[start : start + CALL_FRAGMENTS]
                )
        return stays

    async def _prove(
        self, context: JobContext, node: int, owner: int, rows: Sequence[tuple[Wanted, Held]]
    ) -> int:
        """Have the owner read fragments back, and the node drop what matches; give what stays."""
        await context.pace(sum(row.length for _, row in rows))
        answers = await self._fetch_page(owner, [wanted for wanted, _ in rows])
        proofs = []
        for (_, row), done in zip(rows, answers, strict=True):
            context.advance(done.copied)
            if done.digest and done.digest == row.digest:
                proofs.append(Proof(segment=row.segment, index=row.index, digest=done.digest))
            elif done.error:
                context.last_error = f"{self.name_of(owner)}: {done.error}"
            else:
                context.last_error = (
                    f"fragment {row.segment.hex()}.{row.index} differs between "
                    f"{self.name_of(node)} and {self.name_of(owner)}: run cfs admin scrub --deep"
                )
        if not proofs:
            return len(rows)
        request = DropFragments(proofs=tuple(proofs))
        reply, _ = await self._calls.call(node, "store.drop", request, timeout_s=DROP_S)
        return len(rows) - int(reply.dropped)


def bytes_of(fetch: Fetch) -> int:
    """Give the bytes of a fragment."""
    return fragment_length(fetch.segment_length, Profile(fetch.data, fetch.parity))


def pages(rows: Sequence[Wanted]) -> list[list[Wanted]]:
    """Cut a list into what one call may carry."""
    made: list[list[Wanted]] = []
    size = 0
    for row in rows:
        size += bytes_of(row[1])
        if not made or size > CALL_BYTES or len(made[-1]) >= CALL_FRAGMENTS:
            made.append([])
            size = bytes_of(row[1])
        made[-1].append(row)
    return made
