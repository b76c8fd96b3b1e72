"""Messages by which fragments move between storage nodes: list, fetch, seal, drop.

The root leader decides (`cfs.fs.root.mover`); bytes go straight from node to node. Two fragments
are the same when their digests are: that is a hash of their form and of every block's checksum.
"""

from __future__ import annotations

import msgspec


class Held(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A fragment that a node holds."""

    segment: bytes
    index: int
    data: int
    parity: int
    segment_length: int
    length: int
    raw_bytes: int
    sealed_bytes: int
    digest: bytes
    sound: bool = True
    """False: on a disk that takes no changes any more."""


class ListHeld(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """List fragments of some placement groups, in order after `(after, after_index)`.

    A page is bounded by what is looked at too: it may be empty and not the end.
    """

    groups: tuple[int, ...]
    group_count: int
    after: bytes = b""
    after_index: int = 0


class ListHeldReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A page; go on after `(after, after_index)` unless it is the end."""

    fragments: tuple[Held, ...]
    end: bool
    after: bytes = b""
    after_index: int = 0


class Fetch(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A fragment to have, and who is known to hold which fragment of its segment."""

    segment: bytes
    index: int
    data: int
    parity: int
    segment_length: int
    raw_bytes: int
    sealed_bytes: int
    holders: tuple[tuple[int, int], ...]
    """`(node, index)`, those to be asked first in front."""


class FetchFragments(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Have these fragments: copy or rebuild what is missing, then read every one back.

    May use part of the reserve.
    """

    fragments: tuple[Fetch, ...]


class Fetched(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What became of one: the digest of what was read back from the disk, or an error."""

    digest: bytes = b""
    copied: int = 0
    """Bytes that were missing."""
    error: str = ""
    lost: bool = False
    """All that answered have too few good fragments; otherwise it may work later."""


class FetchReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One for each that was asked for, in order."""

    fragments: tuple[Fetched, ...]


class SealAt(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Know a map of at least this epoch, durably; everything admitted by an older one is done.

    From the answer on no write by an older list of a placement group is taken, not even after a
    restart.
    """

    epoch: int


class Proof(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A fragment to drop, and the digest of the same bytes as another node read them back."""

    segment: bytes
    index: int
    digest: bytes


class DropFragments(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Delete single fragments that are proven elsewhere.

    Refused for a placement group that this node is a member of.
    """

    proofs: tuple[Proof, ...]


class DropReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How many were deleted, and how many were not the same bytes and stay."""

    dropped: int
    kept: int = 0
