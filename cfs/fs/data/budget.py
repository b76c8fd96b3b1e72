"""A bound in bytes, first come first served."""

from __future__ import annotations

from collections import deque

import trio


class Budget:
    """Bytes that may be in hand at once. One request larger than the whole takes the whole."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    def take_now(self, count: int) -> bool:
        """Take bytes if they are free and nobody waits."""
        count = min(count, self._total)
        if self._waiting or self._free < count:
            return False
        self._free -= count
        return True

    async def take(self, count: int) -> None:
        """Take bytes, waiting for them in turn."""
        if self.take_now(count):
            return
        entry = (min(count, self._total), trio.Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except trio.Cancelled:
            if entry[1].is_set():
                self.give(count)
            else:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, count: int) -> None:
        """Give back what `take` took."""
        self._free += min(count, self._total)
        assert self._free <= self._total
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, event = self._waiting.popleft()
            self._free -= count
            event.set()
