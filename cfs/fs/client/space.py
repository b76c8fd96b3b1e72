"""Whether the cluster has room for what is about to be buffered.

Bytes are accepted into the buffer only while the cluster's free space, as last known, exceeds by a
margin all dirty bytes and those stored since the figures were made; so a full cluster answers
`write` with ENOSPC, not a later `fsync`. Free space is what new data may still take: erasure coded
until a storage node is full by its share of the placement groups, then as `m + 1` copies in the
domains that have room. It is asked for at most once a second, and only while somebody writes or
looks.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Mapping

import msgspec
import trio

from cfs.core.api import root
from cfs.core.api.cluster import ClusterMap, NodeState, Profile
from cfs.core.api.store import StoreStat
from cfs.core.errors import CfsError, DeadlineExceeded
from cfs.core.ids import ROOT_GROUP
from cfs.fs.client.buffer import Buffer
from cfs.fs.client.limits import Limits
from cfs.fs.client.router import Router

AMPLE = 4 << 30
"""With that much left, figures may be older than a second while newer ones are on their way..."""
STALE_S = 3.0
"""...but no older than this."""
STORED_MAX = 1024
"""Flushes noted one by one; more are noted together."""
REPLY_S = 0.2
"""What a status may have been under way."""
UNKNOWN_RETRY_S = 0.25
"""A root leader that just took over has heard of no storage node yet: heartbeats are more often."""
INODES_MAX = 1 << 40
"""Shown as the number of inodes: nothing but disks bounds it."""
_SERVING = frozenset({NodeState.IN, NodeState.DRAINING})


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity of the cluster in bytes of user data before reduction, and its inodes."""

    capacity: int
    free: int
    inodes: int
    inodes_max: int = INODES_MAX
    available: int = 0
    """Of `free`, what the cluster has room for; set by `Attributes.statfs`."""
    known: bool = True
    """Whether the root leader had heard of every storage node: not known is not nothing free."""
    age_s: float = 0.0
    """Of the oldest figure among them, when they came."""


class Space:
    """The cluster's free space as this client knows it."""

    def __init__(self, router: Router, buffer: Buffer, limits: Limits) -> None:
        self._router = router
        self._buffer = buffer
        self._limits = limits
        self._totals = Totals(capacity=0, free=0, inodes=0, known=False)
        self._seen_at = -math.inf
        self._made_at = -math.inf
        self._lock = trio.Lock()
        self._shares: tuple[int, dict[int, float]] = (-1, {})
        self._full_until = -math.inf
        self._nursery: trio.Nursery | None = None
        self._stored: deque[tuple[float, int]] = deque()
        self._stored_bytes = 0

    def start(self, nursery: trio.Nursery) -> None:
        """Let figures be asked for in the background."""
        self._nursery = nursery

    def admits(self, count: int) -> bool:
        """Tell whether `count` bytes may be buffered, by figures that are young enough."""
        now = trio.current_time()
        age_s = now - self._seen_at
        if age_s >= STALE_S or now < self._full_until:
            return False
        margin = min(self._limits.space_margin, self._totals.capacity // 50)
        self._forget_stored()
        left = self._totals.free - margin - self._stored_bytes - self._buffer.used - count
        if age_s < self._limits.space_age_s:
            return left >= 0
        if left < AMPLE:
            return False
        if self._nursery is not None and not self._lock.locked():
            self._nursery.start_soon(self._refresh)
        return True

    async def _refresh(self) -> None:
        with contextlib.suppress(CfsError):
            await self.totals()

    def stored(self, count: int) -> None:
        """Note that dirty bytes were stored; the figures in hand may not show it."""
        self._stored_bytes += count
        if len(self._stored) >= STORED_MAX:
            count += self._stored.pop()[1]
        self._stored.append((trio.current_time(), count))

    def _forget_stored(self) -> None:
        """Forget what the figures in hand show already."""
        shown_at = self._made_at - self._totals.age_s - REPLY_S
        while self._stored and self._stored[0][0] < shown_at:
            self._stored_bytes -= self._stored.popleft()[1]

    def refused(self) -> None:
        """Believe a storage node that had no room, until the figures catch up."""
        self._full_until = trio.current_time() + 1.0

    async def check(self, count: int) -> bool:
        """Ask again if the figures are old, then tell as `admits` does.

        Raises DeadlineExceeded when nobody knows for as long as an operation may take.
        """
        deadline = trio.current_time() + self._limits.patience_s
        while not (await self.totals()).known:
            if trio.current_time() >= deadline:
                raise DeadlineExceeded("no storage node was heard of: start them")
            await trio.sleep(UNKNOWN_RETRY_S)
        return self.admits(count)

    async def totals(self) -> Totals:
        """Give the cluster's totals, at most a second old; older ones while root is away."""
        async with self._lock:
            if trio.current_time() < self._seen_at + self._limits.space_age_s:
                return self._totals
            patience_s = self._limits.patience_s if self._seen_at == -math.inf else 5.0
            try:
                status = await self._router.ask(
                    ROOT_GROUP,
                    "root.status",
                    root.GetStatus(),
                    deadline=trio.current_time() + patience_s,
                )
            except CfsError:
                if self._seen_at == -math.inf:
                    raise
            else:
                assert isinstance(status, root.Status)
                totals = self._sum(status)
                if totals.known or not self._totals.known:
                    self._totals = totals
                    self._made_at = trio.current_time()
            if self._totals.known:
                self._seen_at = trio.current_time()
            return self._totals

    def _sum(self, status: root.Status) -> Totals:
        cluster = status.map
        shares = self._shares_of(cluster)
        beats = {n.node_id: n for n in status.nodes}
        free: dict[int, float] = {}
        capacity: dict[int, float] = {}
        known = bool(shares)
        age_ms = 0
        for node in (n for n in cluster.nodes if n.node_id in shares):
            serving = node.state in _SERVING
            beat = beats.get(node.node_id)
            store = beat.heartbeat.store if beat and beat.heartbeat else None
            if beat is None or store is None:
                known = known and not serving
                store = StoreStat()
            elif serving:
                age_ms = max(age_ms, beat.seen_ms_ago or 0)
            free[node.node_id] = store.free if serving and not store.full else 0
            capacity[node.node_id] = store.capacity
        domains = {n.node_id: n.domain for n in cluster.nodes}
        up = {n.domain for n in cluster.nodes if n.node_id in shares and n.state in _SERVING}
        if len(up) <= cluster.profile.parity:
            known = False  # nowhere to write to for now: that is not a full cluster
        return Totals(
            capacity=_plain_room(capacity, shares, domains, cluster.profile),
            free=_plain_room(free, shares, domains, cluster.profile),
            inodes=status.inodes,
            known=known,
            age_s=age_ms / 1000,
        )

    def _shares_of(self, cluster: ClusterMap) -> dict[int, float]:
        """Give each storage node's part of all fragments."""
        if self._shares[0] != cluster.epoch:
            counts: dict[int, int] = {}
            for members in cluster.placement:
                for node in members:
                    counts[node] = counts.get(node, 0) + 1
            total = sum(counts.values())
            self._shares = (cluster.epoch, {n: c / total for n, c in counts.items()})
        return self._shares[1]


def _plain_room(
    room: Mapping[int, float],
    shares: Mapping[int, float],
    domains: Mapping[int, str],
    profile: Profile,
) -> int:
    """Give how many plain bytes fit into the room of the nodes, by id.

    Coded ones until one node is full, then copies: `n` copies in different domains fit as long as
    for every `j < n` the room outside the `j` largest holds the other `n - j`.
    """
    if not room:
        return 0
    coded = min(room[node] / shares[node] for node in room)
    rest: dict[str, float] = {}
    for node, count in room.items():
        domain = domains[node]
        rest[domain] = rest.get(domain, 0.0) + count - coded * shares[node]
    lefts = sorted(rest.values(), reverse=True)
    copies = profile.parity + 1
    copied = min(sum(lefts[j:]) / (copies - j) for j in range(copies))
    return int(coded * profile.data / profile.total + copied)
