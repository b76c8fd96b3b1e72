"""Keys of a shard's records: one byte of kind, then big-endian fields, so order is numeric.

    i ino8                          inode
    d parent8 hash8                 directory entries whose names share hash58
    e ino8 offset8                  page of extents that starts at this file offset
    b ino8 inline8                  sealed bytes kept in the shard
    n inline8 ino8                  mark of an inline chunk; `inline` is the stamp of its commit
    r segment16 ino8 bucket5        count of extents with `offset >> 26 == bucket` in the segment
    z segment16                     segment without any reference here: the collector's input
    x ino8 name                     extended attribute
    s session8                      session
    a session8 seq8                 answer to a session's operation
    w ino8                          who holds the WRITE lease
    W session8 ino8                 the same, by session
    k ino8 flavour1 session8 owner8 what one owner has locked of a file
    K session8 ino8 flavour1 owner8 the same, by session
    o ino8                          orphan: nlink 0, to be reclaimed
    u ino8                          file with doomed pages
    t txid                          intent, or the memory of a finished transaction
    T txid                          decision, at the coordinator
    l n parent8 name                lock of a name
    l i ino8                        lock of an inode
    l p ino8                        pins of a directory
    l R                             the cluster's directory rename lock (shard 0)
    c segment16                     condemned segment
    D session8 first8               deleted segments `first..last` of a session
    h key until4, H until4 key      what a key was before; see `versions`
    N inline8 ino8                  how many tiles of kept pages refer to an inline chunk
    y stamp8 ino8                   what lies in the trash, oldest first; see `trash`
    q kind1 id8                     what a tree, user or group uses; see `quota`
    g epoch4                        deleted snapshot whose versions are still to be trimmed
    m                               the shard's own state

The bucket has five bytes because file offsets reach 2^63. A name's hash is the first 58 bits of
BLAKE2b-64; its cookie is `(hash58 << 4 | slot) + 3`: above the reserved 0 (start), 1 (`.`) and
2 (`..`), below 2^63.
"""

from __future__ import annotations

from hashlib import blake2b

BUCKET_SHIFT = 26
BUCKET_BYTES = 5
KEPT = 1 << 39
"""Set in the bucket of references by pages that only snapshots show."""
SLOTS_MAX = 16
COOKIE_FIRST = 3
OFFSET_MAX = (1 << 63) - 1

STATE = b"m"
RENAME_LOCK = b"lR"


def u64(number: int) -> bytes:
    """Encode a field."""
    return number.to_bytes(8, "big")


def number_at(key: bytes, at: int) -> int:
    """Decode the field at byte `at`."""
    return int.from_bytes(key[at : at + 8], "big")


def inode(ino: int) -> bytes:
    """Key of an inode."""
    return b"i" + ino.to_bytes(8, "big")


def name_hash(name: bytes) -> int:
    """Give the 58 bits that order a directory."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 6


def entries(parent: int, hash58: int) -> bytes:
    """Key of the entries of one hash."""
    return b"d" + parent.to_bytes(8, "big") + hash58.to_bytes(8, "big")


def entries_range(parent: int, hash58: int = 0) -> tuple[bytes, bytes]:
    """Range of a directory's entries from a hash on."""
    return entries(parent, hash58), b"d" + u64(parent) + b"\xff"


def cookie(hash58: int, slot: int) -> int:
    """Give where a listing continues after this entry."""
    return (hash58 << 4 | slot) + COOKIE_FIRST


def page(ino: int, offset: int) -> bytes:
    """Key of the page that starts at `offset`."""
    return b"e" + ino.to_bytes(8, "big") + offset.to_bytes(8, "big")


def inline(ino: int, inline_id: int) -> bytes:
    """Key of sealed bytes."""
    return b"b" + ino.to_bytes(8, "big") + inline_id.to_bytes(8, "big")


def mark(inline_id: int, ino: int) -> bytes:
    """Key of an inline chunk's mark."""
    return b"n" + inline_id.to_bytes(8, "big") + ino.to_bytes(8, "big")


def reference(segment: bytes, ino: int, bucket: int) -> bytes:
    """Key of a reverse reference."""
    return b"r" + segment + ino.to_bytes(8, "big") + bucket.to_bytes(BUCKET_BYTES, "big")


def references_range(segment: bytes) -> tuple[bytes, bytes]:
    """Range of a segment's reverse references."""
    start = b"r" + segment
    return start, start + b"\xff" * (8 + BUCKET_BYTES + 1)


def candidate(segment: bytes) -> bytes:
    """Key of a segment nothing here refers to any more."""
    return b"z" + segment


def xattr(ino: int, name: bytes) -> bytes:
    """Key of an extended attribute."""
    return b"x" + ino.to_bytes(8, "big") + name


def xattrs_range(ino: int) -> tuple[bytes, bytes]:
    """Range of an inode's extended attributes."""
    return xattr(ino, b""), b"x" + u64(ino + 1)


def session(session_id: int) -> bytes:
    """Key of a session."""
    return b"s" + session_id.to_bytes(8, "big")


def answer(session_id: int, seq: int) -> bytes:
    """Key of an answer."""
    return b"a" + session_id.to_bytes(8, "big") + seq.to_bytes(8, "big")


def lease(ino: int) -> bytes:
    """Key of a WRITE lease."""
    return b"w" + ino.to_bytes(8, "big")


def lease_of(session_id: int, ino: int) -> bytes:
    """Key of a WRITE lease, by session."""
    return b"W" + session_id.to_bytes(8, "big") + ino.to_bytes(8, "big")


def leases_range(session_id: int) -> tuple[bytes, bytes]:
    """Range of a session's WRITE leases."""
    return lease_of(session_id, 0), b"W" + u64(session_id) + b"\xff" * 9


def file_lock(ino: int, session_id: int, owner: int, *, flock: bool) -> bytes:
    """Key of an owner's locks on a file."""
    return file_locks(ino, flock=flock) + u64(session_id) + u64(owner)


def file_locks(ino: int, *, flock: bool) -> bytes:
    """Prefix of the locks of one flavour on a file."""
    return b"k" + ino.to_bytes(8, "big") + (b"\1" if flock else b"\0")


def file_lock_of(session_id: int, ino: int, owner: int, *, flock: bool) -> bytes:
    """Key of an owner's locks on a file, by session."""
    return b"K" + u64(session_id) + u64(ino) + (b"\1" if flock else b"\0") + u64(owner)


def orphan(ino: int) -> bytes:
    """Key of an orphan."""
    return b"o" + ino.to_bytes(8, "big")


def doomed(ino: int) -> bytes:
    """Key of a file with doomed pages."""
    return b"u" + ino.to_bytes(8, "big")


def intent(txid: bytes) -> bytes:
    """Key of a transaction's part in this shard."""
    return b"t" + txid


def decision(txid: bytes) -> bytes:
    """Key of a coordinator's decision."""
    return b"T" + txid


def name_lock(parent: int, name: bytes) -> bytes:
    """Key of the lock of a name."""
    return b"ln" + parent.to_bytes(8, "big") + name


def ino_lock(ino: int) -> bytes:
    """Key of the lock of an inode."""
    return b"li" + ino.to_bytes(8, "big")


def pins(ino: int) -> bytes:
    """Key of the pins of a directory."""
    return b"lp" + ino.to_bytes(8, "big")


def condemned(segment: bytes) -> bytes:
    """Key of a condemned segment."""
    return b"c" + segment


def deleted(session_id: int, first: int) -> bytes:
    """Key of a range of deleted segments."""
    return b"D" + session_id.to_bytes(8, "big") + first.to_bytes(8, "big")


def version(key: bytes, until: int) -> bytes:
    """Key of what `key` was until an epoch."""
    return b"h" + key + until.to_bytes(4, "big")


def of_version(found: bytes) -> tuple[bytes, int]:
    """Give what `version` was made of."""
    return found[1:-4], int.from_bytes(found[-4:], "big")


def version_ended(until: int, key: bytes) -> bytes:
    """Key of the same, by when it ended."""
    return b"H" + until.to_bytes(4, "big") + key


def trashed(stamp: int, ino: int) -> bytes:
    """Key of what lies in the trash since a stamp of the shard's clock."""
    return b"y" + stamp.to_bytes(8, "big") + ino.to_bytes(8, "big")


def usage(kind: int, number: int) -> bytes:
    """Key of what a tree, user or group uses."""
    return b"q" + kind.to_bytes(1, "big") + number.to_bytes(8, "big")


def kept_inline(inline_id: int, ino: int) -> bytes:
    """Key of how often kept pages refer to an inline chunk."""
    return b"N" + inline_id.to_bytes(8, "big") + ino.to_bytes(8, "big")


def trim(epoch: int) -> bytes:
    """Key of a deleted snapshot that is still to be trimmed."""
    return b"g" + epoch.to_bytes(4, "big")


def epoch_at(key: bytes, at: int) -> int:
    """Decode the epoch at byte `at`."""
    return int.from_bytes(key[at : at + 4], "big")
