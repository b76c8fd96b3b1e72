"""Messages that tell operators what is going on in a node."""

from __future__ import annotations

import msgspec


class GetHolders(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask a shard's leader who holds what on an inode."""

    shard: int
    ino: int


class HolderInfo(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A client and what it holds; `silent_s`: since it last renewed, -1 where that is not known."""

    session: int
    name: str
    holds: str
    silent_s: float = -1.0


class GetHoldersReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Everybody with a lease, a pin or a lock, and what a read would wait for now."""

    holders: tuple[HolderInfo, ...]
    waits: tuple[str, ...] = ()


class ExportState(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Begin (`token` 0) or go on with a stream of a group's whole state, for a backup.

    The answer's payload is a piece of records as snapshots have them; empty at the end. Raises
    NotLeader, NotFound when the stream is not open any more.
    """

    group: int
    token: int = 0
    sequence: int = 0


class ExportStateReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The stream's token; at first also what it is a stream of (`fs.meta.snapshot.Header`)."""

    token: int
    header: bytes = b""
    end: bool = False


class GetUsage(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask a node what it was asked for lately."""


class UsageRow(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Requests of one kind: by `method`, `client`, `user` or `directory` (an inode)."""

    dimension: str
    key: str
    count: int
    bytes_in: int
    bytes_out: int
    seconds: float
    """Sum of what each took."""


class UsageReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Rows over the last `window_s` seconds."""

    window_s: float
    rows: tuple[UsageRow, ...]
