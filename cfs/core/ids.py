"""Identifiers: what each number names and how it is laid out.

Inode number, 64 bits, top bit zero so that it fits every signed interface:

    bits 62..59  site    (16 sites)
    bits 58..47  shard   (4,096 shards)
    bits 46..0   serial  (per shard, never reused)

The root directory is inode 1: site 0, shard 0, serial 1. Segment id, 16 bytes: session (u64 big
endian) then sequence (u64 big endian); a session never reuses a sequence, the root group never
reuses a session, so a segment id is used once. Raft group 0 is the root group; shard *s* is Raft
group *s + 1*.
"""

from __future__ import annotations

from typing import NewType

Ino = NewType("Ino", int)
ShardId = NewType("ShardId", int)
SiteId = NewType("SiteId", int)
GroupId = NewType("GroupId", int)
NodeId = NewType("NodeId", int)
SessionId = NewType("SessionId", int)
SegmentId = NewType("SegmentId", bytes)
ChunkId = NewType("ChunkId", bytes)
PlacementGroupId = NewType("PlacementGroupId", int)

SITE_BITS = 4
SHARD_BITS = 12
SERIAL_BITS = 47
SHARD_COUNT_MAX = 1 << SHARD_BITS
SERIAL_MAX = (1 << SERIAL_BITS) - 1
SEGMENT_ID_BYTES = 16
CHUNK_ID_BYTES = 32

ROOT_INO = Ino(1)
ROOT_GROUP = GroupId(0)

_SHARD_MASK = SHARD_COUNT_MAX - 1


def make_ino(site: SiteId, shard: ShardId, serial: int) -> Ino:
    """Pack an inode number; `serial` counts from 1 within its shard."""
    assert 0 < serial <= SERIAL_MAX
    assert 0 <= shard < SHARD_COUNT_MAX
    return Ino(site << (SHARD_BITS + SERIAL_BITS) | shard << SERIAL_BITS | serial)


def shard_of(ino: Ino) -> ShardId:
    """Name the shard that owns an inode: routing needs no lookup."""
    return ShardId(ino >> SERIAL_BITS & _SHARD_MASK)


def serial_of(ino: Ino) -> int:
    """Give the per-shard serial of an inode."""
    return ino & SERIAL_MAX


def group_of(shard: ShardId) -> GroupId:
    """Name the Raft group that replicates a shard."""
    return GroupId(shard + 1)


def shard_of_group(group: GroupId) -> ShardId:
    """Name the shard that a Raft group replicates; the root group has none."""
    assert group > 0
    return ShardId(group - 1)


def make_segment_id(session: SessionId, sequence: int) -> SegmentId:
    """Pack a segment id from its writer's session and that session's sequence number."""
    return SegmentId(session.to_bytes(8, "big") + sequence.to_bytes(8, "big"))


def session_of_segment(segment: SegmentId) -> SessionId:
    """Name the session that wrote a segment."""
    return SessionId(int.from_bytes(segment[:8], "big"))


def sequence_of_segment(segment: SegmentId) -> int:
    """Give a segment's sequence number within its writer's session."""
    return int.from_bytes(segment[8:], "big")
