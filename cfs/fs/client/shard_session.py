"""What a client knows of its session in one shard: lanes, trust, leases on their way back."""

from __future__ import annotations

import math

import trio

from cfs.fs.client.lane import Lane


class ShardSession:
    """The session in one shard."""

    __slots__ = (
        "data", "drops", "limits", "names", "opening", "parting", "shard", "term_s", "trust_until",
    )  # fmt: skip

    def __init__(self, shard: int, data: Lane, names: Lane) -> None:
        self.shard = shard
        self.data = data
        self.names = names
        self.term_s = 0.0
        self.limits = -1
        """Version of what is limited by quotas, as last heard; see `quotas`."""
        self.trust_until = -math.inf
        self.opening = trio.Lock()
        self.drops: dict[int, int] = {}
        self.parting: dict[int, float] = {}
        """READ leases to give back, and when nothing below can be cached under them any more."""
