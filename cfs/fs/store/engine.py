"""One disk of a storage node: fragments in volume logs, found through an index.

Owns the order of effects that makes a put durable and a delete final. `commit` takes a group of
puts and deletes, one group at a time:

    put      append record -> fdatasync -> index (memory) -> answered
    delete   append tombstone -> fdatasync -> index (memory), dedupe entries -> punch -> answered
    later    `checkpoint`: fdatasync punched volumes -> commit index, synced -> remove empty volumes

The index lags the logs and is brought up to them by `recovery` at open; when it is missing or
damaged it is rebuilt. All calls block and may come from any thread; `commit`, `rebuild` and the
decisive part of `checkpoint` exclude one another (the *lane*).

Space: puts leave `reserve` bytes of the file system free, repair puts half of it; deletes and the
index may use all. A write that meets a full disk all the same is cut off again.

Faults: an error of an append, sync or punch fences the disk: it takes no more changes (what the
kernel still holds of a failed sync is unknown) but goes on reading. A read error counts as a
corrupt read. A fenced disk is for an operator to replace, or to be opened again.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence

import lmdb

from cfs.core.errors import CfsError, Corrupt, NoSpace, NotFound, Unavailable
from cfs.core.segment.record import (
    ALIGNMENT,
    HEADER_BYTES_MAX,
    Record,
    Tombstone,
    blocks_match,
)
from cfs.fs.disk.port import Directory
from cfs.fs.store.index import PENDING_MAX, Entry, FragmentIndex, IndexDamaged
from cfs.fs.store.jobs import (
    Buffer,
    Delete,
    Put,
    cut_range,
    differs,
    is_same,
    record_of,
    touched_blocks,
)
from cfs.fs.store.place import OpenStore, open_empty_index, open_index
from cfs.fs.store.reclaim import (
    PUNCHES_MAX,
    append_or_full,
    bury,
    forget_buried,
    list_dying,
    list_empty,
    punch_dead,
    remove_volumes,
    reserve_of,
    sync_volumes,
)
from cfs.fs.store.recovery import recover
from cfs.fs.store.verify import damage_of, is_intact
from cfs.fs.store.volume import VOLUME_BYTES_MAX, VolumeLog
from cfs.net.ports import WallClock

FULL_BYTES = 4 << 20
"""Less than the largest fragment above the reserve: the disk is full."""


class Disk:
    """See the module. The constructor opens the logs and recovers; it blocks.

    Raises OSError when the disk fails.
    """

    def __init__(
        self,
        *,
        name: str,
        disk_id: bytes,
        directory: Directory,
        open_store: OpenStore,
        clock: WallClock,
        reserve_bytes: int | None = None,
        volume_bytes_max: int = VOLUME_BYTES_MAX,
    ) -> None:
        self.name = name
        self.disk_id = disk_id
        self.warnings: dict[str, str] = {}
        self.fenced = False
        self._directory = directory
        self._open_store = open_store
        self._clock = clock
        self._lane = threading.Lock()
        self._checkpointing = threading.Lock()
        self._rebuilding = False
        total, _ = directory.usage()
        self.reserve_bytes = reserve_of(total) if reserve_bytes is None else reserve_bytes
        self._log = VolumeLog(directory, disk_id, volume_bytes_max=volume_bytes_max)
        try:
            self._index = open_index(open_store)
            self._recover()
        except (CfsError, lmdb.Error) as error:
            self._rebuild(str(error))
        except OSError:
            if hasattr(self, "_index"):
                self._index.close()
            raise

    # --- reading -------------------------------------------------------------------------------

    def find(self, segment: bytes, index: int) -> tuple[int, Entry] | None:
        """Find a fragment; `index` -1: any one of the segment. Raises IndexDamaged."""
        fragments = self._readable()
        if index < 0:
            found = fragments.of_segment(segment)
            return found[0] if found else None
        entry = fragments.get(segment, index)
        return None if entry is None else (index, entry)

    def read_now(self, entry: Entry, offset: int, length: int) -> Buffer | None:
        """Read and verify without waiting for the disk; None when that cannot be (or be right)."""
        first, at, size = touched_blocks(entry, offset, length)
        try:
            data = self._log.read_now(entry.volume, entry.payload_at + at, size)
        except OSError:
            return None
        if data is None or not blocks_match(entry.block_crcs, first, data):
            return None
        return cut_range(data, offset - at, length)

    def read(self, segment: bytes, index: int, offset: int, length: int) -> tuple[Entry, Buffer]:
        """Read and verify part of a fragment. Raises NotFound, Corrupt (counted), IndexDamaged."""
        reason = "its checksum does not match"
        seen: Entry | None = None
        while True:
            found = self.find(segment, index)
            if found is None:
                raise NotFound(f"fragment {segment.hex()}.{index} is not on {self.name}")
            entry = found[1]
            if entry == seen:  # read twice, wrong twice
                break
            seen = entry
            first, at, size = touched_blocks(entry, offset, length)
            try:
                data = self._log.read(entry.volume, entry.payload_at + at, size)
            except NotFound:
                reason = f"volume {entry.volume} is gone"
                continue
            except OSError as error:
                reason = str(error)
                self.warnings["read"] = f"disk {self.name}: {error}: check its health"
                continue
            if len(data) == size and blocks_match(entry.block_crcs, first, data):
                return entry, cut_range(data, offset - at, length)
        self._index.count_corrupt()
        raise Corrupt(f"fragment {segment.hex()}.{index} on {self.name}: {reason}")

    def damage_of(self, segment: bytes, index: int) -> tuple[Entry | None, str]:
        """Say what is wrong with a fragment at rest; see `verify`. Raises IndexDamaged."""
        return damage_of(self._readable(), self._log, self.disk_id, segment, index)

    def after(
        self, segment: bytes, index: int, limit: int, written_before_ns: int
    ) -> list[tuple[bytes, int, Entry]]:
        """List fragments in order after `(segment, index)`."""
        page: list[tuple[bytes, int, Entry]] = []
        for row in self._readable().after(segment, index):
            if row[2].written_ns <= written_before_ns:
                page.append(row)
                if len(page) >= limit:
                    break
        return page

    @property
    def index(self) -> FragmentIndex:
        """The index, for the dedupe entries. Raises IndexDamaged during a rebuild."""
        return self._readable()

    @property
    def usable(self) -> bool:
        """Whether it takes changes."""
        return not (self.fenced or self._rebuilding)

    @property
    def damaged(self) -> bool:
        """Whether the index must be rebuilt."""
        return self._index.damaged

    @property
    def checkpoint_due(self) -> bool:
        """Whether enough has gathered in memory."""
        return self._index.pending > PENDING_MAX

    @property
    def dirty(self) -> bool:
        """Whether a checkpoint would change anything."""
        return bool(self._index.pending or self._index.dead)

    def counts(self) -> FragmentIndex:
        """Give the index for its counters, whatever its state."""
        return self._index

    def allocated(self) -> int:
        """Give the bytes of blocks the logs occupy."""
        return self._log.allocated()

    def device(self) -> str:
        """Name the file system it lies on."""
        return self._directory.device()

    def room(self) -> tuple[int, int]:
        """Give (total, free above the reserve, maybe negative) bytes."""
        total, free = self._directory.usage()
        return total, free + sum(list(self._index.unpunched.values())) - self.reserve_bytes

    # --- changing ------------------------------------------------------------------------------

    def commit(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> None:
        """Carry out a group; durable on return where `error` is None."""
        with self._lane:
            jobs: list[Put | Delete] = [*puts, *deletes]
            try:
                if not self.usable:
                    raise Unavailable(f"disk {self.name} takes no changes now")
                if self._index.pending > 4 * PENDING_MAX:
                    raise Unavailable(f"disk {self.name}: its index cannot be written")
                self._commit(puts, deletes)
            except CfsError as error:
                for job in jobs:
                    job.error = job.error or error
            except OSError as error:
                self._fence(error)
                for job in jobs:
                    job.error = job.error or Unavailable(f"disk {self.name} failed: {error}")
            if self._log.broken and not self.fenced:
                self._fence(OSError(errno.EIO, "a failed append could not be cut off"))

    def checkpoint(self) -> None:
        """Write the index down, finish deletions, remove empty volumes. Never raises OSError."""
        with self._checkpointing:
            try:
                self._checkpoint()
            except OSError as error:
                self._fence(error)
            except NoSpace as error:
                self.warnings["index"] = f"disk {self.name}: {error}"
            except IndexDamaged:
                return  # noticed by `damaged`
            else:
                self.warnings.pop("index", None)

    def rebuild(self) -> None:
        """Build the index anew from the logs, after damage. Blocks for long."""
        with self._checkpointing, self._lane:
            self._rebuilding = True
            try:
                self._rebuild("a stored value fails its checksum")
            except (CfsError, OSError) as error:
                self._fence(error)
            finally:
                self._rebuilding = False

    def close(self) -> None:
        """Write the index down and let go of every file."""
        if self.usable:
            self.checkpoint()
        self._index.close()
        self._log.close()

    # --- private -------------------------------------------------------------------------------

    def _commit(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> None:
        began = self._log.active, self._log.end
        dying = list_dying(self._index, deletes)
        fresh, dying_by_repair = self._admit(puts)
        dying += dying_by_repair
        try:
            bury(self._log, self._index, dying, self._clock.time_ns())
            places = self._store(fresh)
            if (self._log.active, self._log.end) != began:
                self._log.sync()
        except (CfsError, OSError):
            # Nothing of the group is answered; without it the next open sees only what is durable.
            self._log.cut(began[1] if began[0] == self._log.active else 0)
            raise
        self._log.release()
        forget_buried(self._index, dying)
        for (put, record), (volume, offset) in zip(fresh, places, strict=False):
            self._index.insert(put.segment, put.index, Entry.of(record, volume, offset))
        for delete in deletes:
            for segment in delete.segments:
                self._index.forget(segment)
        punch_dead(self._log, self._index, PUNCHES_MAX)

    def _admit(self, puts: Sequence[Put]) -> tuple[list[tuple[Put, Record]], list[Tombstone]]:
        """Choose the puts to write: new ones that have room; give what repairs replace, too."""
        free = self._directory.usage()[1] if puts else 0
        if self._index.unpunched and free < self.reserve_bytes + sum(
            len(put.payload) + HEADER_BYTES_MAX + ALIGNMENT for put in puts
        ):
            punch_dead(self._log, self._index)
            free = self._directory.usage()[1]
        fresh: dict[tuple[bytes, int], tuple[Put, Record]] = {}
        waiting: list[Tombstone] = []
        now_ns = self._clock.time_ns()
        for put in puts:
            record = record_of(put, now_ns)
            rival = fresh.get((put.segment, put.index))
            known = self._index.get(put.segment, put.index)
            if rival is not None:
                if not is_same(rival[1], record):
                    put.error = differs(put)
                continue
            if known is not None and not put.replace:
                if not is_same(known, record):
                    put.error = differs(put)
                    continue
                if not put.repair or is_intact(self._log, known):
                    continue
            if free - record.span < (self.reserve_bytes // 2 if put.repair else self.reserve_bytes):
                put.error = NoSpace(f"disk {self.name} has no room above its reserve")
                continue
            free -= record.span
            fresh[put.segment, put.index] = put, record
            if known is not None:
                waiting.append(Tombstone(put.segment, put.index, known.volume, known.offset))
        return list(fresh.values()), waiting

    def _store(self, fresh: list[tuple[Put, Record]]) -> list[tuple[int, int]]:
        if not fresh:
            return []
        places = append_or_full(self._log, [(record, put.payload) for put, record in fresh])
        if not places:
            for put, _ in fresh:
                put.error = NoSpace(f"disk {self.name} is full")
        return places

    def _checkpoint(self) -> None:
        while len(self._index.unpunched) > PUNCHES_MAX:
            with self._lane:
                before = len(self._index.unpunched)
                punch_dead(self._log, self._index, PUNCHES_MAX)
                if not self.usable or len(self._index.unpunched) >= before:
                    break
        with self._lane:
            if not self.usable:
                return
            punch_dead(self._log, self._index, PUNCHES_MAX)
            punched = self._index.dead.keys() - self._index.unpunched.keys()
            empty = list_empty(self._log, self._index)
            self._index.freeze(self._log.active, self._log.end)
        sync_volumes(self._log, (volume for volume, _ in punched))
        self._index.commit()
        with self._lane:
            self._index.drop_dead(punched)
            remove_volumes(self._log, self._index, empty)

    def _recover(self) -> None:
        recovered = recover(self._log, self._index)
        if recovered.lost:
            self.warnings["lost"] = (
                f"disk {self.name}: {recovered.lost} damaged places in its logs were skipped; their"
                " fragments must be repaired from others"
            )
        punch_dead(self._log, self._index)

    def _rebuild(self, reason: str) -> None:
        self.warnings["rebuilt"] = f"disk {self.name}: index rebuilt from the logs ({reason})"
        corrupt_reads = 0
        if hasattr(self, "_index"):
            corrupt_reads = self._index.corrupt_reads
            self._index.close()
        self._index = open_empty_index(self._open_store)
        self._index.count_corrupt(corrupt_reads)
        self._recover()

    def _readable(self) -> FragmentIndex:
        if self._rebuilding:
            raise IndexDamaged(f"disk {self.name}: the index is being rebuilt")
        return self._index

    def _fence(self, error: Exception) -> None:
        self.fenced = True
        self.warnings["fenced"] = (
            f"disk {self.name} failed ({error}) and takes no changes: replace it, or restart the"
            " node to try it again"
        )
