"""Reads of a shard: pure functions on a `Reader`, no mutation, no locks taken.

A reader that must not see a state in doubt asks `locked` first: what a prepared transaction will
change may already be decided elsewhere.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator

import msgspec

from cfs.core.api.meta import Attr, Entry, Extent, ExtentKind
from cfs.core.errors import Corrupt, FsError
from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import (
    collection,
    conflict,
    entries,
    file_locks,
    intents,
    keys,
    leases,
    locks,
    pages,
)
from cfs.core.meta import sessions as _sessions
from cfs.core.meta.records import (
    CONDEMNATION,
    ENTRIES,
    INLINE,
    INODE,
    SESSION,
    STATE,
    XATTR,
    Inline,
    Inode,
    Session,
    Slot,
    State,
)

_EXTENT_BYTES = 160
"""What an extent weighs in a reply, beside inline bytes; an upper bound."""

answer = _sessions.answer
write_lease = leases.holder
locks_in_the_way = file_locks.in_the_way


class InlineCandidate(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An inline chunk the packer may take; `inline_id` is the stamp of its commit, ns."""

    ino: int
    inline_id: int
    sealed: bytes
    chunk_id: bytes
    raw: int
    key_version: int


class OpenTransaction(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What this shard remembers of a transaction; `hlc` is when it came to this, ns.

    `phase` None: only a decision is here. `decided` None: only a part is.
    """

    txid: bytes
    phase: intents.Phase | None
    coordinator: int
    decided: bool | None
    hlc: int
    inos: tuple[int, ...] = ()
    """Inodes that a part in doubt will change here."""
    token: int = 0
    """Of a part in doubt: what its finish must name."""


def inode(kv: Reader, ino: int) -> Inode | None:
    """Give an inode record."""
    value = kv.get(keys.inode(ino))
    return None if value is None else INODE.decode(value)


def attr(kv: Reader, ino: int) -> Attr:
    """Give attributes. Raises ENOENT."""
    found = inode(kv, ino)
    if found is None:
        raise FsError(errno.ENOENT, f"inode {ino} does not exist")
    return found.attr(ino)


def lookup(kv: Reader, parent: int, name: bytes) -> Entry | None:
    """Find a name. Raises ENOENT or ENOTDIR for the directory, ENAMETOOLONG."""
    _directory(kv, parent)
    if len(name) > entries.NAME_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG, f"name has {len(name)} bytes")
    slot = entries.find(kv, parent, name)
    return None if slot is None else _entry(kv, keys.name_hash(name), slot)


def listing(kv: Reader, ino: int, cookie: int, limit: int) -> tuple[tuple[Entry, ...], bool]:
    """List up to `limit` entries after `cookie`; the flag says that none is left.

    A removed directory is empty. Raises ENOENT, ENOTDIR.
    """
    _directory(kv, ino)
    position = cookie - keys.COOKIE_FIRST
    first, after = (position >> 4, position & 15) if position >= 0 else (0, -1)
    found: list[Entry] = []
    for key, value in kv.scan(*keys.entries_range(ino, first)):
        hash58 = keys.number_at(key, 9)
        for slot in ENTRIES.decode(value).slots:
            if hash58 == first and slot.slot <= after:
                continue
            if len(found) >= limit:
                return tuple(found), False
            found.append(_entry(kv, hash58, slot))
    return tuple(found), True


def layout(
    kv: Reader, ino: int, offset: int, length: int, bytes_max: int
) -> tuple[tuple[Extent, ...], int]:
    """Give whole extents that overlap `[offset, offset + length)`, sealed inline bytes included.

    The reply weighs about `bytes_max` at most, but for one extent that is always given. The second
    value is how far it reaches: below `offset + length` only where the bound cut it off.
    Raises ENOENT, Corrupt when the extents do not tile the file: some were made absent by damage.
    """
    found: list[Extent] = []
    weight = 0
    stop = min(offset + length, attr(kv, ino).size)
    reached = -1
    for extent in pages.read(kv, ino, offset, stop):
        if extent.offset > offset if reached < 0 else extent.offset != reached:
            break
        reached = extent.offset + extent.length
        weight += _EXTENT_BYTES + (extent.stored if extent.kind is ExtentKind.INLINE else 0)
        if found and weight > bytes_max:
            return tuple(found), extent.offset
        found.append(_with_inline(kv, ino, extent))
    if reached < stop and offset < stop:
        raise Corrupt(f"the extents of inode {ino} do not tile it at {max(offset, reached)}")
    reach = found[-1].offset + found[-1].length if found else 0
    return tuple(found), max(reach, offset + length)


def xattr(kv: Reader, ino: int, name: bytes) -> bytes:
    """Give the value of an extended attribute. Raises ENOENT, ENODATA."""
    if kv.get(keys.inode(ino)) is None:
        raise FsError(errno.ENOENT, f"inode {ino} does not exist")
    value = kv.get(keys.xattr(ino, name)) if len(name) <= entries.NAME_BYTES_MAX else None
    if value is None:
        raise FsError(errno.ENODATA, f"inode {ino} has no xattr {name!r}")
    return XATTR.decode(value).value


def xattr_names(kv: Reader, ino: int) -> tuple[bytes, ...]:
    """List the names of extended attributes. Raises ENOENT."""
    if kv.get(keys.inode(ino)) is None:
        raise FsError(errno.ENOENT, f"inode {ino} does not exist")
    return tuple(key[9:] for key, _ in kv.scan(*keys.xattrs_range(ino)))


def totals(kv: Reader) -> State:
    """Give the shard's counters; treat as read-only."""
    value = kv.get(keys.STATE)
    return State() if value is None else STATE.decode(value)


def locked(kv: Reader, what: int | tuple[int, bytes]) -> tuple[bytes, int] | None:
    """Give `(txid, coordinator)` of a transaction in doubt about an inode, or `(parent, name)`.

    A directory in which a name is in doubt is in doubt itself: its times and links will change.
    """
    if isinstance(what, tuple):
        lock = locks.held(kv, keys.name_lock(*what))
        return None if lock is None else (lock.txid, lock.coordinator)
    lock = locks.held(kv, keys.ino_lock(what))
    if lock is not None:
        return lock.txid, lock.coordinator
    for pin in locks.pins_of(kv, what):
        if not pin.stay:
            return pin.txid, pin.coordinator
    return None


def orphans(kv: Reader, after: int, limit: int) -> tuple[int, ...]:
    """List orphans with a number above `after`."""
    return tuple(_numbers(kv, b"o", after, limit))


def sessions(kv: Reader) -> dict[int, Session]:
    """Give every session, expired ones too."""
    return {
        keys.number_at(key, 1): SESSION.decode(value)
        for key, value in kv.scan(b"s", prefix_end(b"s"))
    }


def session(kv: Reader, session_id: int) -> Session | None:
    """Give one session."""
    return _sessions.find(kv, session_id)


def leases_of(kv: Reader, session: int) -> tuple[int, ...]:
    """List the inodes a session holds WRITE on."""
    return tuple(leases.held_by(kv, session))


def write_leases(kv: Reader, limit: int) -> tuple[int, ...]:
    """List inodes on which any session holds WRITE."""
    return tuple(_numbers(kv, b"w", -1, limit))


def inline_candidates(kv: Reader, older_than_ns: int, limit: int) -> tuple[InlineCandidate, ...]:
    """List inline chunks committed before `older_than_ns`, oldest first."""
    found: list[InlineCandidate] = []
    for key, _ in kv.scan(b"n", keys.mark(older_than_ns, 0)):
        if len(found) >= limit:
            break
        inline_id, ino = keys.number_at(key, 1), keys.number_at(key, 9)
        inline = _inline(kv, ino, inline_id)
        found.append(
            InlineCandidate(
                ino=ino,
                inline_id=inline_id,
                sealed=inline.sealed,
                chunk_id=inline.chunk_id,
                raw=inline.raw,
                key_version=inline.key_version,
            )
        )
    return tuple(found)


def candidates(kv: Reader, limit: int, after: bytes = b"") -> tuple[bytes, ...]:
    """List segments that lost their last reference here, in order after `after`."""
    found: list[bytes] = []
    start = b"z" + after + b"\0" if after else b"z"
    for key, _ in kv.scan(start, prefix_end(b"z")):
        if len(found) >= limit:
            break
        found.append(key[1:])
    return tuple(found)


def condemned(kv: Reader) -> dict[bytes, int]:
    """Give every condemned segment and its round."""
    return {
        key[1:]: CONDEMNATION.decode(value).round for key, value in kv.scan(b"c", prefix_end(b"c"))
    }


def standing(kv: Reader, number: int) -> int:
    """Count the segments a round condemns."""
    return collection.standing(kv, number).count


def is_deleted(kv: Reader, segment: bytes) -> bool:
    """Tell whether a segment is refused for ever."""
    return collection.is_deleted(kv, segment)


def references(kv: Reader, segment: bytes) -> int:
    """Count the extents that refer to a segment."""
    return collection.references(kv, segment)


def referrers(kv: Reader, segment: bytes) -> Iterator[tuple[int, Extent]]:
    """Yield every extent that refers to a segment, with its inode; of snapshots too."""
    for key, _ in kv.scan(*keys.references_range(segment)):
        ino = keys.number_at(key, 17)
        bucket = int.from_bytes(key[25:], "big")
        if bucket & keys.KEPT:
            for extent in _kept_extents(kv, ino):
                at = keys.KEPT | extent.offset >> keys.BUCKET_SHIFT
                if at == bucket and extent.segment == segment:
                    yield ino, extent
            continue
        start = bucket << keys.BUCKET_SHIFT
        stop = start + (1 << keys.BUCKET_SHIFT)
        for extent in pages.read(kv, ino, start, stop):
            if extent.segment == segment and extent.offset >= start:
                yield ino, extent


def _kept_extents(kv: Reader, ino: int) -> Iterator[Extent]:
    """Yield the extents of every page of a file that only snapshots show."""
    first, end = keys.version(keys.page(ino, 0), 0), keys.version(keys.page(ino + 1, 0), 0)
    for found, value in kv.scan(first, end):
        tiles: list[Extent] = []
        pages.decode_into(tiles, keys.number_at(keys.of_version(found)[0], 9), value)
        yield from tiles


def distinct_live(kv: Reader, segment: bytes) -> int:
    """Sum the sealed bytes of a segment's chunks that extents refer to, each chunk once."""
    return sum({e.at: e.stored for _, e in referrers(kv, segment)}.values())


def open_transactions(kv: Reader) -> tuple[OpenTransaction, ...]:
    """List everything remembered of transactions: parts in doubt or finished, and decisions."""
    found: dict[bytes, OpenTransaction] = {}
    for key, value in kv.scan(b"t", prefix_end(b"t")):
        part = intents.INTENT.decode(value)
        in_doubt = part.phase is intents.Phase.PREPARED
        found[key[1:]] = OpenTransaction(
            txid=key[1:],
            phase=part.phase,
            coordinator=part.coordinator,
            decided=None,
            hlc=part.hlc,
            inos=conflict.inos_of(part.steps) if in_doubt else (),
            token=part.hlc if in_doubt else 0,
        )
    for key, value in kv.scan(b"T", prefix_end(b"T")):
        decision = intents.DECISION.decode(value)
        part_here = found.get(key[1:])
        found[key[1:]] = OpenTransaction(
            txid=key[1:],
            phase=None if part_here is None else part_here.phase,
            coordinator=decision.coordinator,
            decided=decision.commit,
            hlc=decision.hlc,
            inos=() if part_here is None else part_here.inos,
            token=0 if part_here is None else part_here.token,
        )
    return tuple(found.values())


def _directory(kv: Reader, ino: int) -> Inode:
    found = inode(kv, ino)
    if found is None:
        raise FsError(errno.ENOENT, f"inode {ino} does not exist")
    if not stat.S_ISDIR(found.mode):
        raise FsError(errno.ENOTDIR, f"inode {ino} is not a directory")
    return found


def _entry(kv: Reader, hash58: int, slot: Slot) -> Entry:
    found = inode(kv, slot.ino)
    return Entry(
        name=slot.name,
        ino=slot.ino,
        kind=slot.kind,
        cookie=keys.cookie(hash58, slot.slot),
        attr=None if found is None else found.attr(slot.ino),
    )


def _with_inline(kv: Reader, ino: int, extent: Extent) -> Extent:
    if extent.kind is not ExtentKind.INLINE:
        return extent
    sealed = _inline(kv, ino, extent.inline_id).sealed
    return msgspec.structs.replace(extent, inline=sealed)


def _inline(kv: Reader, ino: int, inline_id: int) -> Inline:
    value = kv.get(keys.inline(ino, inline_id))
    if value is None:
        raise Corrupt(f"inline chunk {inline_id} of inode {ino} is missing")
    return INLINE.decode(value)


def _numbers(kv: Reader, kind: bytes, after: int, limit: int) -> Iterator[int]:
    for given, (key, _) in enumerate(kv.scan(kind + keys.u64(after + 1), prefix_end(kind))):
        if given >= limit:
            return
        yield keys.number_at(key, 1)
