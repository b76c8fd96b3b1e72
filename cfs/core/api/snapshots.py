"""Messages about snapshots: what there is, and the stages in which one is taken.

The root leader takes a snapshot with every shard's leader: all FREEZE, then all MARK, then all
THAW. A shard that is frozen lets no mutation through, and what clients had written is committed; it
thaws by itself after a while, and MARK is refused then.
"""

from __future__ import annotations

import enum

import msgspec


class Stage(enum.IntEnum):
    """What a shard is asked to do."""

    FREEZE = 0
    """Have what clients hold back committed, then let no mutation through."""
    MARK = 1
    """Take the snapshot. Raises Refused when the shard is not frozen for it any more."""
    THAW = 2
    """Go on."""


class TakePart(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask a shard's leader for one stage of taking the snapshot `epoch`."""

    shard: int
    epoch: int
    stage: Stage


class Snapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A snapshot that can be looked at."""

    epoch: int
    name: str
    scope: int
    """The directory whose subtree it shows; the root directory: everything."""
    path: str
    """Of `scope`, when it was taken, as its maker named it."""
    created_ms: int
    """Wall clock."""
    schedule: str = ""
    """The schedule that took it, as `PERIOD of PATH`; empty: somebody did."""


class GetSnapshots(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask the root leader for every snapshot."""


class GetSnapshotsReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Every snapshot that can be looked at, oldest first."""

    snapshots: tuple[Snapshot, ...]
