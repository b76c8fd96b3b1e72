"""Silence: when a peer that says nothing is pinged, and when it is given up. Pure.

A peer that owes an answer is pinged after 0.7 s without a byte from it and given up when it is
silent for 1.3 s more: 2 s together. One that owes nothing is pinged after 10 s and given up after
10 s more. A process that was itself stopped (it looks much later than it meant to) has learnt
nothing about its peer, and grants the ping its full time again.
"""

from __future__ import annotations

import enum

BUSY_SILENCE_S = 0.7
BUSY_PONG_S = 1.3
IDLE_SILENCE_S = 10.0
IDLE_PONG_S = 10.0
LATE_S = 0.5
"""Looking so much later than meant says that this process was stopped."""


class Verdict(enum.Enum):
    """What to do about a peer."""

    WAIT = enum.auto()
    PING = enum.auto()
    GIVE_UP = enum.auto()


class Silence:
    """Judges one peer.

    `heard`: when bytes last came, or a backlog to it last shrank. `busy_since`: when it began to
    owe answers, or None. All times are seconds on one monotonic clock.
    """

    def __init__(self) -> None:
        self._pinged_at: float | None = None

    def judge(self, now: float, meant: float, heard: float, busy_since: float | None) -> Verdict:
        """Decide at `now`; `meant` is when this look was due. PING is to be done."""
        if self._pinged_at is not None:
            if heard >= self._pinged_at:
                self._pinged_at = None
            elif now - meant > LATE_S:
                self._pinged_at = now
                return Verdict.PING
        if now < self.next_look(heard, busy_since):
            return Verdict.WAIT
        if self._pinged_at is not None:
            return Verdict.GIVE_UP
        self._pinged_at = now
        return Verdict.PING

    def next_look(self, heard: float, busy_since: float | None) -> float:
        """Give the time at which to judge next."""
        if self._pinged_at is not None:
            return self._pinged_at + (BUSY_PONG_S if busy_since is not None else IDLE_PONG_S)
        if busy_since is not None:
            return max(heard, busy_since) + BUSY_SILENCE_S
        return heard + IDLE_SILENCE_S
