"""Commands about quotas (`limiting`); `commands` gives them on."""

from __future__ import annotations

import msgspec

from cfs.core.api.quota import Domain

KEEP = -2
"""A cap that stays as it is."""


class Cap(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A shard's part of a domain's limits; -1: there is none, -2: as it is."""

    domain: Domain
    bytes: int = KEEP
    inodes: int = KEEP


class SetCaps(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="caps"):
    """Set caps, not below what is used or promised; answers what is so then.

    `term` is the root leader's: of a leader before it nothing is taken from here on. `version`, if
    given, is that of the set of limited domains. `epoch`: the shard must be held still for it.
    """

    term: int
    caps: tuple[Cap, ...]
    version: int = 0
    epoch: int = 0


class Recount(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="recount"):
    """Ask whether all inodes count; `begin`: count them anew, a few with every entry."""

    begin: bool


class MarkTree(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="marktree"):
    """Let a directory, and what is in it after a place in its list, belong to a tree.

    Those of `was` are taken; those of others are left. Stops at the next subdirectory, which is to
    be marked before going on.
    """

    ino: int
    project: int
    was: int
    hash58: int = 0
    slot: int = -1
    budget: int = 256
