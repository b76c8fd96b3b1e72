"""Counters a process can show: how often what happened, by name.

Names are `noun_reason`, chosen by code, never by a peer, so their number is bounded.
"""

from __future__ import annotations


class Counters:
    """Monotonic counts by name."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Count `count` more."""
        self._counts[name] = self._counts.get(name, 0) + count

    def get(self, name: str) -> int:
        """Give a count; 0 when it never happened."""
        return self._counts.get(name, 0)

    def snapshot(self) -> dict[str, int]:
        """Give all counts."""
        return dict(self._counts)
