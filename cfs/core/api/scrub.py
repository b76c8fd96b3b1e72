"""Messages of scrub: storage nodes verify what is at rest; what is wrong has one form everywhere.

A scrub on demand is a cursor that the root leader moves: storage nodes keep nothing of it.
"""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One thing that scrub found wrong, and what became of it."""

    kind: str
    """`fragment`, `stripe`, `extent`, `dedupe`, `replica` or `namespace`."""
    key: str
    """Names the object: the same fault found again has the same key."""
    where: str
    """Node, and disk where one is at fault."""
    detail: str
    repaired: bool = False
    segment: bytes = b""
    index: int = -1


class VerifyFragments(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Read and check what lies on this node's disks, in order after `(after, after_index)`.

    Goes on until `bytes_max` bytes were read. With `repair` what is damaged is written anew from
    the other fragments. Whatever is found is reported to the root group, too.
    """

    after: bytes = b""
    after_index: int = 0
    bytes_max: int = 32 << 20
    repair: bool = True


class VerifyReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How far it came and what it found."""

    last: bytes
    last_index: int
    end: bool
    fragments: int
    bytes_read: int
    findings: tuple[Finding, ...] = ()


class Chunk(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A chunk as an extent or a dedupe entry says it lies in its segment."""

    chunk_id: bytes
    at: int
    stored: int
    raw: int
    key_version: int


class Stripe(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A segment to prove: its form, who was seen to hold what, what is said to be in it."""

    segment: bytes
    data: int
    parity: int
    segment_length: int
    holders: tuple[tuple[int, int], ...]
    """`(node, fragment index)`."""
    extents: tuple[Chunk, ...] = ()
    entries: tuple[Chunk, ...] = ()
    """Of the dedupe index."""


class ProveStripes(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Read every fragment of these segments, wherever they are, and check that all agree.

    With `repair` what is missing or wrong is written anew, on whichever node it belongs to.
    """

    stripes: tuple[Stripe, ...]
    repair: bool = True


class ProveReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What was read and found."""

    bytes_read: int
    findings: tuple[Finding, ...] = ()


class ListEntries(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """List the segments that this node's dedupe entries point to, in order after `after`."""

    after: bytes = b""
    limit: int = 1000


class SegmentEntries(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The dedupe entries of one segment."""

    segment: bytes
    chunks: tuple[Chunk, ...]


class ListEntriesReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A page of them."""

    segments: tuple[SegmentEntries, ...]
    end: bool


class ForgetEntries(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Drop the dedupe entries of these segments here: they do not say the truth."""

    segments: tuple[bytes, ...]


class ReportFindings(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Tell the root group what was found; the same key again updates what is known."""

    findings: tuple[Finding, ...]


class DigestOf(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask a metadata node for the state digests of its replica of a group.

    With `recount` it also reads every record it has on disk and compares; with `log` it reads its
    write-ahead log. Raises NotFound when it has no such replica.
    """

    group: int
    recount: bool = False
    log: bool = False
    mend: bool = False
    """A damaged log is written anew from memory."""


class DigestReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Digests by applied index, the latest ones, and what is wrong with what is on disk."""

    digests: dict[int, bytes]
    applied: int
    term: int
    damage: str = ""
    log_damage: str = ""
    log_mended: bool = False


class RebuildReplica(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Have a metadata node throw a replica's state away and take it from its peers."""

    group: int
