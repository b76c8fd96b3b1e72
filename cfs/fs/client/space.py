"""Whether the cluster has room for what is about to be buffered.

Bytes are accepted into the buffer only while the cluster's free space, as last known, exceeds all
dirty bytes by a margin; so a full cluster answers `write` with ENOSPC, not a later `fsync`. Free
space is what new data may still take: the fullest storage node, by its share of the placement
groups, decides. It is asked for at most once a second, and only while somebody writes or looks.
"""

from __future__ import annotations

import contextlib
import math

import msgspec
import trio

from cfs.core.api import root
from cfs.core.api.cluster import ClusterMap
from cfs.core.errors import CfsError
from cfs.core.ids import ROOT_GROUP
from cfs.fs.client.buffer import Buffer
from cfs.fs.client.limits import Limits
from cfs.fs.client.router import Router

AMPLE = 4 << 30
"""With that much left, figures may be older than a second while newer ones are on their way..."""
STALE_S = 3.0
"""...but no older than this."""
INODES_MAX = 1 << 40
"""Shown as the number of inodes: nothing but disks bounds it."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity of the cluster in bytes of user data before reduction, and its inodes."""

    capacity: int
    free: int
    inodes: int


class Space:
    """The cluster's free space as this client knows it."""

    def __init__(self, router: Router, buffer: Buffer, limits: Limits) -> None:
        self._router = router
        self._buffer = buffer
        self._limits = limits
        self._totals = Totals(capacity=0, free=0, inodes=0)
        self._seen_at = -math.inf
        self._lock = trio.Lock()
        self._shares: tuple[int, dict[int, float]] = (-1, {})
        self._full_until = -math.inf
        self._nursery: trio.Nursery | None = None

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
        left = self._totals.free - margin - self._buffer.used - count
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

    def refused(self) -> None:
        """Believe a storage node that had no room, until the figures catch up."""
        self._full_until = trio.current_time() + 1.0

    async def check(self, count: int) -> bool:
        """Ask again if the figures are old, then tell as `admits` does."""
        await self.totals()
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
                self._totals = self._sum(status)
            self._seen_at = trio.current_time()
            return self._totals

    def _sum(self, status: root.Status) -> Totals:
        profile = status.map.profile
        shares = self._shares_of(status.map)
        free = capacity = math.inf
        for node in status.nodes:
            beat = node.heartbeat
            share = shares.get(node.node_id)
            if share and beat is not None and beat.store is not None:
                room = 0 if beat.store.full else beat.store.free
                free = min(free, room / share)
                capacity = min(capacity, beat.store.capacity / share)
        if free == math.inf:
            return Totals(capacity=0, free=0, inodes=status.inodes)
        ratio = profile.data / profile.total
        return Totals(capacity=int(capacity * ratio), free=int(free * ratio), inodes=status.inodes)

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
