"""Bringing an index up to its logs: after a crash from the recorded position, or from nothing.

Decides which bytes of a log count. Three claims, and why they hold:

* *A cut tail was never acknowledged.* A put or delete is answered after one fdatasync that covers
  its whole record, and only the active volume (the highest) has bytes that were not synced: the
  one before was synced when it was left. So after a crash every acknowledged record is whole; what
  follows the last whole record of the active volume belongs to appends that no sync covered. Only
  that is cut. (A read error while scanning the active volume is no licence to cut: it is raised.)
* *A deleted fragment does not come back.* Its tombstone was durable before the index forgot it and
  before its blocks were punched, and the tombstone's volume is removed only after every dead
  record's blocks were durably free and the index was durable past it. A replay that meets the
  record meets the tombstone later in the same order.
* *No other fragment vanishes.* A tombstone names a position and matches only the very record there;
  positions are never used twice for records that were indexed.

A record with a whole header and a damaged payload is not indexed: the fragment is lost here, unless
it was never acknowledged; to repair it is right in either case, to vouch for it in neither. It is
punched, so that no later rebuild takes its header for the word of a synced volume. Other damage
between records is skipped, counted and left on the disk; the dead part of it (a tombstone
names its place: a hole half punched) is punched again.
"""

from __future__ import annotations

import contextlib
import errno

import msgspec

from cfs.core.errors import Corrupt, NoSpace
from cfs.core.segment.record import ALIGNMENT, RecordKind, decode_tombstones
from cfs.fs.store.index import PENDING_MAX, Entry, FragmentIndex
from cfs.fs.store.scan import Found, Gap, scan_volume
from cfs.fs.store.volume import VolumeLog


class Recovered(msgspec.Struct, kw_only=True):
    """What a replay did."""

    records: int = 0
    lost: int = 0
    """Places of damage that no tombstone explains."""
    cut_bytes: int = 0


class PositionLost(Corrupt):
    """The index speaks of logs that are not there: rebuild it from nothing."""


def recover(log: VolumeLog, index: FragmentIndex) -> Recovered:
    """Replay the logs from the index's position to their end, cut the tail; commits as it goes.

    Raises PositionLost, OSError.
    """
    volume, offset = _start(log, index)
    rebuild = index.position is None
    recovered = Recovered()
    damage: dict[tuple[int, int], int] = {}
    if rebuild:
        # A hole that only the page cache knows hides a dead record, and nothing would note that
        # its blocks are not durably free: its tombstone could go first.
        for number in log.numbers():
            log.sync(number)
    for number in [n for n in log.numbers() if n >= volume]:
        start = offset if number == volume else 0
        last = _replay_volume(
            log, index, number, start, recovered=recovered, damage=damage, rebuild=rebuild
        )
        if number == log.active:
            _end_active(log, index, last, recovered, damage)
    recovered.lost = len(damage)
    if damage:
        index.count_lost(len(damage))
    log.sync()  # a record that only the page cache holds was adopted, too
    for number in [n for n in index.volumes if n not in log.numbers()]:
        index.drop_volume(number)
    _commit(index, log.active, log.end)
    return recovered


def _commit(index: FragmentIndex, volume: int, end: int) -> None:
    index.freeze(volume, end)
    with contextlib.suppress(NoSpace):  # it stays in memory until deletions made room
        index.commit()


def _start(log: VolumeLog, index: FragmentIndex) -> tuple[int, int]:
    numbers = log.numbers()
    missing = [n for n, use in index.volumes.items() if use.fragments and n not in numbers]
    if missing:
        raise PositionLost(f"volumes {missing} with live fragments are gone")
    if index.position is None:
        return 0, 0
    volume, offset = index.position
    if volume not in numbers or log.size(volume) < offset:
        raise PositionLost(f"volume {volume} is shorter than the index knows ({offset} bytes)")
    return volume, offset


def _replay_volume(
    log: VolumeLog,
    index: FragmentIndex,
    volume: int,
    start: int,
    *,
    recovered: Recovered,
    damage: dict[tuple[int, int], int],
    rebuild: bool,
) -> int:
    """Replay one volume; give the end of its last whole record."""
    active = volume == log.active
    end = start
    reader = _Reader(log, volume, tolerant=not active)
    events = scan_volume(
        reader,
        disk_id=log.disk_id,
        volume=volume,
        start=start,
        size=log.size(volume),
        # In a rebuild, volumes before the active one are known to have been synced: headers do.
        verify=active or not rebuild,
    )
    for event in events:
        if isinstance(event, Gap):
            if event.damaged:
                damage[volume, event.offset] = event.length
            if event.headed and not reader.failed:  # what cannot be read is not destroyed
                index.add_dead(volume, event.offset, event.length)
            continue
        _replay_record(index, volume, event, damage)
        recovered.records += 1
        end = event.offset + event.record.span
        if index.pending > PENDING_MAX:
            log.sync(volume)
            _commit(index, volume, end)
    return end


def _replay_record(
    index: FragmentIndex, volume: int, found: Found, damage: dict[tuple[int, int], int]
) -> None:
    record = found.record
    if record.kind is RecordKind.FRAGMENT:
        index.insert(record.segment, record.index, Entry.of(record, volume, found.offset))
    elif record.kind is RecordKind.TOMBSTONE:
        for dead in decode_tombstones(found.payload):
            entry = index.get(dead.segment, dead.index)
            if entry is not None and (entry.volume, entry.offset) == (dead.volume, dead.offset):
                index.remove(dead.segment, dead.index)
            elif length := damage.pop((dead.volume, dead.offset), 0):
                index.add_dead(dead.volume, dead.offset, length)


def _end_active(
    log: VolumeLog,
    index: FragmentIndex,
    end: int,
    recovered: Recovered,
    damage: dict[tuple[int, int], int],
) -> None:
    volume = log.active
    size = log.size(volume)
    if end < size:
        for place in [p for p in damage if p[0] == volume and p[1] >= end]:
            del damage[place]
        recovered.cut_bytes = size - end
    # These offsets will be used again.
    index.drop_dead([p for p in index.dead if p[0] == volume and p[1] >= end])
    log.repair_end(end)


class _Reader:
    """Reads one volume. With `tolerant` an unreadable block reads as 0xff: no record, no hole."""

    def __init__(self, log: VolumeLog, volume: int, *, tolerant: bool) -> None:
        self.failed = False
        self._log = log
        self._volume = volume
        self._tolerant = tolerant

    def __call__(self, offset: int, length: int) -> bytes:
        try:
            return self._try(offset, length)
        except OSError as error:
            if not self._tolerant or error.errno != errno.EIO:
                raise
        if length <= ALIGNMENT:
            self.failed = True
            return b"\xff" * length
        return b"".join(
            self(at, min(ALIGNMENT, offset + length - at))
            for at in range(offset, offset + length, ALIGNMENT)
        )

    def _try(self, offset: int, length: int) -> bytes:
        try:
            return self._log.read(self._volume, offset, length)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        return self._log.read(self._volume, offset, length)  # once more before it counts
