"""Every bound of the client, in one place, with its reason."""

from __future__ import annotations

import msgspec

MIB = 1 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one client; bytes unless the name says otherwise."""

    patience_s: float = 60.0
    """An operation is retried this long, then fails with ETIMEDOUT: longer than any failover."""
    attempt_s: float = 4.0
    """One call to one node: a dead node that sends no reset is left after that."""
    batch_ops: int = 128
    """Operations in one Mutate: one Raft entry stays well below a frame."""
    batch_bytes: int = 1 * MIB
    """Inline bytes in one Mutate."""
    linger_s: float = 0.02
    """Operations already shown as done gather this long: far below the flush timer."""
    queue_ops: int = 2_048
    """Operations shown as done and not answered yet; those who issue more wait."""
    delegate: bool = True
    """Take delegations."""
    delegated: int = 4_096
    """Directories, links and special files whose WRITE lease is kept: each is a record."""
    delegate_entries: int = 4_096
    """A directory is listed to be delegated if it has no more entries, or few for its use."""
    delegate_pause_s: float = 2.0
    """A directory recalled is not delegated again for so long; twice, four times... if again."""
    delegate_pause_max_s: float = 64.0
    inos: int = 1_024
    """Inode numbers reserved at once in a shard."""
    in_flight: int = 8
    """Mutates of one lane on their way while an earlier one waits for somebody's recall."""
    stall_s: float = 0.03
    """A Mutate older than this waits for a recall: those behind it go past it."""
    nodes: int = 16_384
    """Inodes cached, each with a lease the server must track; some 6 KB each with all they hold."""
    entries: int = 163_840
    """Directory entries cached, absent names included (about 200 bytes each): `rm -r` and `find`
    read 100,000 of a directory before they do something about them."""
    entries_unfolded: int = 8_192
    """Of a large delegated directory: more than `queue_ops` operations, of two names each, name."""
    writable: int = 4_096
    """Closed files whose WRITE lease is kept: each is a record in the shard."""
    dirty: int = 64 * MIB
    """Written, not committed, over all files; writers wait above."""
    write: int = 1 * MIB
    """One write of a gateway."""
    landing_spare: int = 16 * MIB
    """Slabs that writes land in, beside `dirty`: the open one, and one half committed."""
    flush_at: int = 8 * MIB
    """A file this dirty is flushed at once, so that upload and writing overlap."""
    flush_every_s: float = 0.25
    """The flush timer: dirty bytes are committed within twice this and a round trip."""
    flush_age_s: float = 0.5
    """Dirty bytes older than this are flushed by the timer."""
    flushes: int = 16
    """Files flushed at one time."""
    inline: int = 16_384
    """A file, or a synced write, up to this long travels in the Raft entry."""
    lock_waiters: int = 1_024
    """Blocking locks waited for at once: each is a task here and at the leader."""
    layout: int = 64 * MIB
    """Extents asked for in one request cover this much of the file."""
    readahead_min: int = 4 * MIB
    readahead_max: int = 16 * MIB
    """Window ahead of a sequential reader."""
    space_age_s: float = 1.0
    """Free space older than this is asked for again."""
    space_margin: int = 32 * MIB
    """Kept free beside dirty bytes: what other clients write between two looks."""
