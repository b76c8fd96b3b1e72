"""Calls: what this side asked on a connection and still waits for.

Each call ends exactly once: `succeed`, `fail`, `expire`, `forget` (cancelled) or `fail_all`. The
payload bytes of unanswered calls are bounded; callers wait for credit in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import outcome
import trio

from cfs.core.errors import CfsError

CALLS_BYTES_MAX = 64 << 20
"""Per connection, and what the other side holds for us at most: see `cfs.net.serving`."""


class Call(msgspec.Struct, gc=False):
    """One call: who waits, for which method (number), until when, having sent how much."""

    task: trio.lowlevel.Task
    method: int
    deadline: float
    size: int


class Calls:
    """Calls by request id."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._bytes = 0
        self._credit = trio.lowlevel.ParkingLot()
        self._began = 0.0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def busy_since(self) -> float | None:
        """When the peer began to owe answers without a pause; None: it owes none."""
        return self._began if self._calls else None

    @property
    def earliest_deadline(self) -> float:
        """When the next call expires."""
        return min((call.deadline for call in self._calls.values()), default=math.inf)

    def may_send(self, size: int) -> bool:
        """Tell whether `size` more bytes fit; a single call always may."""
        return not self._bytes or self._bytes + size <= CALLS_BYTES_MAX

    async def wait_credit(self) -> None:
        """Wait until some call ended."""
        await self._credit.park()

    def begin(self, request_id: int, call: Call, now: float) -> None:
        """Enter a call that was sent; its task is about to wait."""
        if not self._calls:
            self._began = now
        self._calls[request_id] = call
        self._bytes += call.size

    def forget(self, request_id: int) -> Call | None:
        """Remove a call; None when it has ended already."""
        call = self._calls.pop(request_id, None)
        if call is not None and call.size:
            self._bytes -= call.size
            self._credit.unpark_all()
        return call

    @staticmethod
    def succeed(call: Call, reply: Any) -> None:
        """Wake a call that was removed with its answer."""
        trio.lowlevel.reschedule(call.task, outcome.Value(reply))

    @staticmethod
    def fail(call: Call, error: CfsError) -> None:
        """Wake a call that was removed with an error."""
        trio.lowlevel.reschedule(call.task, outcome.Error(error))

    def expire(self, now: float) -> list[tuple[int, Call]]:
        """Remove and give the calls whose deadline has passed."""
        late = [i for i, call in self._calls.items() if call.deadline <= now]
        return [(i, call) for i in late if (call := self.forget(i)) is not None]

    def fail_all(self, error: Callable[[], CfsError]) -> None:
        """End every call with an error of its own, and let no one wait for credit."""
        calls, self._calls = self._calls, {}
        self._bytes = 0
        for call in calls.values():
            self.fail(call, error())
        self._credit.unpark_all()
