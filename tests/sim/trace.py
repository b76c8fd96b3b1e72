"""The trace of a run: one line an event, hashed as it grows; the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from typing import Any

from tests.sim.engine import CURRENT


class Trace:
    """Lines, and what was counted. `keep`: hold the lines; `show`: print them."""

    def __init__(self, clock: Any, *, show: bool = False) -> None:
        self.clock = clock
        self.show = show
        self.counts: Counter[str] = Counter()
        self.last: list[str] = []
        self.synced_by = ""
        """The client whose changes became durable last."""
        self._hash = hashlib.blake2b(digest_size=16)
        self._pending: list[str] = []

    def line(self, text: str) -> None:
        """Add an event."""
        text = f"{self.clock.now:.6f} {text}"
        self._pending.append(text)
        if len(self._pending) >= 256:
            self._fold()
        if self.show:
            print(text, flush=True)

    def bytes(self, source: str, target: str, piece: bytes) -> None:
        """Add bytes that were sent."""
        line = f"{self.clock.now:.6f} {source}>{target} {len(piece)} {zlib.crc32(piece):08x}"
        self._pending.append(line)
        if self.show:
            print(line, flush=True)
        if len(self._pending) >= 256:
            self._fold()

    def log(self, _logger: Any, method: str, event: dict[str, Any]) -> str:
        """Take a line of the product's log (a structlog processor)."""
        process = CURRENT.get()
        name = event.pop("event", "")
        fields = " ".join(f"{key}={value}" for key, value in event.items())
        self.line(f"{process.name if process else '-'} {method} {name} {fields}")
        return ""

    def digest(self) -> str:
        """Give the hash of everything so far."""
        self._fold()
        return self._hash.hexdigest()

    def _fold(self) -> None:
        self._hash.update("\n".join(self._pending).encode("utf-8", "replace"))
        self.last = (self.last + self._pending)[-400:]
        self._pending = []
