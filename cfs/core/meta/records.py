"""Records of a shard: what each value holds, byte for byte.

    byte 0      version of the record (1)
    bytes 1..4  since, u32 big endian: the shard's history epoch when this version became current
    bytes 5..   msgpack array of the record's fields, in the order of its class below

New fields go last with a default; a change that defaults cannot express raises the version and
adds a step to `migrate`, so a stored record of any age can be read.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from cfs.core.api.meta import Attr
from cfs.core.errors import Corrupt

VERSION = 1
HEAD_BYTES = 5

RecordT = TypeVar("RecordT")
_encode = msgspec.msgpack.Encoder().encode


class Inode(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """All of `Attr` but its number, and what only the shard knows.

    A directory's `size` is the number of its entries, its `nlink` 2 and one per subdirectory.
    """

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int = 0
    size: int = 0
    allocated: int = 0
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    generation: int
    version: int = 1
    data_version: int = 1
    parent: int = 0
    target: bytes = b""
    project: int = 0
    flags: int = 0
    """Bits; see `links`."""
    hlc: int = 0
    """Hybrid logical stamp of the last change."""
    doomed: int = 0
    """Pages that start in `[size, doomed)` are no part of the file, but still allocated; see
    `trimming`."""
    acl: bytes = b""
    default_acl: bytes = b""
    """Access lists; see `acl`."""
    trashed: int = 0
    """Stamp of its record in the trash; 0: it is not there."""
    charged: int = 0
    """A file: the size it was promised room for; see `quota`."""

    def attr(self, ino: int) -> Attr:
        """Show the inode as `stat` does."""
        return Attr(
            ino=ino,
            mode=self.mode,
            nlink=self.nlink,
            uid=self.uid,
            gid=self.gid,
            rdev=self.rdev,
            size=self.size,
            allocated=min(self.allocated, self.size) if self.doomed else self.allocated,
            atime_ns=self.atime_ns,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.ctime_ns,
            btime_ns=self.btime_ns,
            generation=self.generation,
            version=self.version,
            data_version=self.data_version,
            parent=self.parent,
            target=self.target,
            acl=self.acl,
            default_acl=self.default_acl,
            project=self.project,
            charged=self.charged,
        )


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """A name in its place among those of the same hash; places are never moved."""

    slot: int
    name: bytes
    ino: int
    kind: int


class Entries(msgspec.Struct, frozen=True, array_like=True):
    """The names of one hash, by slot."""

    slots: tuple[Slot, ...]


class SegmentRef(msgspec.Struct, frozen=True, array_like=True):
    """A segment as the tiles of a page refer to it, by its index."""

    segment: bytes
    data: int
    parity: int
    segment_length: int


class Tile(msgspec.Struct, frozen=True, array_like=True):
    """An extent in its page; its offset is the sum of the lengths before it."""

    length: int
    kind: int = 0
    chunk_id: bytes = b""
    raw: int = 0
    skip: int = 0
    key_version: int = 0
    ref: int = 0
    at: int = 0
    stored: int = 0
    inline_id: int = 0


class Page(msgspec.Struct, frozen=True, array_like=True):
    """Up to 64 consecutive extents; at most about 8 KiB."""

    segments: tuple[SegmentRef, ...]
    tiles: tuple[Tile, ...]


class Inline(msgspec.Struct, frozen=True, array_like=True):
    """A sealed chunk kept in the shard."""

    sealed: bytes
    chunk_id: bytes
    raw: int
    key_version: int


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How many extents refer to an inline chunk, and the range of the file they lie in."""

    refs: int
    stored: int
    offset: int
    length: int


class Count(msgspec.Struct, frozen=True, array_like=True):
    """Extents of one bucket that refer to one segment."""

    extents: int


class Xattr(msgspec.Struct, frozen=True, array_like=True):
    """The value of an extended attribute."""

    value: bytes


class Session(msgspec.Struct, frozen=True, array_like=True):
    """A client session: open or expired, and how far its operations are applied."""

    name: str
    open: bool
    opened_hlc: int
    applied: int
    acked: int
    """Answers below are forgotten."""


class Holder(msgspec.Struct, frozen=True, array_like=True):
    """Who holds a WRITE lease."""

    session: int


class Range(msgspec.Struct, frozen=True, array_like=True):
    """A locked range, both ends in it; see `LockKind`."""

    start: int
    end: int
    kind: int
    pid: int


class Ranges(msgspec.Struct, frozen=True, array_like=True):
    """What one owner has locked of a file, in order, disjoint."""

    ranges: tuple[Range, ...]


class Present(msgspec.Struct, frozen=True, array_like=True):
    """A record whose key says it all; `hlc` is when it came."""

    hlc: int


class Lock(msgspec.Struct, frozen=True, array_like=True):
    """A transaction's hold on a name or inode; a `shut` directory takes no new entries."""

    txid: bytes
    coordinator: int
    shut: bool = False


class Pin(msgspec.Struct, frozen=True, array_like=True):
    """A transaction's hold on a directory's existence; with `stay` also on its parent."""

    txid: bytes
    coordinator: int
    stay: bool


class Pins(msgspec.Struct, frozen=True, array_like=True):
    """All pins of one directory."""

    pins: tuple[Pin, ...]


class Condemnation(msgspec.Struct, frozen=True, array_like=True):
    """The round that condemned a segment."""

    round: int


class Deleted(msgspec.Struct, frozen=True, array_like=True):
    """The last sequence of a range of deleted segments."""

    last: int


class Trim(msgspec.Struct, frozen=True, array_like=True):
    """Versions that ended below `end` are looked through for a deleted snapshot, `after` a key."""

    end: int
    after: bytes


class Trashed(msgspec.Struct, frozen=True, array_like=True):
    """The last name of what lies in the trash, and the directory it was in."""

    parent: int
    name: bytes


class Usage(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a tree, user or group uses in this shard, and its part of the limits (-1: none)."""

    bytes: int = 0
    inodes: int = 0
    held: int = 0
    """Bytes promised to files beyond their size."""
    promised: int = 0
    """Inodes promised to transactions."""
    cap_bytes: int = -1
    cap_inodes: int = -1


class State(msgspec.Struct, array_like=True, kw_only=True):
    """The shard's own counters; the only record changed in place, by the draft that owns it."""

    serial: int = 0
    """Last inode serial given."""
    epoch: int = 0
    """History epoch: what `since` of new versions is."""
    hlc: int = 0
    """Hybrid logical clock, nanoseconds; never goes back, no two operations share a stamp."""
    inodes: int = 0
    logical_bytes: int = 0
    inline_bytes: int = 0
    locks: int = 0
    """Names and inodes locked, directories pinned, the rename lock: 0 spares every look."""
    condemned: int = 0
    deleted: int = 0
    """Ranges of deleted segments."""
    round_closed: int = 0
    """Highest round withdrawn or collected; rounds follow one another."""
    changes: int = 0
    """Operations that took effect."""
    doomed: int = 0
    """Files with doomed pages; while there are any, every entry trims some."""
    file_locks: int = 0
    """Owners with locks on files, once a file: 0 spares every look."""
    snapshots: tuple[int, ...] = ()
    """Epochs of the snapshots, oldest first; see `versions`."""
    versions: int = 0
    """Values kept for snapshots."""
    trims: int = 0
    """Deleted snapshots that are still to be trimmed."""
    trash_s: int = 0
    """How long what loses its last name stays in the trash; 0: it goes at once."""
    trashed: int = 0
    """Inodes in the trash."""
    counted: int = 0
    """Inodes up to this number count in their quotas."""
    limits: int = 0
    """Version of the set of what is limited; 0: nothing ever was."""
    quota_term: int = 0
    """Term of the root group whose leader last set caps; of older ones none is taken."""


class Codec(Generic[RecordT]):
    """Encodes and decodes one type of record."""

    def __init__(self, type_: type[RecordT]) -> None:
        self._decode = msgspec.msgpack.Decoder(type_).decode
        self._name = type_.__name__

    def encode(self, record: RecordT, since: int) -> bytes:
        """Give the stored value; `since` is the shard's history epoch."""
        return b"\x01" + since.to_bytes(4, "big") + _encode(record)

    def decode(self, value: bytes) -> RecordT:
        """Read a stored value of any version. Raises `Corrupt`."""
        try:
            if value[0] != VERSION:
                value = migrate(self._name, value)
            return self._decode(value[HEAD_BYTES:])
        except (IndexError, msgspec.DecodeError) as error:
            raise Corrupt(f"{self._name} record does not decode: {error}") from error


def since_of(value: bytes) -> int:
    """Give the history epoch at which a stored value became current."""
    return int.from_bytes(value[1:HEAD_BYTES], "big")


def migrate(name: str, value: bytes) -> bytes:
    """Bring a stored value to the present version: one step a version. Raises `Corrupt`.

    Version 1 is the first, so any other is damage or a newer release's.
    """
    raise Corrupt(f"{name} record has version {value[0]}, this release knows {VERSION}")


INODE = Codec(Inode)
ENTRIES = Codec(Entries)
PAGE = Codec(Page)
INLINE = Codec(Inline)
MARK = Codec(Mark)
COUNT = Codec(Count)
XATTR = Codec(Xattr)
SESSION = Codec(Session)
HOLDER = Codec(Holder)
RANGES = Codec(Ranges)
PRESENT = Codec(Present)
LOCK = Codec(Lock)
PINS = Codec(Pins)
CONDEMNATION = Codec(Condemnation)
DELETED = Codec(Deleted)
TRIM = Codec(Trim)
TRASHED = Codec(Trashed)
USAGE = Codec(Usage)
STATE = Codec(State)
