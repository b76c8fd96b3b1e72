"""Whether a fragment's record is on the disk as the index says: header, checksums, every block.

Reads past the page cache, so that what the disk holds is judged and not what memory remembers.
Blocks; says what is wrong in words, changes nothing.
"""

from __future__ import annotations

from cfs.core.errors import NotFound
from cfs.core.segment.record import RecordKind, blocks_match, decode_header, place_of
from cfs.fs.store.index import Entry, FragmentIndex
from cfs.fs.store.volume import VolumeLog


def damage_of(
    index: FragmentIndex, log: VolumeLog, disk_id: bytes, segment: bytes, number: int
) -> tuple[Entry | None, str]:
    """Find fragment `number` of a segment and say what is wrong with it.

    No entry: it is not here any more. Raises IndexDamaged.
    """
    seen: Entry | None = None
    while True:
        entry = index.get(segment, number)
        said = "" if entry is None else _damage_at(log, disk_id, segment, number, entry)
        if not said or entry == seen:  # read twice, wrong twice
            return entry, said
        seen = entry


def is_intact(log: VolumeLog, entry: Entry) -> bool:
    """Tell whether a fragment's bytes match their checksums, wherever they are read from."""
    try:
        data = log.read(entry.volume, entry.payload_at, entry.payload_length)
    except (NotFound, OSError):
        return False
    return len(data) == entry.payload_length and blocks_match(entry.block_crcs, 0, data)


def _damage_at(log: VolumeLog, disk_id: bytes, segment: bytes, index: int, entry: Entry) -> str:
    """Say what is wrong with the record of a fragment; empty when nothing is."""
    try:
        log.forget(entry.volume, entry.offset, entry.span)
        data = memoryview(log.read(entry.volume, entry.offset, entry.length))
    except NotFound as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    if len(data) < entry.length:
        return f"its volume {entry.volume} ends inside it"
    start = entry.payload_at - entry.offset
    if not blocks_match(entry.block_crcs, 0, data[start:]):
        return f"its bytes in volume {entry.volume} do not match their checksums"
    record = decode_header(data[:start], place_of(disk_id, entry.volume, entry.offset))
    if record is None or record.kind is not RecordKind.FRAGMENT:
        return f"its header in volume {entry.volume} does not match its checksum"
    if (record.segment, record.index) != (segment, index) or (
        Entry.of(record, entry.volume, entry.offset) != entry
    ):
        return f"its header in volume {entry.volume} describes another fragment"
    return ""
