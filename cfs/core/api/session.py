"""Messages that keep a client's session: opening, reasserting, renewing, recalling.

Leases and their modes are described in `cfs.core.api.meta`, which gives these names on.
"""

from __future__ import annotations

import msgspec


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A lease: inode and modes."""

    ino: int
    modes: int


class OpenSession(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Open the session in these shards or, with a new leader, reassert what is held there.

    Replaces the leader's view of this session: exactly `held` (volatile READ and OPEN; WRITE is
    replicated and only confirmed). Raises SessionExpired when the leader gave the session's
    leases away: drop every cache of the shard, then call again with `held` empty and `renewed`.
    """

    shard: int
    session: int
    held: tuple[Held, ...] = ()
    renewed: bool = False


class OpenSessionReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """`term_ms`: how long, counted from sending a renewal, leases may be trusted.

    `lost`: WRITE leases the client named that it no longer has.
    """

    term_ms: int
    applied_seq: int
    """Highest operation number of this session that took effect here."""
    lost: tuple[int, ...] = ()


class Renew(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Renew the session in all shards that the callee leads; `drop` gives volatile leases back.

    With `end` the client is done: its leases and pins are dropped and nobody waits for it again.
    """

    session: int
    shards: tuple[int, ...]
    drop: tuple[Held, ...] = ()
    end: bool = False


class RenewReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Shards not renewed: not led here, or the session is unknown or expired there."""

    not_led: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()


class Recall(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Leader to client: give these leases down to `modes` of each. Dirty data is committed first.

    Answering means: flushed, and no longer trusted.
    """

    shard: int
    session: int
    at: int
    leases: tuple[Held, ...]
    """For each inode the modes that may stay (NONE or READ; OPEN is untouched)."""


class Empty(msgspec.Struct, frozen=True, array_like=True):
    """Nothing to say."""
