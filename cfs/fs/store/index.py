"""The index of one disk: where each fragment is, and this disk's part of the dedupe index.

Owns the keys of one `cfs.core.kv.Store`. Numbers big endian:

    F segment(16) index(2)       a fragment: `Entry`, byte table below
    D chunk id(32)               a dedupe entry: msgpack `ChunkRef` after a version byte (1)
    R segment(16) chunk id(32)   empty: the dedupe entries that point to a segment
    P volume(4) offset(8)        length(4): a dead record whose blocks are not known to be free
    V volume(4)                  use of a volume: fragments(4) stored(8) raw(8) sealed(8)
    M position                   volume(4) offset(8): the index holds every record before it
    M corrupt, M lost            counters(8)
    M scrub                      what the scrubber wants to know after a restart

    Entry: version 1 (1) volume(4) offset(8) payload length(4) data(2) parity(2) segment length(4)
           raw(8) sealed(8) written_ns(8) block checksums(4 each)

The block checksums are here too, so that a read costs one access to the disk, not two.

Changes collect in memory and go to the store together, synced, in `commit`, with the log position
they reach: the store holds the state at one log position, and a crash loses what the log has.
Dedupe entries are in no log: losing the newest costs space, nothing else.

Any thread may read. Fragments and positions change in one thread at a time (the disk's lane);
`publish` may come from another.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator

import lmdb
import msgspec
from sortedcontainers import SortedDict

from cfs.core.api.store import ChunkRef
from cfs.core.errors import Corrupt, Unavailable
from cfs.core.ids import ChunkId
from cfs.core.kv import Store, prefix_end
from cfs.core.segment.record import HEADER_BYTES, Record, aligned

PENDING_MAX = 20_000
"""Changes to hold before a commit is due: 10 MB at 500 bytes each."""

_entry = struct.Struct(">BIQIHHIQQQ")
_use = struct.Struct(">IQQQ")
_place = struct.Struct(">IQ")
_u16, _u32, _u64 = (struct.Struct(form) for form in (">H", ">I", ">Q"))
_POSITION, _CORRUPT, _LOST, _SCRUB = b"Mposition", b"Mcorrupt", b"Mlost", b"Mscrub"
_VERSION = 1
_encode_ref = msgspec.msgpack.Encoder().encode
_decode_ref = msgspec.msgpack.Decoder(ChunkRef).decode


class IndexDamaged(Unavailable):
    """The index cannot be read; it is being rebuilt from the logs: ask again."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Where a fragment is and what it is."""

    volume: int
    offset: int
    payload_length: int
    data: int
    parity: int
    segment_length: int
    raw_bytes: int
    sealed_bytes: int
    written_ns: int
    block_crcs: bytes

    @property
    def payload_at(self) -> int:
        """Offset of the payload in the volume."""
        return self.offset + HEADER_BYTES + len(self.block_crcs)

    @property
    def length(self) -> int:
        """Bytes of the record, padding not counted."""
        return HEADER_BYTES + len(self.block_crcs) + self.payload_length

    @property
    def span(self) -> int:
        """Bytes of the record, padding counted."""
        return aligned(self.length)

    @staticmethod
    def of(record: Record, volume: int, offset: int) -> Entry:
        """Make the entry of a fragment's record."""
        return Entry(
            volume=volume,
            offset=offset,
            payload_length=record.payload_length,
            data=record.data,
            parity=record.parity,
            segment_length=record.segment_length,
            raw_bytes=record.raw_bytes,
            sealed_bytes=record.sealed_bytes,
            written_ns=record.written_ns,
            block_crcs=record.block_crcs,
        )


class Use(msgspec.Struct, frozen=True):
    """What lives in a volume, or on the disk. `raw` and `sealed` count fragments 0 only."""

    fragments: int = 0
    stored: int = 0
    raw: int = 0
    sealed: int = 0

    def plus(self, index: int, entry: Entry, sign: int) -> Use:
        """Add (`sign` 1) or take away (-1) a fragment."""
        first = sign if index == 0 else 0
        return Use(
            self.fragments + sign,
            self.stored + sign * entry.length,
            self.raw + first * entry.raw_bytes,
            self.sealed + first * entry.sealed_bytes,
        )


class FragmentIndex:
    """See the module. Raises IndexDamaged when the store gives no trustworthy answer."""

    def __init__(self, store: Store) -> None:
        self.damaged = False
        self._store = store
        self._lock, self._commit_lock = threading.Lock(), threading.Lock()
        self._pending: SortedDict[bytes, bytes | None] = SortedDict()
        self._frozen: SortedDict[bytes, bytes | None] = SortedDict()
        position = self._get(_POSITION)
        self.position: tuple[int, int] | None = _place.unpack(position) if position else None
        self.corrupt_reads = self._number(_CORRUPT)
        self.lost = self._number(_LOST)
        self.volumes: dict[int, Use] = {
            _u32.unpack_from(key, 1)[0]: Use(*_use.unpack(value))
            for key, value in self._scan(b"V", b"W")
        }
        self.dead: dict[tuple[int, int], int] = {
            _place.unpack_from(key, 1): _u32.unpack(value)[0]
            for key, value in self._scan(b"P", b"Q")
        }
        self.unpunched = dict(self.dead)
        """Those of `dead` that nobody punched since the index was opened."""
        self.total = Use(
            *(sum(getattr(use, name) for use in self.volumes.values()) for name in _USE_FIELDS)
        )

    # --- fragments -----------------------------------------------------------------------------

    def get(self, segment: bytes, index: int) -> Entry | None:
        """Find a fragment."""
        value = self._get(b"F" + segment + _u16.pack(index))
        return None if value is None else _decode(value)

    def of_segment(self, segment: bytes) -> list[tuple[int, Entry]]:
        """List the fragments of a segment."""
        start = b"F" + segment
        found = self._scan(start, start + b"\xff\xff\xff")
        return [(_u16.unpack_from(key, 17)[0], _decode(value)) for key, value in found]

    def after(self, segment: bytes, index: int) -> Iterator[tuple[bytes, int, Entry]]:
        """Yield fragments in order after `(segment, index)`; all from `(b"", 0)` on."""
        start = b"F" + segment + _u16.pack(index) + b"\0" if segment else b"F"
        for key, value in self._scan(start, b"G"):
            yield key[1:17], _u16.unpack_from(key, 17)[0], _decode(value)

    def insert(self, segment: bytes, index: int, entry: Entry) -> None:
        """Enter a fragment; one that was elsewhere on this disk is dead."""
        self.remove(segment, index, keep=(entry.volume, entry.offset))
        value = _encode(entry)
        with self._lock:
            self._pending[b"F" + segment + _u16.pack(index)] = value
            self._count(index, entry, 1)

    def remove(
        self, segment: bytes, index: int, *, keep: tuple[int, int] | None = None
    ) -> Entry | None:
        """Remove a fragment, note its record (unless it is at `keep`) as dead; give what it was."""
        entry = self.get(segment, index)
        if entry is None:
            return None
        with self._lock:
            self._pending[b"F" + segment + _u16.pack(index)] = None
            self._count(index, entry, -1)
        if keep != (entry.volume, entry.offset):
            self.add_dead(entry.volume, entry.offset, entry.span)
        return entry

    def add_dead(self, volume: int, offset: int, length: int) -> None:
        """Note that blocks are to be freed."""
        with self._lock:
            self.dead[volume, offset] = self.unpunched[volume, offset] = length
            self._pending[b"P" + _place.pack(volume, offset)] = _u32.pack(length)

    def drop_dead(self, places: Iterable[tuple[int, int]]) -> None:
        """Note that these are durably free."""
        with self._lock:
            for place in places:
                self.unpunched.pop(place, None)
                if self.dead.pop(place, None) is not None:
                    self._pending[b"P" + _place.pack(*place)] = None

    def drop_volume(self, volume: int) -> None:
        """Forget a volume without fragments."""
        with self._lock:
            self.volumes.pop(volume, None)
            self._pending[b"V" + _u32.pack(volume)] = None
        self.drop_dead([place for place in list(self.dead) if place[0] == volume])

    def count_corrupt(self, count: int = 1) -> None:
        """Count reads that failed their checksum."""
        with self._lock:
            self.corrupt_reads += count
            self._pending[_CORRUPT] = _u64.pack(self.corrupt_reads)

    def count_lost(self, count: int) -> None:
        """Count records found damaged in a log."""
        with self._lock:
            self.lost += count
            self._pending[_LOST] = _u64.pack(self.lost)

    def scrub_note(self) -> bytes | None:
        """Give what the scrubber noted last, if this index knows of it."""
        return self._get(_SCRUB)

    def note_scrub(self, note: bytes) -> None:
        """Keep a note of the scrubber; durable with the next commit."""
        with self._lock:
            self._pending[_SCRUB] = note

    # --- dedupe --------------------------------------------------------------------------------

    def find(self, chunk_id: bytes) -> ChunkRef | None:
        """Look a chunk up."""
        value = self._get(b"D" + chunk_id)
        return None if value is None or value[0] != _VERSION else _decode_ref(value[1:])

    def publish(self, refs: Iterable[ChunkRef]) -> None:
        """Enter chunks; the newest entry of a chunk wins."""
        with self._lock:
            for ref in refs:
                self._pending[b"D" + ref.chunk_id] = b"\x01" + _encode_ref(ref)
                self._pending[b"R" + ref.segment + ref.chunk_id] = b""

    def entries(self, after: bytes, limit: int) -> list[tuple[bytes, list[ChunkRef]]]:
        """List segments after `after` that dedupe entries point to, and those entries."""
        found: list[tuple[bytes, list[ChunkRef]]] = []
        for key, _ in self._scan(b"R" + after + b"\xff" * 33 if after else b"R", b"S"):
            segment, ref = key[1:17], self.find(key[17:])
            if not found or found[-1][0] != segment:
                found.append((segment, []))
            if len(found) > limit:
                return found[:limit]
            if ref and ref.segment == segment:
                found[-1][1].append(ref)
        return found

    def forget(self, segment: bytes) -> None:
        """Remove the dedupe entries that point to a segment."""
        start = b"R" + segment
        for key, _ in list(self._scan(start, prefix_end(start))):
            chunk_id = ChunkId(key[17:])
            ref = self.find(chunk_id)
            with self._lock:
                self._pending[key] = None
                if ref is not None and ref.segment == segment:
                    self._pending[b"D" + chunk_id] = None

    # --- the store -----------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Changes that are in memory only."""
        return len(self._pending) + len(self._frozen)

    def freeze(self, volume: int, offset: int) -> None:
        """Gather the changes up to a log position for `commit`; call it between mutations."""
        with self._lock:
            if (volume, offset) != self.position:
                self.position = volume, offset
                self._pending[_POSITION] = _place.pack(volume, offset)
            if self._frozen:  # an earlier commit failed: the newer values win
                self._frozen.update(self._pending)
            else:
                self._frozen = self._pending
            self._pending = SortedDict()

    def commit(self) -> None:
        """Write what was frozen; durable on return. On an error it stays frozen. Blocks."""
        with self._commit_lock:
            frozen = self._frozen
            if frozen:
                try:
                    self._store.write(frozen.items(), sync=True)
                except lmdb.Error as error:
                    raise self._damage(error) from error
            with self._lock:
                self._frozen = SortedDict()

    def bytes_used(self) -> int:
        """Give the bytes the store occupies."""
        return self._store.bytes_used()

    def close(self) -> None:
        """Close the store; what was not committed is replayed at the next open."""
        self._store.close()

    def _get(self, key: bytes) -> bytes | None:
        # A value moves pending -> frozen -> store, so this order never misses it.
        for level in (self._pending, self._frozen):
            if key in level:
                value: bytes | None = level.get(key)
                return value
        try:
            return self._store.get(key)
        except (Corrupt, lmdb.Error) as error:
            raise self._damage(error) from error

    def _scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            newer: dict[bytes, bytes | None] = {
                key: level[key]
                for level in (self._frozen, self._pending)
                for key in level.irange(start, end, inclusive=(True, False))
            }
        keys = iter(sorted(newer))
        waiting = next(keys, None)
        try:
            for key, value in self._store.scan(start, end):
                while waiting is not None and waiting < key:
                    if (changed := newer[waiting]) is not None:
                        yield waiting, changed
                    waiting = next(keys, None)
                if key not in newer:
                    yield key, value
        except (Corrupt, lmdb.Error) as error:
            raise self._damage(error) from error
        while waiting is not None:
            if (changed := newer[waiting]) is not None:
                yield waiting, changed
            waiting = next(keys, None)

    def _damage(self, error: Exception) -> IndexDamaged:
        self.damaged = True
        return IndexDamaged(f"the fragment index is damaged ({error}) and is being rebuilt")

    def _number(self, key: bytes) -> int:
        value = self._get(key)
        return 0 if value is None else int(_u64.unpack(value)[0])

    def _count(self, index: int, entry: Entry, sign: int) -> None:
        use = self.volumes.get(entry.volume, Use()).plus(index, entry, sign)
        self.volumes[entry.volume] = use
        self.total = self.total.plus(index, entry, sign)
        self._pending[b"V" + _u32.pack(entry.volume)] = _use.pack(*(msgspec.structs.astuple(use)))


_USE_FIELDS = ("fragments", "stored", "raw", "sealed")


def _encode(entry: Entry) -> bytes:
    return (
        _entry.pack(
            _VERSION,
            entry.volume,
            entry.offset,
            entry.payload_length,
            entry.data,
            entry.parity,
            entry.segment_length,
            entry.raw_bytes,
            entry.sealed_bytes,
            entry.written_ns,
        )
        + entry.block_crcs
    )


def _decode(value: bytes) -> Entry:
    (version, volume, offset, payload_length, data, parity, segment_length, raw, sealed,
     written_ns) = _entry.unpack_from(value)  # fmt: skip
    if version != _VERSION:
        raise IndexDamaged(f"an index entry has version {version}, this program knows {_VERSION}")
    return Entry(
        volume=volume,
        offset=offset,
        payload_length=payload_length,
        data=data,
        parity=parity,
        segment_length=segment_length,
        raw_bytes=raw,
        sealed_bytes=sealed,
        written_ns=written_ns,
        block_crcs=value[_entry.size :],
    )
