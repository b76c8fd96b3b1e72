"""Finds circles of POSIX locks that pass through several shards.

Every second each leader with requests that have waited for a second tells shard 0's leader who
waits for whom (`meta.lockgraph`), and hears which of its waits must end with EDEADLK. An edge
counts once two reports in a row have named it, and a circle only if all its edges were seen over
one common moment: what has changed meanwhile does not look like a circle. The wait with the largest
session and ticket ends. So such a circle is broken within about four seconds while shard 0 has a
leader; circles within one shard are refused at once by `lock_queue`. More than `EDGES_MAX` waits of
one shard are not looked at.
"""

from __future__ import annotations

import structlog
import trio

from cfs.core.api.locking import LockEdge, LockGraph, LockGraphReply
from cfs.core.errors import DeadlineExceeded, Retryable
from cfs.core.ids import ShardId, group_of
from cfs.fs.meta.leaders import Leaders
from cfs.fs.meta.lock_queue import LockQueue

_LOG = structlog.get_logger()

PERIOD_S = 1.0
WAITED_S = 1.0
STALE_S = 2.5
EDGES_MAX = 4096

Owner = tuple[int, int]
Wait = tuple[int, int]


class _Report:
    """What one shard said twice in a row."""

    __slots__ = ("edges", "lasting", "since", "until")

    def __init__(self, edges: dict[tuple[Wait, Owner, Owner], None], now: float) -> None:
        self.edges = edges
        self.lasting: dict[tuple[Wait, Owner, Owner], None] = {}
        self.since = self.until = now


class Circles:
    """The reports, at shard 0's leader."""

    def __init__(self) -> None:
        self._reports: dict[int, _Report] = {}

    def report(self, request: LockGraph) -> LockGraphReply:
        """Take a shard's waits in; give those of them that close a circle."""
        now = trio.current_time()
        fresh = _Report(_flat(request.edges), now)
        before = self._reports.get(request.shard)
        if before is not None and now - before.until <= STALE_S:
            fresh.lasting = {e: None for e in fresh.edges if e in before.edges}
            fresh.since = before.until
        self._reports[request.shard] = fresh
        for shard in [s for s, r in self._reports.items() if now - r.until > STALE_S]:
            del self._reports[shard]
        victims = self._victims()
        mine = {wait for wait, _, _ in fresh.lasting}
        return LockGraphReply(victims=tuple(v for v in victims if v in mine))

    def _victims(self) -> set[Wait]:
        """Give the largest wait of every circle found."""
        graph: dict[Owner, list[tuple[Wait, Owner, _Report]]] = {}
        for report in self._reports.values():
            for wait, owner, holder in report.lasting:
                graph.setdefault(owner, []).append((wait, holder, report))
        victims: set[Wait] = set()
        done: set[Owner] = set()
        for start in graph:
            if start not in done:
                _walk(graph, start, done, victims)
        return victims


async def look(shard: int, queue: LockQueue, leaders: Leaders) -> None:
    """Report a shard's waits to shard 0's leader, and end those that close a circle."""
    edges = queue.edges(WAITED_S)
    if not edges:
        return
    request = LockGraph(shard=shard, edges=edges[:EDGES_MAX])
    try:
        reply = await leaders.call(
            group_of(ShardId(0)), "meta.lockgraph", request, timeout_s=PERIOD_S
        )
    except (Retryable, DeadlineExceeded) as error:
        _LOG.info("lock_graph_failed", shard=shard, error=str(error))
        return
    assert isinstance(reply, LockGraphReply)
    queue.refuse(reply.victims)


def _walk(
    graph: dict[Owner, list[tuple[Wait, Owner, _Report]]],
    start: Owner,
    done: set[Owner],
    victims: set[Wait],
) -> None:
    """Search depth-first from an owner; every edge is followed once."""
    path: list[Owner] = [start]
    waits: list[tuple[Wait, _Report]] = []
    ahead = [iter(graph[start])]
    while ahead:
        found = next(ahead[-1], None)
        if found is None:
            done.add(path.pop())
            ahead.pop()
            if waits:
                waits.pop()
            continue
        wait, holder, report = found
        if holder in path:
            circle = [*waits[path.index(holder) :], (wait, report)]
            if max(r.since for _, r in circle) <= min(r.until for _, r in circle):
                victims.add(max(w for w, _ in circle))
        elif holder in graph and holder not in done:
            path.append(holder)
            waits.append((wait, report))
            ahead.append(iter(graph[holder]))


def _flat(edges: tuple[LockEdge, ...]) -> dict[tuple[Wait, Owner, Owner], None]:
    return {
        ((e.session, e.ticket), (e.session, e.owner), holder): None
        for e in edges[:EDGES_MAX]
        for holder in e.holders
    }
