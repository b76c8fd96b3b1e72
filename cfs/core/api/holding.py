"""Operations on what a session holds: WRITE leases, and inode numbers for what it makes."""

from __future__ import annotations

import msgspec


class Acquire(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="acquire"):
    """Take the WRITE lease on an inode (others are recalled first). ENOENT when it is gone.

    On `more` too, where nobody else has any lease: nobody is recalled for them. Answers the inodes
    that are held now.
    """

    ino: int
    more: tuple[int, ...] = ()


class Release(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="release"):
    """Give WRITE leases back (or down to READ, which the leader tracks).

    Unknown ones are no error.
    """

    inos: tuple[int, ...]


class ReserveInos(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="reserve"):
    """Reserve inode numbers of this shard, in a row; what is never used is lost. Raises EINVAL."""

    count: int
