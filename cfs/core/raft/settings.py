"""What a group's timing and bounds are; one place, each with its reason.

Every queue of a machine is bounded here. Times are milliseconds of the host's monotonic clock.
"""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Timing and bounds of a machine; every replica of a group must use the same times."""

    heartbeat_ms: int = 150
    """A leader beats this often; several fit into the shortest election timeout."""
    election_ms_min: int = 1000
    """A follower that heard from a leader refuses other candidates for this long."""
    election_ms_max: int = 2000
    """Election timeouts are drawn from min to max; a leader without a quorum resigns after max."""
    lease_margin_ms: int = 250
    """A lease ends this much before `election_ms_min`: clock drift and the age of the last Tick."""
    lease_reads: bool = True
    """False: every read takes a round of heartbeats (ReadIndex), for clocks not trusted."""
    append_bytes_max: int = 1 << 20
    """Entries of one Append; a single larger entry still goes alone."""
    inflight_max: int = 64
    """Appends to one peer that await their reply."""
    inflight_bytes_max: int = 8 << 20
    """Likewise, their entries' bytes."""
    log_bytes_max: int = 4 << 20
    """Log kept behind a Compact for slow followers; a quarter of it is kept in any case, so that
    a change of leader needs no snapshot."""
    uncommitted_bytes_max: int = 32 << 20
    """A leader drops proposals past this much uncommitted log."""
    reads_max: int = 65536
    """Reads that wait for a round; more fail at once."""


ENTRY_OVERHEAD_BYTES = 32
"""Counted for each entry beside its data, so that empty ones are bounded too."""
