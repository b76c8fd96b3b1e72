"""Commands about what is kept: snapshots (`versions`) and the trash; `commands` gives them on."""

from __future__ import annotations

import msgspec


class TakeSnapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="snapshot"):
    """Let what is current now be the snapshot `epoch`. Refused when a later epoch was seen."""

    epoch: int


class DropSnapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="unsnapshot"):
    """Delete a snapshot; one not taken here is refused for ever."""

    epoch: int


class SetTrash(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="trash"):
    """Say how long what loses its last name stays in the trash, seconds; 0: not at all."""

    keep_s: int


class EmptyTrash(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="empty_trash"):
    """Take inodes out of the trash for good: these, and some of before a stamp (0: none)."""

    before_ns: int = 0
    inos: tuple[int, ...] = ()
