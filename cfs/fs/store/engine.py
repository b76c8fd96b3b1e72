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
from cfs.core.ids import SegmentId
from cfs.core.segment.record import (
    TOMBSTONES_MAX,
    Record,
    RecordKind,
    Tombstone,
    blocks_match,
    checksum_blocks,
    encode_tombstones,
)
from cfs.fs.disk.port import Directory
from cfs.fs.store.index import PENDING_MAX, Entry, FragmentIndex, IndexDamaged, Use
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
from cfs.fs.store.place import OpenStore
from cfs.fs.store.recovery import recover
from cfs.fs.store.volume import VOLUME_BYTES_MAX, VolumeLog
from cfs.net.ports import WallClock

RESERVE_BYTES_MIN = 64 << 20
RESERVE_SHARE = 100
"""The default reserve is a hundredth of the disk, at least the minimum."""
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
        self.reserve_bytes = (
            max(RESERVE_BYTES_MIN, total // RESERVE_SHARE)
            if reserve_bytes is None
            else reserve_bytes
        )
        self._log = VolumeLog(directory, disk_id, volume_bytes_max=volume_bytes_max)
        try:
            self._index = self._open_index(fresh=False)
            self._recover()
        except (CfsError, lmdb.Error) as error:
            self._rebuild(str(error))

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

    def room(self) -> tuple[int, int]:
        """Give (total, free above the reserve, negative when inside it) bytes."""
        total, free = self._directory.usage()
        return total, free - self.reserve_bytes

    # --- changing ------------------------------------------------------------------------------

    def commit(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> None:
        """Carry out a group; durable on return where `error` is None."""
        with self._lane:
            jobs: list[Put | Delete] = [*puts, *deletes]
            try:
                if not self.usable:
                    raise Unavailable(f"disk {self.name} takes no changes: {self._why()}")
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
        dying = [
            Tombstone(SegmentId(segment), index, entry.volume, entry.offset)
            for delete in deletes
            for segment in dict.fromkeys(delete.segments)
            for index, entry in self._index.of_segment(segment)
        ]
        fresh, dying_by_repair = self._admit(puts)
        dying += dying_by_repair
        self._bury(dying)
        places = self._store(fresh)
        if (self._log.active, self._log.end) != began:
            self._sync_or_cut(began)
        for tombstone in dying:
            entry = self._index.get(tombstone.segment, tombstone.index)
            if entry is not None and (entry.volume, entry.offset) == (
                tombstone.volume,
                tombstone.offset,
            ):
                self._index.remove(tombstone.segment, tombstone.index)
        for (put, record), (volume, offset) in zip(fresh, places, strict=False):
            self._index.insert(put.segment, put.index, Entry.of(record, volume, offset))
        for delete in deletes:
            for segment in delete.segments:
                self._index.forget(segment)
        self._punch()

    def _admit(self, puts: Sequence[Put]) -> tuple[list[tuple[Put, Record]], list[Tombstone]]:
        """Choose the puts to write: new ones that have room; give what repairs replace, too."""
        free = self._directory.usage()[1] if puts else 0
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
            if known is not None:
                if not is_same(known, record):
                    put.error = differs(put)
                    continue
                if not put.repair or self._intact(known):
                    continue
            if free - record.span < (self.reserve_bytes // 2 if put.repair else self.reserve_bytes):
                put.error = NoSpace(f"disk {self.name} has no room above its reserve")
                continue
            free -= record.span
            fresh[put.segment, put.index] = put, record
            if known is not None:
                waiting.append(Tombstone(put.segment, put.index, known.volume, known.offset))
        return list(fresh.values()), waiting

    def _bury(self, dying: list[Tombstone]) -> None:
        """Append tombstones. On a disk with no room for them the dead make it first.

        A crash in between leaves entries without blocks: their deletion was not answered, and
        works when it is asked for again.
        """
        now_ns = self._clock.time_ns()
        for at in range(0, len(dying), TOMBSTONES_MAX):
            part = dying[at : at + TOMBSTONES_MAX]
            payload = encode_tombstones(part)
            record = Record(
                kind=RecordKind.TOMBSTONE,
                written_ns=now_ns,
                payload_length=len(payload),
                block_crcs=checksum_blocks(payload),
            )
            if not self._append([(record, payload)]):
                self._clear(part)
                if not self._append([(record, payload)]):
                    raise NoSpace(f"disk {self.name} is full: deleting needs a block, ask again")

    def _clear(self, dying: list[Tombstone]) -> None:
        for tombstone in dying:
            entry = self._index.get(tombstone.segment, tombstone.index)
            if entry is not None:
                self._log.punch(entry.volume, entry.offset, entry.span)
        for volume in sorted({tombstone.volume for tombstone in dying}):
            self._log.sync(volume)

    def _append(self, records: list[tuple[Record, bytes | memoryview]]) -> list[tuple[int, int]]:
        """Append; nothing when the disk is full."""
        try:
            return self._log.append(records)
        except OSError as error:
            if error.errno != errno.ENOSPC or self._log.broken:
                raise
            return []

    def _store(self, fresh: list[tuple[Put, Record]]) -> list[tuple[int, int]]:
        if not fresh:
            return []
        places = self._append([(record, put.payload) for put, record in fresh])
        if not places:
            for put, _ in fresh:
                put.error = NoSpace(f"disk {self.name} is full")
        return places

    def _sync_or_cut(self, began: tuple[int, int]) -> None:
        try:
            self._log.sync()
            self._log.release()
        except OSError:
            # Nothing of the group is answered; without it the next open sees only what is durable.
            self._log.cut(began[1] if began[0] == self._log.active else 0)
            raise

    def _punch(self) -> None:
        """Free the blocks of dead records that were not punched yet."""
        for place, length in list(self._index.unpunched.items()):
            try:
                self._log.punch(*place, length)
            except NotFound:
                pass
            except OSError as error:
                if error.errno != errno.ENOSPC:  # no block to split an extent: again later
                    raise
                continue
            del self._index.unpunched[place]

    def _checkpoint(self) -> None:
        with self._lane:
            if not self.usable:
                return
            self._punch()
            punched = [place for place in self._index.dead if place not in self._index.unpunched]
            clean = not self._index.unpunched
            empty = [
                number
                for number in self._log.numbers()
                if number != self._log.active
                and not self._index.volumes.get(number, _NOTHING).fragments
            ]
            self._index.freeze(self._log.active, self._log.end)
        for volume in sorted({place[0] for place in punched}):
            self._log.sync(volume)
        self._index.commit()
        with self._lane:
            self._index.drop_dead(punched)
            if clean and empty:
                for number in empty:
                    self._log.remove(number)
                    self._index.drop_volume(number)
                self._log.sync_names()

    def _recover(self) -> None:
        recovered = recover(self._log, self._index)
        if recovered.lost:
            self.warnings["lost"] = (
                f"disk {self.name}: {recovered.lost} damaged places in its logs were skipped; their"
                " fragments must be repaired from others"
            )
        self._punch()

    def _rebuild(self, reason: str) -> None:
        self.warnings["rebuilt"] = f"disk {self.name}: index rebuilt from the logs ({reason})"
        corrupt_reads = 0
        if hasattr(self, "_index"):
            corrupt_reads = self._index.corrupt_reads
            self._index.close()
        self._index = self._open_index(fresh=True)
        self._index.count_corrupt(corrupt_reads)
        self._recover()

    def _open_index(self, *, fresh: bool) -> FragmentIndex:
        store = self._open_store(fresh)
        try:
            return FragmentIndex(store)
        except BaseException:
            store.close()
            raise

    def _intact(self, entry: Entry) -> bool:
        try:
            data = self._log.read(entry.volume, entry.payload_at, entry.payload_length)
        except (NotFound, OSError):
            return False
        return len(data) == entry.payload_length and blocks_match(entry.block_crcs, 0, data)

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

    def _why(self) -> str:
        return "it failed" if self.fenced else "its index is being rebuilt"


_NOTHING = Use()
