"""The draft of one operation: every change it makes, kept apart until it has succeeded.

A draft is opened on a batch's key-value view. Within an operation all reads see its own changes;
`commit` writes them down, `rollback` forgets them, so a refused operation changes nothing. The
shard's state record is written once a batch, by `close`. Encoding happens before the first write
of a commit: nothing can fail half-way.

Inodes decoded in a batch stay decoded. Reverse references are kept as differences and settled
after the operation's other changes, so that pieces that come and go within it cost nothing.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Iterator

from cfs.core.api.meta import Attr
from cfs.core.errors import FsError
from cfs.core.ids import SERIAL_BITS, Ino, ShardId, SiteId, make_ino, serial_of
from cfs.core.kv import Writer
from cfs.core.meta import keys, versions
from cfs.core.meta.ledger import Ledger
from cfs.core.meta.records import (
    COUNT,
    INLINE,
    INODE,
    MARK,
    PRESENT,
    STATE,
    Count,
    Inode,
    Mark,
    Present,
    State,
)

_TIME_MAX = (1 << 63) - 1


class Draft:
    """A `Writer` over a batch's view, with the shard's state and decoded inodes."""

    def __init__(self, kv: Writer, site: int, shard: int, time_ns: int) -> None:
        self.kv = kv
        self.shard = shard
        self._site = site
        self._home = site << 12 | shard
        value = kv.get(keys.STATE)
        self.state = State() if value is None else STATE.decode(value)
        self._saved = copy.copy(self.state)
        self._time_ns = time_ns
        self._changes: dict[bytes, bytes | None] = {}
        self._known: dict[int, Inode | None] = {}
        self._inodes: dict[int, Inode | None] = {}
        self._references: dict[tuple[bytes, int, int], int] = {}
        self._marks: dict[tuple[int, int], int] = {}
        self._kept: dict[tuple[int, int], int] = {}
        self._repacked: set[bytes] = set()
        self.ledger = Ledger(kv)
        self.now = 0
        self.tick()
        self._saved = copy.copy(self.state)

    # --- the operation as a whole

    def tick(self) -> int:
        """Advance the hybrid logical clock: a stamp no operation had before."""
        state = self.state
        state.hlc = self.now = max(self._time_ns, state.hlc + 1)
        return self.now

    def commit(self, *, changed: bool = True) -> None:
        """Write the operation's changes to the view and begin the next one.

        Not `changed`: only its answer is recorded, the namespace is as it was.
        """
        uses = self.ledger.look(self, self._inodes)
        if self.state.snapshots:
            self._keep_versions()
        since, put, delete = self.state.epoch, self.kv.put, self.kv.delete
        encoded = [
            (ino, None if inode is None else INODE.encode(inode, since))
            for ino, inode in self._inodes.items()
        ]
        for ino, value in encoded:
            if value is None:
                delete(keys.inode(ino))
            else:
                put(keys.inode(ino), value)
        self._known.update(self._inodes)
        self._inodes.clear()
        self.ledger.take(uses)
        for key, value in self._changes.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        self._changes.clear()
        if self._kept:
            self._settle_kept()
        if self._marks:
            self._settle_marks()
        if self._references:
            self._settle_references()
        self.state.changes += changed
        self._saved = copy.copy(self.state)
        self.tick()

    def rollback(self) -> None:
        """Forget the operation's changes and begin the next one."""
        self._inodes.clear()
        self._changes.clear()
        self._references.clear()
        self._marks.clear()
        self._kept.clear()
        self._repacked.clear()
        self.ledger.forget()
        self.state = copy.copy(self._saved)
        self.tick()

    def close(self) -> None:
        """Write the shard's state and what quotas count; the batch is over."""
        self.ledger.write(self.state.epoch)
        self.kv.put(keys.STATE, STATE.encode(self.state, self.state.epoch))

    # --- the view

    def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`; inodes are read with `inode`."""
        if key in self._changes:
            return self._changes[key]
        return self.kv.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """See `Writer.put`."""
        self._changes[key] = value

    def delete(self, key: bytes) -> None:
        """See `Writer.delete`."""
        self._changes[key] = None

    def repack(self, key: bytes, value: bytes) -> None:
        """Put what means the same as before: snapshots show it too, nothing is kept."""
        self._changes[key] = value
        self._repacked.add(key)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Reader.scan`; changes made during the scan may not show."""
        own = [key for key in self._changes if start <= key < end]
        if not own:
            return self.kv.scan(start, end, reverse=reverse)
        own.sort(reverse=reverse)
        return self._merged(self.kv.scan(start, end, reverse=reverse), own, reverse=reverse)

    def _merged(
        self, below: Iterator[tuple[bytes, bytes]], own: list[bytes], *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        changes = dict.fromkeys(own)
        for key in own:
            changes[key] = self._changes.get(key)
        index = 0
        for key, value in below:
            while index < len(own) and (own[index] > key if reverse else own[index] < key):
                if (mine := changes[own[index]]) is not None:
                    yield own[index], mine
                index += 1
            if key not in changes:
                yield key, value
        for mine_key in own[index:]:
            if (mine := changes[mine_key]) is not None:
                yield mine_key, mine

    # --- inodes

    def is_local(self, ino: int) -> bool:
        """Tell whether the inode lives in this shard."""
        return ino >> SERIAL_BITS == self._home

    def find(self, ino: int) -> Inode | None:
        """Give an inode or None."""
        if ino in self._inodes:
            return self._inodes[ino]
        if ino in self._known:
            return self._known[ino]
        value = self.kv.get(keys.inode(ino))
        inode = None if value is None else INODE.decode(value)
        self._known[ino] = inode
        return inode

    def inode(self, ino: int) -> Inode:
        """Give an inode. Raises ENOENT, and EXDEV when it lives in another shard."""
        inode = self.find(ino)
        if inode is None:
            if not self.is_local(ino):
                raise cross_shard(ino)
            raise FsError(errno.ENOENT, f"inode {ino} does not exist")
        return inode

    def set_inode(self, ino: int, inode: Inode) -> Attr:
        """Replace an inode and show it."""
        self._inodes[ino] = inode
        return inode.attr(ino)

    def drop_inode(self, ino: int) -> None:
        """Remove an inode."""
        self._inodes[ino] = None

    def new_ino(self) -> int:
        """Give an inode number, never given before."""
        self.state.serial += 1
        return make_ino(SiteId(self._site), ShardId(self.shard), self.state.serial)

    def take_ino(self, ino: int) -> int:
        """Take a number that was reserved. Raises EINVAL when it was not, or is taken."""
        if (
            not self.is_local(ino)
            or not 0 < serial_of(Ino(ino)) <= self.state.serial
            or self.find(ino) is not None
        ):
            raise FsError(errno.EINVAL, f"inode {ino} was not reserved, or is taken")
        return ino

    def reserve_inos(self, count: int) -> int:
        """Give the first of `count` numbers that no inode will get unless asked for by number."""
        self.state.serial += count
        return make_ino(SiteId(self._site), ShardId(self.shard), self.state.serial - count + 1)

    def set_orphan(self, ino: int) -> None:
        """List an inode for reclaiming."""
        self.put(keys.orphan(ino), PRESENT.encode(Present(self.now), self.state.epoch))

    def stamp(self, time_ns: int) -> int:
        """Give the time an operation happens at: what its client showed already, else now."""
        if not 0 <= time_ns <= _TIME_MAX:
            raise FsError(errno.EINVAL, f"{time_ns} ns is no time")
        return time_ns or self.now

    # --- quotas

    def before(self, ino: int) -> Inode | None:
        """Give an inode as it was before the operation."""
        if ino in self._known:
            return self._known[ino]
        value = self.kv.get(keys.inode(ino))
        return None if value is None else INODE.decode(value)

    # --- references

    def refer(self, segment: bytes, ino: int, bucket: int, difference: int) -> None:
        """Count extents that refer to a segment, more or fewer."""
        key = (segment, ino, bucket)
        self._references[key] = self._references.get(key, 0) + difference

    def mark(self, inline_id: int, ino: int, difference: int) -> None:
        """Count extents that refer to an inline chunk, more or fewer."""
        key = (inline_id, ino)
        self._marks[key] = self._marks.get(key, 0) + difference

    def keep_inline(self, inline_id: int, ino: int, difference: int) -> None:
        """Count tiles of kept pages that refer to an inline chunk, more or fewer."""
        key = (inline_id, ino)
        self._kept[key] = self._kept.get(key, 0) + difference

    def _keep_versions(self) -> None:
        for ino in self._inodes:
            versions.keep(self, keys.inode(ino))
        for key in self._changes:
            if versions.is_versioned(key) and key not in self._repacked:
                versions.keep(self, key)
        self._repacked.clear()

    def _settle_references(self) -> None:
        kv, since = self.kv, self.state.epoch
        emptied: dict[bytes, None] = {}
        gained: dict[bytes, None] = {}
        for (segment, ino, bucket), difference in self._references.items():
            if not difference:
                continue
            key = keys.reference(segment, ino, bucket)
            value = kv.get(key)
            count = difference if value is None else COUNT.decode(value).extents + difference
            assert count >= 0
            if count:
                kv.put(key, COUNT.encode(Count(count), since))
                gained[segment] = None
            else:
                kv.delete(key)
                emptied[segment] = None
        self._references.clear()
        for segment in gained:
            if kv.get(keys.candidate(segment)) is not None:
                kv.delete(keys.candidate(segment))
        for segment in emptied:
            if (
                segment not in gained
                and next(kv.scan(*keys.references_range(segment)), None) is None
            ):
                kv.put(keys.candidate(segment), PRESENT.encode(Present(self.now), since))

    def _settle_marks(self) -> None:
        kv, since = self.kv, self.state.epoch
        for (inline_id, ino), difference in self._marks.items():
            if not difference:
                continue
            key = keys.mark(inline_id, ino)
            value = kv.get(key)
            assert value is not None
            mark = MARK.decode(value)
            refs = mark.refs + difference
            assert refs >= 0
            if refs:
                mark = Mark(refs, mark.stored, mark.offset, mark.length)
                kv.put(key, MARK.encode(mark, since))
            else:
                kv.delete(key)
                if kv.get(keys.kept_inline(inline_id, ino)) is None:
                    kv.delete(keys.inline(ino, inline_id))
                    self.state.inline_bytes -= mark.stored
        self._marks.clear()

    def _settle_kept(self) -> None:
        kv, since = self.kv, self.state.epoch
        for (inline_id, ino), difference in self._kept.items():
            key = keys.kept_inline(inline_id, ino)
            value = kv.get(key)
            count = difference if value is None else COUNT.decode(value).extents + difference
            assert count >= 0
            if count:
                kv.put(key, COUNT.encode(Count(count), since))
                continue
            kv.delete(key)
            if kv.get(keys.mark(inline_id, ino)) is None:
                inline = kv.get(keys.inline(ino, inline_id))
                assert inline is not None
                self.state.inline_bytes -= len(INLINE.decode(inline).sealed)
                kv.delete(keys.inline(ino, inline_id))
        self._kept.clear()


def cross_shard(ino: int) -> FsError:
    """Make the error that asks for a cross-shard transaction."""
    return FsError(errno.EXDEV, f"inode {ino} lives in another shard", cross=True)
