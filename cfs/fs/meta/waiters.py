"""Who waits for a replica: proposals until applied, reads until the state has caught up.

Each waiter has a token and is answered at most once; one that was cancelled is forgotten, and its
answer, when it comes, goes nowhere.
"""

from __future__ import annotations

import heapq
from typing import Any

import outcome
import trio


class Waiters:
    """The tasks parked at one group."""

    def __init__(self) -> None:
        self.tasks: dict[int, trio.lowlevel.Task] = {}
        self.proposals: dict[int, tuple[int, int]] = {}
        """Index in the log to (term, token)."""
        self._reads: list[tuple[int, int]] = []

    async def park(self, token: int) -> Any:
        """Wait for the answer to `token`; gives its value or raises its error."""
        self.tasks[token] = trio.lowlevel.current_task()

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            self.tasks.pop(token, None)
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def give(self, token: int, value: Any) -> None:
        """Answer with a value."""
        if (task := self.tasks.pop(token, None)) is not None:
            trio.lowlevel.reschedule(task, outcome.Value(value))

    def refuse(self, token: int, error: Exception) -> None:
        """Answer with an error."""
        if (task := self.tasks.pop(token, None)) is not None:
            trio.lowlevel.reschedule(task, outcome.Error(error))

    def await_applied(self, token: int, index: int) -> None:
        """Answer a read once `index` is applied."""
        heapq.heappush(self._reads, (index, token))

    def applied(self, index: int) -> None:
        """Answer the reads that waited for up to `index`."""
        reads = self._reads
        while reads and reads[0][0] <= index:
            self.give(heapq.heappop(reads)[1], None)

    def fail_taken(self, error: Exception) -> None:
        """Answer whoever the log or the state has taken up: leadership is over."""
        tokens = [token for _, token in self.proposals.values()]
        tokens += [token for _, token in self._reads]
        self.proposals.clear()
        self._reads.clear()
        for token in tokens:
            self.refuse(token, error)

    def fail_all(self, error: Exception) -> None:
        """Answer everyone: the replica goes away."""
        self.fail_taken(error)
        for token in list(self.tasks):
            self.refuse(token, error)
