"""The simulator's history, written by threads in real time; and what a set must keep to.

A client's name in the history is the life of its mount: when a daemon ends, what it had not made
durable may be gone, and what it had read of its own is not held against anyone. That is said when
the run is over, for each life that ended.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.sim.history import History, Op


class _Clock:
    @property
    def now(self) -> float:
        return time.monotonic()


class _Counts:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.synced_by = ""

    def line(self, text: str) -> None:
        del text


class Journal(History):
    """A history that many threads write."""

    def __init__(self) -> None:
        super().__init__(_Clock(), _Counts())
        self._lock = threading.RLock()
        self.held: list[tuple[int, str, float, float]] = []
        """(lock, client, from, until): surely held."""
        self.errors: Counter[str] = Counter()

    def begin(self, client: str, object_: str, kind: str, *args: Any) -> Op:
        with self._lock:
            return super().begin(client, object_, kind, *args)

    def end(self, op: Op, result: tuple[str, Any] | None) -> None:
        with self._lock:
            super().end(op, result)

    def unsynced(self, client: str, object_: str) -> list[Op]:
        with self._lock:
            return super().unsynced(client, object_)

    def synced(self, client: str, ops: Iterable[Op]) -> None:
        with self._lock:
            super().synced(client, ops)

    def lost(self, client: str, object_: str | None = None, *, ended: bool = False) -> None:
        with self._lock:
            super().lost(client, object_, ended=ended)

    def done(self) -> int:
        """Count the operations that were answered."""
        with self._lock:
            return sum(op.result is not None for op in self.ops)


def sets(ops: list[Op]) -> list[str]:
    """Judge additions to sets and readings of them, element by element.

    A listing is not one instant, so each element is a register of its own: absent before its
    addition began, there once that was answered or somebody saw it, for ever.
    """
    found = []
    reads = [op for op in ops if op.kind == "read" and op.result is not None and not op.dropped]
    adds = {op.args[0]: op for op in ops if op.kind == "create"}
    seen_at: dict[str, float] = {}
    for read in sorted(reads, key=lambda op: op.ret):
        for name in read.result[1]:  # type: ignore[index]
            seen_at.setdefault(name, read.ret)
    for read in reads:
        shown = read.result[1]  # type: ignore[index]
        for name, op in adds.items():
            known = seen_at.get(name, float("inf"))
            if not op.optional and op.result is not None:
                known = min(known, op.ret)
            if name not in shown and known < read.invoke:
                found.append(f"{read.client} does not see {name} at {read.invoke:.3f}: {op}")
            if name in shown and op.invoke > read.ret:
                found.append(f"{read.client} sees {name} before it was added: {op}")
        found += [f"{read.client} sees {name}, which nobody added"
                  for name in set(shown) - set(adds)]  # fmt: skip
    return found
