"""Giving back the space of dead records: tombstones, holes, empty volumes.

Decides the order in which a death becomes final. Tombstone durable -> index forgets the fragment
and notes its record as dead -> blocks punched -> volume synced -> note dropped -> and only when no
record is dead and unpunched may a volume without fragments go, with the tombstones it holds.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from cfs.core.errors import NoSpace, NotFound
from cfs.core.ids import SegmentId
from cfs.core.segment.record import (
    TOMBSTONES_MAX,
    Record,
    RecordKind,
    Tombstone,
    checksum_blocks,
    encode_tombstones,
)
from cfs.fs.store.index import Entry, FragmentIndex, Use
from cfs.fs.store.jobs import Delete
from cfs.fs.store.volume import VolumeLog

PUNCHES_MAX = 32
"""Holes to punch while puts wait: 0.15 to 3 ms each of 2 MiB (ext4, mounted with discard)."""

_NOTHING = Use()


RESERVE_BYTES_MIN = 64 << 20
RESERVE_SHARE = 100
SMALL_SHARE = 8


def reserve_of(total: int) -> int:
    """Give what puts leave free of a disk: a hundredth, at least 64 MiB.

    On a small disk an eighth at most: it would never take anything.
    """
    return max(min(RESERVE_BYTES_MIN, total // SMALL_SHARE), total // RESERVE_SHARE)


def append_or_full(
    log: VolumeLog, records: list[tuple[Record, bytes | memoryview]]
) -> list[tuple[int, int]]:
    """Append and give the places; none when the disk is full (and the tail cut off again)."""
    try:
        return log.append(records)
    except OSError as error:
        if error.errno != errno.ENOSPC or log.broken:
            raise
        return []


def list_dying(index: FragmentIndex, deletes: Iterable[Delete]) -> list[Tombstone]:
    """Name every fragment that is to be deleted, once."""
    doomed: dict[tuple[bytes, int], Entry | None] = {}
    for delete in deletes:
        for segment in delete.segments:
            doomed.update({(segment, i): entry for i, entry in index.of_segment(segment)})
        for segment, number in delete.fragments:
            doomed[segment, number] = index.get(segment, number)
    return [
        Tombstone(SegmentId(segment), number, entry.volume, entry.offset)
        for (segment, number), entry in doomed.items()
        if entry is not None
    ]


def bury(log: VolumeLog, index: FragmentIndex, dying: list[Tombstone], now_ns: int) -> None:
    """Append tombstones. On a disk with no room for them the dying make it first.

    A crash in between leaves entries without blocks: their deletion was not answered, and works
    when it is asked for again. Raises NoSpace when there is no room even then, OSError.
    """
    for at in range(0, len(dying), TOMBSTONES_MAX):
        part = dying[at : at + TOMBSTONES_MAX]
        payload = encode_tombstones(part)
        record = Record(
            kind=RecordKind.TOMBSTONE,
            written_ns=now_ns,
            payload_length=len(payload),
            block_crcs=checksum_blocks(payload),
        )
        if append_or_full(log, [(record, payload)]):
            continue
        _clear(log, index, part)
        if not append_or_full(log, [(record, payload)]):
            raise NoSpace("the disk is full and deleting needs a block: ask again")


def forget_buried(index: FragmentIndex, dying: Iterable[Tombstone]) -> None:
    """Remove from the index what durable tombstones name."""
    for tombstone in dying:
        entry = index.get(tombstone.segment, tombstone.index)
        place = tombstone.volume, tombstone.offset
        if entry is not None and (entry.volume, entry.offset) == place:
            index.remove(tombstone.segment, tombstone.index)


def punch_dead(log: VolumeLog, index: FragmentIndex, limit: int | None = None) -> None:
    """Free the blocks of dead records that were not punched yet. Raises OSError."""
    for place, length in list(index.unpunched.items())[:limit]:
        try:
            log.punch(*place, length)
        except NotFound:
            pass
        except OSError as error:
            if error.errno != errno.ENOSPC:  # no block to split an extent: again later
                raise
            continue
        del index.unpunched[place]


def list_empty(log: VolumeLog, index: FragmentIndex) -> list[int]:
    """List the volumes that hold nothing but tombstones; none while a dead record has blocks."""
    if index.unpunched:
        return []
    return [
        number
        for number in log.numbers()
        if number != log.active and not index.volumes.get(number, _NOTHING).fragments
    ]


def sync_volumes(log: VolumeLog, volumes: Iterable[int]) -> None:
    """Make holes durable. Raises OSError."""
    for volume in sorted(set(volumes)):
        try:
            log.sync(volume)
        except NotFound:
            continue


def remove_volumes(log: VolumeLog, index: FragmentIndex, volumes: list[int]) -> None:
    """Remove empty volumes. Raises OSError."""
    for volume in volumes:
        log.remove(volume)
        index.drop_volume(volume)
    if volumes:
        log.sync_names()


def _clear(log: VolumeLog, index: FragmentIndex, dying: list[Tombstone]) -> None:
    for tombstone in dying:
        entry = index.get(tombstone.segment, tombstone.index)
        if entry is not None:
            log.punch(entry.volume, entry.offset, entry.span)
    sync_volumes(log, (tombstone.volume for tombstone in dying))
