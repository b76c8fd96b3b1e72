"""Messages to a storage node: fragments by segment id and index, and its part of the dedupe index.

A storage node sees only sealed bytes. A fragment is immutable: putting the same bytes again is a
success, other bytes under the same name are refused.
"""

from __future__ import annotations

import msgspec


class PutFragment(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Store the payload as fragment `index` of `segment`; durable when answered.

    Raises NoSpace, StaleEpoch (not a member of the placement group at this epoch), Malformed.
    """

    segment: bytes
    index: int
    data: int
    parity: int
    segment_length: int
    raw_bytes: int = 0
    """Plain bytes of the segment's chunks: counted once per segment, for the reduction figures."""
    sealed_bytes: int = 0
    repair: bool = False
    """Written by repair, compaction or packing: may use part of the reserve."""
    replace: bool = False
    """Proven right by the scrubber: takes the place of whatever is stored under this name. Only
    from storage nodes."""
    epoch: int = 0
    """Of the map whose placement list was followed; 0 for repair, which follows none."""


class GetFragment(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Read `[offset, offset + length)` of a fragment (`length` 0: to its end).

    The answer's payload is the bytes, checked against the stored checksums. `index` -1: whichever
    this node has.

    Raises NotFound, Corrupt (counted; reconstruct from the others).
    """

    segment: bytes
    index: int
    offset: int = 0
    length: int = 0


class FragmentInfo(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a stored fragment is."""

    segment: bytes
    index: int
    data: int
    parity: int
    segment_length: int
    length: int
    """Bytes of the fragment."""
    age_s: int = 0
    """Seconds since it was written here."""


class DeleteSegments(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Delete every fragment of these segments here, and dedupe entries that point to them.

    Only the collector calls it, after `round_number` stood in every shard.
    """

    segments: tuple[bytes, ...]
    round_number: int


class ListFragments(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """List fragments in order after `(after, after_index)`, `limit` at most."""

    after: bytes = b""
    after_index: int = 0
    limit: int = 1000
    age_min_s: int = 0


class ListFragmentsReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A page of fragments."""

    fragments: tuple[FragmentInfo, ...]
    end: bool


class ChunkRef(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Where a sealed chunk is. Fields as in `meta.Extent`."""

    chunk_id: bytes
    segment: bytes
    data: int
    parity: int
    segment_length: int
    at: int
    stored: int
    raw: int
    key_version: int


class FindChunks(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Look chunks up in this node's part of the dedupe index. Best effort."""

    chunk_ids: tuple[bytes, ...]


class FindChunksReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One answer a chunk id, in order."""

    refs: tuple[ChunkRef | None, ...]


class PublishChunks(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Add entries to the dedupe index: only for chunks whose segment is wholly durable."""

    refs: tuple[ChunkRef, ...]


class DiskStat(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One disk of a storage node. Bytes."""

    name: str
    disk_id: bytes
    device: str
    """The same for every directory on the same file system, whichever node it belongs to."""
    size: int
    free: int
    """Above the reserve."""
    reserve: int
    usable: bool = True
    """False: it failed and takes no changes."""


class StoreStat(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """State and counters of a storage node; all bytes unless the name says otherwise."""

    capacity: int = 0
    free: int = 0
    """What new fragments may still take (above the reserve)."""
    fragments: int = 0
    stored: int = 0
    """Live fragment records, headers included."""
    allocated: int = 0
    """Blocks the volume logs occupy on disk."""
    index_bytes: int = 0
    raw_bytes: int = 0
    """Plain bytes of segments whose first fragment is here.

    Their sum over nodes is the deduplicated total.
    """
    sealed_bytes: int = 0
    """Sealed bytes of the same segments: the compressed total."""
    corrupt_reads: int = 0
    """Reads refused because a checksum did not match, since the node was made."""
    full: bool = False
    warnings: tuple[str, ...] = ()
    scrub_done_ms: int = 0
    """Wall clock when every fragment here had last been verified at rest; 0: not yet."""
    scrub_bytes: int = 0
    """Verified in the pass under way."""
    scrub_passes: int = 0
    scrub_damaged: int = 0
    """Fragments found damaged at rest, since the node was made."""
    scrub_repaired: int = 0
    disks: tuple[DiskStat, ...] = ()
    queued_bytes: int = 0
    """What waits for the disks."""
