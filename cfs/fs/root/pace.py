"""A bound on bytes a second that can change while it is in force, and that yields to clients."""

from __future__ import annotations

from collections.abc import Callable

import trio

BURST_S = 0.5
"""What was not used may be used later, but no more than in so long."""
SLICE_S = 0.25
"""A change of the rate counts within this."""
YIELDING = 0.1
"""Share of the rate that is left to a job while clients queue; never nothing, so that it ends."""


class Pace:
    """A token bucket; `rate()` in bytes a second, 0: unbounded."""

    def __init__(self, rate: Callable[[], int], busy: Callable[[], bool]) -> None:
        self._rate = rate
        self._busy = busy
        self._left = 0.0
        self._at = trio.current_time()

    async def spend(self, count: int) -> None:
        """Wait until `count` bytes may be moved. May overdraw: what follows waits for it."""
        await trio.lowlevel.checkpoint()
        while True:
            rate = self.allowed()
            now = trio.current_time()
            if rate <= 0:
                self._left, self._at = 0.0, now
                return
            self._left = min(self._left + (now - self._at) * rate, rate * BURST_S)
            self._at = now
            if self._left > -1.0:  # less than a byte is nothing to wait for
                self._left -= count
                return
            await trio.sleep(min(SLICE_S, -self._left / rate))

    def allowed(self) -> float:
        """Give the rate in force now."""
        return self._rate() * (YIELDING if self._busy() else 1.0)
