"""What a leader knows about one peer's log, and how much it may send.

    PROBE      where the logs agree is not known: one Append at a time, `next_index` goes down
    REPLICATE  they agree up to `match_index`: Appends are pipelined, bounded in number and bytes
    SNAPSHOT   the peer needs entries that are gone: nothing is sent until the stream ended

`match_index` is a lower bound of what the peer holds durably. It falls only when the peer itself
says that it holds less (it lost a torn tail): counting less is always safe.
"""

from __future__ import annotations

import enum
from collections import deque

NEVER_MS = -(1 << 60)
"""Earlier than every clock reading."""


class ProgressState(enum.Enum):
    """How a peer is fed."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One peer, as its leader sees it."""

    __slots__ = (
        "_inflight",
        "acked_ms",
        "acked_round",
        "heard_ms",
        "inflight_bytes",
        "match_index",
        "next_index",
        "probing",
        "quiet",
        "snapshot_index",
        "state",
    )

    def __init__(self, next_index: int, now_ms: int) -> None:
        self.match_index = 0
        self.next_index = next_index
        self.state = ProgressState.PROBE
        self.probing = False
        """A probe, or the answer to a snapshot, is awaited."""
        self.quiet = False
        """No reply to an Append came since the last reply to a heartbeat."""
        self.snapshot_index = 0
        """Base of the log when the snapshot was asked for: entries after it will be needed."""
        self.heard_ms = now_ms
        self.acked_ms = NEVER_MS
        """When the latest heartbeat that the peer answered was *sent*."""
        self.acked_round = 0
        self.inflight_bytes = 0
        self._inflight: deque[tuple[int, int]] = deque()

    @property
    def inflight_count(self) -> int:
        """Appends that await their reply."""
        return len(self._inflight)

    def may_send(self, count_max: int, bytes_max: int) -> bool:
        """Say whether one more Append fits."""
        if self.state is ProgressState.REPLICATE:
            return len(self._inflight) < count_max and self.inflight_bytes < bytes_max
        return self.state is ProgressState.PROBE and not self.probing

    def sent(self, last_index: int, size: int) -> None:
        """Note an Append with entries up to `last_index`, or an empty probe."""
        if self.state is ProgressState.PROBE:
            self.probing, self.quiet = True, False
        elif last_index >= self.next_index:
            if not self._inflight:
                self.quiet = False
            self._inflight.append((last_index, size))
            self.inflight_bytes += size
            self.next_index = last_index + 1

    def accepted(self, index: int) -> bool:
        """Note that the peer holds everything up to `index`; say whether that is news."""
        self.quiet = False
        news = index > self.match_index
        if news:
            self.match_index = index
        if self.state is not ProgressState.REPLICATE:
            if self.state is ProgressState.SNAPSHOT and self.match_index < self.snapshot_index:
                return news
            self._become(ProgressState.REPLICATE, self.match_index + 1)
            return news
        inflight = self._inflight
        while inflight and inflight[0][0] <= index:
            self.inflight_bytes -= inflight.popleft()[1]
        self.next_index = max(self.next_index, self.match_index + 1)
        return news

    def rejected(self, index: int) -> None:
        """Note that the logs can agree at `index` at most: probe there.

        A second rejection of the same pipeline names a place that is being probed already, or a
        later one; it is stale and changes nothing.
        """
        self.quiet = False
        if self.state is ProgressState.SNAPSHOT:
            return
        if self.state is ProgressState.PROBE and index + 1 >= self.next_index:
            return
        self.match_index = min(self.match_index, index)
        self._become(ProgressState.PROBE, index + 1)

    def beat_answered(self) -> bool:
        """Note a reply to a heartbeat; True: a lost Append must be repeated.

        True when an Append is awaited and no reply came between two replies to heartbeats.
        """
        if self.state is ProgressState.SNAPSHOT or not (self.probing or self._inflight):
            return False
        if not self.quiet:
            self.quiet = True
            return False
        self.quiet = self.probing = False
        return True

    def snapshot_started(self, base_index: int) -> None:
        """Stop sending: the host streams a snapshot of at least `base_index`."""
        self._become(ProgressState.SNAPSHOT, self.next_index)
        self.snapshot_index = base_index

    def snapshot_ended(self, *, ok: bool) -> None:
        """Wait for the peer's word, or for two heartbeats, then probe behind the snapshot."""
        if self.state is not ProgressState.SNAPSHOT:
            return
        following = max(self.match_index, self.snapshot_index if ok else 0) + 1
        self._become(ProgressState.PROBE, following)
        self.probing = True

    def needs_after(self) -> int:
        """Give the index after which this peer needs the log."""
        if self.state is ProgressState.SNAPSHOT:
            return max(self.match_index, self.snapshot_index)
        return self.match_index

    def _become(self, state: ProgressState, next_index: int) -> None:
        self.state = state
        self.next_index = next_index
        self.probing = False
        self._inflight.clear()
        self.inflight_bytes = 0
