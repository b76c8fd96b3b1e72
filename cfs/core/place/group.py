"""Which placement group a segment belongs to. The rule never changes: stored segments obey it."""

from __future__ import annotations

from hashlib import blake2b

from cfs.core.ids import PlacementGroupId, SegmentId


def placement_group_of(segment: SegmentId, group_count: int) -> PlacementGroupId:
    """Name the group of a segment: an even hash of its id over `group_count` groups."""
    assert group_count > 0
    return PlacementGroupId(
        int.from_bytes(blake2b(segment, digest_size=8).digest(), "big") % group_count
    )
