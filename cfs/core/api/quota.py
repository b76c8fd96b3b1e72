"""Messages about quotas: room for a file to grow into, what is limited, what is used.

A *domain* is what a quota is of: a directory tree (by the inode of its top), a user, a group. Room
in a file is *charged* before bytes are accepted: until it is committed or given back it counts as
used, so what was accepted can always be committed.
"""

from __future__ import annotations

import msgspec

TREE, USER, GROUP = 1, 2, 3
"""Kinds of domain."""
NAMES = {TREE: "tree", USER: "user", GROUP: "group"}
UNLIMITED = -1


class Domain(msgspec.Struct, frozen=True, array_like=True):
    """What a quota is of: `id` is the inode of a tree's top, a user's or a group's number."""

    kind: int
    id: int


class Charge(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="charge"):
    """Let a file grow up to `size`, and up to `want` where there is ample room.

    What is charged counts as used until it is committed, charged anew, or the WRITE lease goes, on
    which it depends (else ESTALE). Answers the inode, with what is charged. Raises EDQUOT.
    """

    ino: int
    size: int
    want: int = 0


class GetLimits(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask a shard which domains are limited."""

    shard: int


class GetLimitsReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """`version` rises with every change; see `MutateReply.limits`."""

    version: int
    domains: tuple[Domain, ...]


class Want(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Room that an operation needs in a domain."""

    domain: Domain
    bytes: int
    inodes: int


class MakeRoom(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask the root leader for more of a quota in a shard that has not enough of it left."""

    shard: int
    wants: tuple[Want, ...]


class MakeRoomReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Whether all of it is there now."""

    made: bool


class GetQuota(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask what a directory tree may hold and holds."""

    tree: int


class GetQuotaReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Limits (-1: none) and what counts as used."""

    bytes_max: int
    inodes_max: int
    bytes: int
    inodes: int
