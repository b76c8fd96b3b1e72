"""The applied state of every group of a node: LMDB behind a bounded ordered overlay in memory.

Decides where a record lives and when it is durable. `apply` fills the *active* overlay; a flush
makes it the *flushing* one and a thread commits that to LMDB in one synced transaction. Reads ask
active, then flushing, then LMDB; scans merge the three. The log covers what is not flushed yet.

Invariants:

* A command enters whole or not at all: it runs in a `Transaction`, folded in by `commit`. A flush
  takes whole commands, and each group's applied index, term, configuration and digest travel in
  the same LMDB transaction.
* What a reader sees does not change when a flush begins or ends, only when `commit` runs; so the
  view is consistent between awaits. A scan inside a command sees the keys as of its start and the
  values as of each step, like `MemoryStore`, whatever has been flushed.
* `digest` is the sum modulo 2^128 of blake2b-128(u32 key length, key, value) over the records of
  a group, so replicas at equal applied index have equal digests and any order of changes agrees.
* `get` keeps what it read of LMDB, and what a flush wrote, in two ageing generations; they say
  what LMDB says, and any overlay hides them.
* A group's records lie in a *slot*; a snapshot fills a fresh slot, and one transaction points the
  group to it, so a crash leaves the old state or the new one. Slots without a group are wiped.

Keys in LMDB, numbers big endian:

    u16 slot, key            a record (slot 0..0xfffe)
    u16 0xffff, u16 group    msgpack [version 1, slot, applied, term, config, digest 16 bytes]

All of it is used from the event loop except `commit_flush`, which blocks and runs in a thread.
Snapshots leave and arrive through `snapshot`.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator

import lmdb
from sortedcontainers import SortedList

from cfs.core.errors import Corrupt, Unavailable
from cfs.core.kv import InstantStore
from cfs.core.raft.message import Config, SnapshotMeta
from cfs.fs.meta.group_record import (
    KEY_BYTES_USER_MAX,
    META_PREFIX,
    SLOT_MAX,
    VERSION,
    GroupRecord,
    decode_group,
    encode_group,
    meta_key,
    pack_slot,
    record_hash,
    slot_range,
)
from cfs.fs.meta.overlay import Changes, Layer, merged

FLUSH_BYTES = 8 << 20
"""An overlay of this size is flushed without waiting for the interval."""
FULL_BYTES = 64 << 20
"""Beyond it applying waits for the flush: the disk is slower than the log."""
CLEAN_BYTES = 32 << 20
"""Records as LMDB holds them that stay in memory, in two generations: a read of LMDB lets go of the
interpreter's lock, and getting it back took up to 20 us in a profile (docs/decisions/0040)."""
_RECORD_OVERHEAD_BYTES = 128
_INSERT_MAX = 32
"""More new keys of a command than this are sorted, not put into their places one by one."""
RECENT_MAX = 256
"""Digests kept: 25 KB a group."""
_DIGEST_MASK = (1 << 128) - 1


class State:
    """All groups' state in one LMDB environment, which this object owns.

    In production the store is opened with `sync=True`: without it LMDB does not order its writes,
    and power loss during a flush could leave it unreadable.
    """

    def __init__(self, store: InstantStore) -> None:
        self.store = store
        self.groups: dict[int, GroupState] = {}
        self._flushing: list[tuple[GroupState, Layer, GroupRecord]] = []
        self.reserved: set[int] = set()
        """Slots that snapshots on their way here fill."""
        self.on_damage: Callable[[Corrupt], None] = lambda _error: None
        self.dirty_bytes = 0
        self.clean_bytes = 0
        for key, value in store.scan(META_PREFIX, META_PREFIX + b"\xff\xff\xff"):
            record = decode_group(value)
            group = int.from_bytes(key[2:], "big")
            self.groups[group] = GroupState(self, group, record)

    def create(self, group: int, config: Config) -> GroupState:
        """Begin an empty group in memory; it is in LMDB from its first flush on."""
        assert group not in self.groups
        record = GroupRecord(VERSION, self.free_slot(), 0, 0, config, b"")
        self.groups[group] = GroupState(self, group, record)
        return self.groups[group]

    def free_slot(self) -> int:
        """Give a slot that no group and no staging has and whose records were wiped."""
        used = {g.slot for g in self.groups.values()} | self.reserved
        slot = 0
        while slot in used or next(self.store.scan(*slot_range(slot)), None) is not None:
            slot += 1
        assert slot <= SLOT_MAX
        return slot

    def damaged(self, error: Exception) -> Unavailable:
        """Have the node stop by name, and give what to tell whoever asked: others have it whole."""
        self.on_damage(
            Corrupt(
                f"the metadata kept here is damaged ({error}), so this node stops and its peers go "
                "on: run 'cfs node rebuild-meta' on its directory, then start it"
            )
        )
        return Unavailable(f"the state of this metadata node is damaged, it stops: {error}")

    # --- flushing

    @property
    def wants_flush(self) -> bool:
        """Tell whether the active overlay is large enough to flush at once."""
        return self.dirty_bytes >= FLUSH_BYTES and not self._flushing

    @property
    def full(self) -> bool:
        """Tell whether applying must wait for the flush in progress."""
        return self.dirty_bytes >= FULL_BYTES

    def begin_flush(self) -> bool:
        """Make every active overlay the flushing one; False when there is nothing to flush."""
        assert not self._flushing
        for group in self.groups.values():
            if group.dirty:
                self._flushing.append((group, group.begin_flush(), group.record()))
        self.dirty_bytes = 0
        return bool(self._flushing)

    def commit_flush(self) -> None:
        """Commit the flushing overlays to LMDB, durably. Blocks; runs in a thread."""
        changes: list[tuple[bytes, bytes | None]] = []
        for group, layer, record in self._flushing:
            prefix = pack_slot(record.slot)
            changes += [(prefix + key, value) for key, value in layer.values.items()]
            changes.append((meta_key(group.group), encode_group(record)))
        changes.sort(key=_first)
        self.store.write(changes, sync=True)

    def end_flush(self) -> None:
        """Drop the flushing overlays: LMDB has them."""
        for group, _, record in self._flushing:
            group.end_flush(record)
        self._flushing = []
        self.age_clean()

    def age_clean(self) -> None:
        """Drop the older half of what is kept of LMDB, when it is more than its bound."""
        if self.clean_bytes > CLEAN_BYTES // 2:
            self.clean_bytes = 0
            for group in self.groups.values():
                group.age_clean()


class GroupState:
    """One group's records as of its applied index; a `Reader`."""

    def __init__(self, state: State, group: int, record: GroupRecord) -> None:
        self._state = state
        self._store = state.store
        self.group = group
        self.slot = record.slot
        self._prefix = pack_slot(record.slot)
        self.applied = record.applied
        self.term = record.term
        self.config = record.config
        """The membership as of `applied`."""
        self._digest = int.from_bytes(record.digest, "little")
        self.flushed = SnapshotMeta(index=record.applied, term=record.term, config=record.config)
        """What LMDB holds."""
        self.dirty = False
        self.recent: deque[tuple[int, int]] = deque(maxlen=RECENT_MAX)
        """The digests at the latest applied indexes: replicas compare where they meet."""
        self._active = Layer()
        self._active_bytes = 0
        self._flushing_bytes = 0
        self._flushing: Layer | None = None
        self._clean: Changes = {}
        self._clean_old: Changes = {}

    @property
    def digests(self) -> dict[int, bytes]:
        """Digests by index, of the latest applied ones; `applied` is always among them."""
        known = {index: digest.to_bytes(16, "little") for index, digest in self.recent}
        return {self.applied: self.digest, **known}

    @property
    def digest(self) -> bytes:
        """The multiset hash of all records at `applied`, 16 bytes."""
        return self._digest.to_bytes(16, "little")

    def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        values = self._active.values
        if key in values:
            return values[key]
        if self._flushing is not None:
            values = self._flushing.values
            if key in values:
                return values[key]
        if key in self._clean:
            return self._clean[key]
        if key in self._clean_old:
            value = self._clean_old[key]
        else:
            try:
                value = self._store.get(self._prefix + key)
            except (Corrupt, lmdb.Error) as error:
                raise self._state.damaged(error) from error
        self._clean[key] = value
        state = self._state
        state.clean_bytes += len(key) + (len(value) if value else 0) + _RECORD_OVERHEAD_BYTES
        if state.clean_bytes > CLEAN_BYTES // 2:
            state.age_clean()
        return value

    def age_clean(self) -> None:
        """Make the younger half of what is kept of LMDB the older one."""
        self._clean_old, self._clean = self._clean, {}

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        layers = [self._active]
        if self._flushing is not None:
            layers.append(self._flushing)
        return merged(layers, self._below(start, end, reverse), start, end, reverse=reverse)

    def transaction(self) -> Transaction:
        """Begin a command."""
        return Transaction(self)

    def advance(self, index: int, term: int, config: Config | None = None) -> None:
        """Note that everything up to `index` is applied."""
        assert index == self.applied + 1, (index, self.applied)
        self.applied = index
        self.term = term
        self.dirty = True
        self.recent.append((index, self._digest))
        if config is not None:
            self.config = config

    def fold(self, changes: Changes) -> None:
        """Take a command's changes as a whole, and keep the digest."""
        delta = 0
        size = 0
        active = self._active
        get = self.get
        for key, value in changes.items():
            assert 0 < len(key) <= KEY_BYTES_USER_MAX, key
            old = get(key)
            if old == value:
                continue
            if old is not None:
                delta -= record_hash(key, old)
            if value is not None:
                delta += record_hash(key, value)
                size += len(value)
            active.put(key, value)
            size += len(key) + _RECORD_OVERHEAD_BYTES
        self._digest = self._digest + delta & _DIGEST_MASK
        self._active_bytes += size
        self._state.dirty_bytes += size

    def record(self) -> GroupRecord:
        """Give what LMDB should keep now."""
        return GroupRecord(VERSION, self.slot, self.applied, self.term, self.config, self.digest)

    def begin_flush(self) -> Layer:
        """Swap the overlays."""
        assert self._flushing is None
        self._flushing, self._active = self._active, Layer()
        self._flushing_bytes, self._active_bytes = self._active_bytes, 0
        self.dirty = False
        return self._flushing

    def end_flush(self, record: GroupRecord) -> None:
        """Keep the overlay as what LMDB holds now."""
        assert self._flushing is not None
        self._clean.update(self._flushing.values)
        self._state.clean_bytes += self._flushing_bytes
        self._flushing = None
        self.flushed = SnapshotMeta(index=record.applied, term=record.term, config=record.config)

    def replace(self, record: GroupRecord) -> None:
        """Be what a snapshot brought, durable already; both overlays are void."""
        assert self._flushing is None
        self._active = Layer()
        self._active_bytes = 0
        self._clean, self._clean_old = {}, {}
        self.dirty = False
        self.slot = record.slot
        self._prefix = pack_slot(record.slot)
        self.applied, self.term, self.config = record.applied, record.term, record.config
        self._digest = int.from_bytes(record.digest, "little")
        self.recent.clear()
        self.flushed = SnapshotMeta(index=record.applied, term=record.term, config=record.config)

    def _below(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:  # noqa: FBT001
        prefix = self._prefix
        try:
            for key, value in self._store.scan(prefix + start, prefix + end, reverse=reverse):
                yield key[2:], value
        except (Corrupt, lmdb.Error) as error:
            raise self._state.damaged(error) from error


class Transaction:
    """One command's `Writer`: sees its own changes; nothing enters the state before `commit`."""

    __slots__ = ("_base", "_changes", "_sorted")

    def __init__(self, base: GroupState) -> None:
        self._base = base
        self._changes: Changes = {}
        self._sorted: list[bytes] = []
        """The keys of the first so many changes."""

    def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        if key in self._changes:
            return self._changes[key]
        return self._base.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """See `Writer.put`."""
        self._changes[key] = value

    def delete(self, key: bytes) -> None:
        """See `Writer.delete`."""
        self._changes[key] = None

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Reader.scan`; keys as of the first step, values as of each."""
        changes = self._changes
        inside = self._inside(start, end)
        own = [key for key in inside if changes[key] is not None]
        gone = {key for key in inside if changes[key] is None}  # for this scan, whatever comes
        if not own:
            for key, value in self._base.scan(start, end, reverse=reverse):
                if key not in changes:
                    yield key, value
                elif key not in gone and (changed := changes[key]) is not None:
                    yield key, changed
            return
        own.sort(reverse=reverse)
        layer = Layer()
        layer.values = dict.fromkeys(own, b"")
        layer.keys = SortedList(own)
        below = self._base.scan(start, end, reverse=reverse)
        for key, value in merged([layer], below, start, end, reverse=reverse):
            if key not in changes:
                yield key, value
            elif key not in gone and (changed := changes[key]) is not None:
                yield key, changed

    def _inside(self, start: bytes, end: bytes) -> list[bytes]:
        """Give the keys changed in `[start, end)`, in order; not by looking at all of a batch."""
        ordered = self._sorted
        new = len(self._changes) - len(ordered)
        if new > _INSERT_MAX:
            ordered[:] = sorted(self._changes)
        elif new:
            for key in itertools.islice(self._changes, len(self._changes) - new, None):
                insort(ordered, key)
        return ordered[bisect_left(ordered, start) : bisect_left(ordered, end)]

    def commit(self) -> None:
        """Fold everything into the state."""
        if self._changes:
            self._base.fold(self._changes)


def _first(pair: tuple[bytes, bytes | None]) -> bytes:
    return pair[0]
