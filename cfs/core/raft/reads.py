"""Linearizable reads at a leader: by lease, or confirmed by a round of heartbeats (ReadIndex).

A read's index is the commit index when it is taken up, and it is taken up only once an entry of
the leader's own term is committed: before that the commit index may lag behind what an earlier
leader had acknowledged. It is answered at once while the lease lasts, else when a quorum has
answered a round that was *started after* the read.
"""

from __future__ import annotations

from collections import deque

from cfs.core.raft.message import ReadFailed, ReadReady
from cfs.core.raft.replica import Replica


class Reads:
    """The reads a leader has not answered."""

    __slots__ = ("_count", "_new", "_replica", "_waiting")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._new: list[int] = []
        self._waiting: deque[tuple[int, int, list[int]]] = deque()
        self._count = 0

    @property
    def count(self) -> int:
        """Reads that wait."""
        return self._count

    @property
    def has_new(self) -> bool:
        """Say whether reads came that were not taken up yet."""
        return bool(self._new)

    @property
    def has_waiting(self) -> bool:
        """Say whether reads wait for a round."""
        return bool(self._waiting)

    def add(self, token: int) -> None:
        """Take a read in, or fail it when too many wait."""
        if self._count >= self._replica.settings.reads_max:
            self._replica.notices.append(ReadFailed(token=token, leader=self._replica.leader))
            return
        self._count += 1
        self._new.append(token)

    def answer_new(self) -> None:
        """Answer the new reads: the lease lasts."""
        index = self._replica.commit
        self._count -= len(self._new)
        self._replica.notices += [ReadReady(token=token, index=index) for token in self._new]
        self._new = []

    def await_round(self, number: int) -> None:
        """Let the new reads wait for a round that starts now."""
        self._waiting.append((number, self._replica.commit, self._new))
        self._new = []

    def confirmed(self, number: int) -> None:
        """Answer the reads whose round, or a later one, a quorum has answered."""
        while self._waiting and self._waiting[0][0] <= number:
            _, index, tokens = self._waiting.popleft()
            self._count -= len(tokens)
            self._replica.notices += [ReadReady(token=token, index=index) for token in tokens]

    def fail(self, leader: int | None) -> None:
        """Fail every read: leadership is lost."""
        for _, _, tokens in self._waiting:
            self._replica.notices += [ReadFailed(token=t, leader=leader) for t in tokens]
        self._replica.notices += [ReadFailed(token=t, leader=leader) for t in self._new]
        self._new, self._count = [], 0
        self._waiting.clear()
