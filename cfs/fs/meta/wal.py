"""The write-ahead log that all Raft replicas of a node share: group commit, replay, reclaim.

Decides what is durable and what of the log may go. `wal_format` owns the bytes.

* `write` puts a batch of records of any groups down in one append and one sync; when it returns
  they are durable. One thread at a time calls it, or its halves `prepare` and `commit`. If it
  raises, nothing more may be written: after a failed sync nobody knows what the disk holds, so the
  log refuses (LogFailed) and the node must stop.
* Opening replays: per group the hard state, the snapshot mark and the entries after it. Only
  whole batches count. A torn tail is cut and `torn` says so; every replica then carries a durable
  `doubtful` until the host lifts it, because a cut record may have been acknowledged. Damage
  before valid later batches raises Corrupt and changes nothing.
* The file grows to `segment_bytes`, then the next batch opens a new segment. That batch begins
  with every group's state and mark, so that older segments matter only for entries. Beyond
  `SEGMENTS_MAX` the oldest goes: live entries that idle groups still have in it are copied
  ahead into the same batch, and the file is removed once that batch is durable.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from cfs.core.errors import CfsError, Corrupt, NoSpace
from cfs.core.raft.message import Entry, HardState, SnapshotMeta
from cfs.fs.disk.port import Directory, File
from cfs.fs.meta.wal_check import log_damage
from cfs.fs.meta.wal_format import (
    SEGMENT_HEADER_BYTES,
    Kind,
    Record,
    SegmentReader,
    encode_batch,
    segment_header,
)
from cfs.fs.meta.wal_live import NO_SNAPSHOT, Live, Span

SEGMENT_BYTES = 64 << 20
SEGMENTS_MAX = 3
"""Segments kept: bounds the disk the log takes and the time a replay takes."""
COPY_BYTES_MAX = 16 << 20
"""Live entries copied to free a segment; with more than that the segment stays one turn longer."""


class LogFailed(CfsError):
    """The log could not be written or synced: the node must stop, and replay when it restarts."""


class Replayed(msgspec.Struct, kw_only=True):
    """One group as the log gives it back."""

    state: HardState = HardState()
    snapshot: SnapshotMeta = NO_SNAPSHOT
    entries: list[Entry] = []
    """Consecutive, the first one right after `snapshot.index`."""
    doubtful: bool = False


class Prepared(NamedTuple):
    """A batch on its way; `parts` is None when it opens a segment and is encoded there."""

    records: Sequence[Record]
    parts: list[bytes | memoryview] | None


class Wal:
    """The log in `directory`, which it owns. Blocking; opening replays.

    With `doubt_short_tails=False` a tail that only lacks its end raises no doubt: no sync that
    returned can have covered it, unless the disk lies, and a disk that lies can lose whole batches
    as well, which no check here would notice. Bytes that are wrong always raise doubt.

    Raises Corrupt for damage, LogFailed when cutting a torn tail fails.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        doubt_short_tails: bool = True,
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._doubt_short_tails = doubt_short_tails
        self._live: dict[int, Live] = {}
        self._sizes: dict[int, int] = {}
        self._file: File | None = None
        self._sequence = 0
        self._offset = 0
        self._batch = 1
        self._failed = False
        self._segments_max = SEGMENTS_MAX
        self._lost_perhaps = False
        self.torn: str | None = None
        """Where a torn tail was cut, for people; None when there was none."""
        self.replayed: dict[int, Replayed] = {}
        """What the log held when it was opened; the host takes it over."""
        try:
            self._replay()
        except OSError as error:
            raise LogFailed(f"the write-ahead log cannot be opened: {error}") from error

    def prepare(self, records: Sequence[Record]) -> Prepared:
        """Encode a batch for `commit`, which must follow before the next `prepare`.

        Does not block, so that the thread that commits needs the interpreter but briefly.
        """
        if self._file is None or self._offset == 0 or self._offset >= self._segment_bytes:
            return Prepared(records, None)
        return Prepared(records, self._encode(records, self._offset))

    def commit(self, prepared: Prepared) -> None:
        """Make a batch durable. Blocks. Raises LogFailed, then and ever after."""
        if self._failed:
            raise LogFailed("the write-ahead log failed before: restart the node")
        try:
            records, parts = prepared
            if parts is None:
                self._open_segment(records)
            else:
                self._put(parts, records)
        except (OSError, CfsError) as error:
            self._failed = True
            full = isinstance(error, NoSpace) or getattr(error, "errno", 0) == errno.ENOSPC
            action = "free space on its disk" if full else "check its disk"
            raise LogFailed(
                f"the write-ahead log failed ({error}), so this node stops: {action}, then start it"
            ) from error

    def write(self, records: Sequence[Record]) -> None:
        """Prepare and commit a batch; nothing happens when it is empty."""
        if records:
            self.commit(self.prepare(records))

    def damage(self) -> str:
        """Say what is wrong with what is on the disk; from any thread, while others write."""
        sizes = {_name(s): (s, size) for s, size in list(self._sizes.items()) if size}
        return log_damage(self._directory, sizes)

    def renew(self, records: Sequence[Record]) -> bool:
        """Begin a new segment with `records` and remove all before it; as `write`.

        False: a segment before it has entries that `records` did not bring again, and stays.
        """
        self._offset = max(self._offset, self._segment_bytes)
        self._segments_max = len(self._sizes) + 1
        self.write(records)
        self._segments_max = SEGMENTS_MAX
        live = {span.sequence for group in self._live.values() for span in group.spans}
        for sequence in [s for s in self._sizes if s != self._sequence and s not in live]:
            self._directory.remove(_name(sequence))
            del self._sizes[sequence]
        self._directory.sync()
        return len(self._sizes) == 1

    def bytes_used(self) -> int:
        """Give the bytes of all segments."""
        return sum(self._sizes.values())

    @property
    def segment_count(self) -> int:
        """How many segment files there are."""
        return len(self._sizes)

    def close(self) -> None:
        """Close the file; what `write` returned from is durable already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- writing -------------------------------------------------------------------------------

    def _encode(self, records: Sequence[Record], offset: int) -> list[bytes | memoryview]:
        return encode_batch(records, sequence=self._sequence, offset=offset, batch=self._batch)

    def _put(self, parts: list[bytes | memoryview], records: Sequence[Record]) -> None:
        assert self._file is not None
        self._file.append(parts)
        self._file.sync()
        self._offset += sum(map(len, parts))
        self._sizes[self._sequence] = self._offset
        self._batch += 1
        for record in records:
            self._note(record, self._sequence)

    def _open_segment(self, records: Sequence[Record]) -> None:
        """Write the first batch of a segment, then remove segments it made superfluous."""
        if self._file is None or self._offset >= self._segment_bytes:
            self._roll()
        checkpoint, doomed = self._checkpoint()
        records = [*checkpoint, *records]
        parts = self._encode(records, SEGMENT_HEADER_BYTES)
        self._put([segment_header(self._sequence), *parts], records)
        if doomed:
            for sequence in doomed:
                self._directory.remove(_name(sequence))
                del self._sizes[sequence]
            self._directory.sync()

    def _roll(self) -> None:
        if self._file is not None:
            self._file.close()
        self._sequence += 1
        self._file = self._directory.open(_name(self._sequence), create=True)
        self._directory.sync()
        self._sizes[self._sequence] = 0
        self._offset = 0
        self._batch = 1

    def _checkpoint(self) -> tuple[list[Record], list[int]]:
        """Give what a new segment opens with, and the segments that may go once it is durable."""
        records: list[Record] = []
        for group, live in self._live.items():
            records.append(Record(Kind.MARK, group, live.snapshot))
            records.append(Record(Kind.STATE, group, live.state))
            if live.doubtful:
                records.append(Record(Kind.DOUBT, group, True))
        doomed: list[int] = []
        size = 0
        for sequence in sorted(self._sizes)[: max(0, len(self._sizes) - self._segments_max)]:
            copies = self._copies(sequence)
            size += sum(len(e.data) for r in copies for e in r.body)
            if size > COPY_BYTES_MAX:
                break
            records += copies
            doomed.append(sequence)
        return records, doomed

    def _copies(self, sequence: int) -> list[Record]:
        """Read back the live entries of a segment; raises Corrupt when it no longer has them."""
        wanted = {
            group: [s for s in live.spans if s.sequence == sequence]
            for group, live in self._live.items()
        }
        wanted = {group: spans for group, spans in wanted.items() if spans}
        if not wanted:
            return []
        found: dict[int, dict[int, Entry]] = {group: {} for group in wanted}
        with self._reading(sequence) as segment:
            for batch in segment.batches():
                for kind, group, body in batch:
                    if group in found and kind in (Kind.ENTRIES, Kind.COPY):
                        live = (e for e in body if any(_within(e, s) for s in wanted[group]))
                        found[group].update((entry.index, entry) for entry in live)
        records = []
        for group, spans in wanted.items():
            for span in spans:
                indexes = range(span.first, span.last + 1)
                if any(i not in found[group] for i in indexes):
                    raise Corrupt(f"{_name(sequence)} lost entries of group {group}")
                copied = tuple(found[group][i] for i in indexes)
                records.append(Record(Kind.COPY, group, copied))
        return records

    def _note(self, record: Record, sequence: int) -> None:
        """Keep account of what is live after a durable record."""
        if record.kind is Kind.REMOVE:
            self._live.pop(record.group, None)
            return
        live = self._live.get(record.group)
        if live is None:
            live = self._live[record.group] = Live()
        live.note(record, sequence)

    # --- replay --------------------------------------------------------------------------------

    def _replay(self) -> None:
        sequences = sorted(s for s in map(_sequence, self._directory.names()) if s is not None)
        found: dict[int, _Replay] = {}
        for sequence in sequences:
            with self._reading(sequence) as segment:
                for batch in segment.batches():
                    for record in batch:
                        _replay_record(found, record)
                        self._note(record, sequence)
            if sequence == sequences[-1]:
                self._cut_tail(sequence, segment)
                self._batch = segment.batch_count + 1
            elif segment.whole_bytes != self._sizes[sequence]:
                raise Corrupt(
                    f"{_name(sequence)} is damaged at offset {segment.whole_bytes} (later segments "
                    "exist): remove this replica and let its peers rebuild it",
                    file=_name(sequence),
                    offset=segment.whole_bytes,
                )
        self.replayed = {group: replay.finish(group) for group, replay in found.items()}
        if self._lost_perhaps and self._live:
            for replayed in self.replayed.values():
                replayed.doubtful = True
            self.write([Record(Kind.DOUBT, group, True) for group in self._live])

    @contextmanager
    def _reading(self, sequence: int) -> Iterator[SegmentReader]:
        name = _name(sequence)
        file = self._directory.open(name)
        try:
            size = self._sizes[sequence] = file.size()
            yield SegmentReader(file.pread, size, name=name, sequence=sequence)
        finally:
            file.close()

    def _cut_tail(self, sequence: int, segment: SegmentReader) -> None:
        """Continue in the last segment after its last whole batch."""
        whole_bytes = segment.whole_bytes
        self._file = self._directory.open(_name(sequence))
        self._sequence = sequence
        self._offset = whole_bytes
        if (size := self._sizes[sequence]) > whole_bytes:
            self.torn = f"{_name(sequence)}: {size - whole_bytes} bytes cut at {whole_bytes}"
            self._lost_perhaps = self._doubt_short_tails or not segment.is_short
            self._file.truncate(whole_bytes)
        self._file.sync()
        self._sizes[sequence] = whole_bytes


class _Replay:
    """A group while its records go by."""

    def __init__(self) -> None:
        self.result = Replayed()
        self.entries: dict[int, Entry] = {}
        self.last = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Take entries without replacing others."""
        self.entries.update((entry.index, entry) for entry in entries)
        self.last = max(self.last, entries[-1].index)

    def forget(self, start: int) -> None:
        """Drop everything from index `start` on."""
        for index in range(start, self.last + 1):
            self.entries.pop(index, None)
        self.last = min(self.last, start - 1)

    def finish(self, group: int) -> Replayed:
        """Give the result. Raises Corrupt when an entry is missing."""
        result = self.result
        first = result.snapshot.index + 1
        for index in range(first, first + len(self.entries)):
            if index not in self.entries:
                raise Corrupt(f"the write-ahead log lost entry {index} of group {group}")
            result.entries.append(self.entries[index])
        return result


def _replay_record(  # noqa: C901 - one branch a kind
    found: dict[int, _Replay], record: Record
) -> None:
    kind, group, body = record
    if kind is Kind.REMOVE:
        found.pop(group, None)
        return
    replay = found.get(group)
    if replay is None:
        replay = found[group] = _Replay()
    match kind:
        case Kind.STATE:
            replay.result.state = body
        case Kind.ENTRIES if body:
            replay.forget(body[0].index)
            replay.add(body)
        case Kind.COPY if body:
            replay.add(body)
        case Kind.TRUNCATE:
            replay.forget(body)
        case Kind.MARK:
            replay.result.snapshot = body
            for index in [i for i in replay.entries if i <= body.index]:
                del replay.entries[index]
        case Kind.RESET:
            replay.result.snapshot = body
            replay.forget(0)
        case Kind.DOUBT:
            replay.result.doubtful = body
        case _:
            pass


def _within(entry: Entry, span: Span) -> bool:
    return span.first <= entry.index <= span.last


def _name(sequence: int) -> str:
    return f"wal-{sequence:016x}"


def _sequence(name: str) -> int | None:
    prefix, _, digits = name.partition("-")
    return int(digits, 16) if prefix == "wal" and len(digits) == 16 else None
