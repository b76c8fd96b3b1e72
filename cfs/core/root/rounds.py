"""Garbage rounds as the root group remembers them: numbered once, moved only forward.

    CONDEMNING ──> DELETING ──> OWED ──> closed
        └────────> WITHDRAWING ────────> closed     (DELETING closes when nothing is pending)

Numbers are never reused, so a shard that hears of a closed round knows it is over. What a round
means to a shard is `cfs.core.meta`; who drives it is `cfs.fs.root.collector`.
"""

from __future__ import annotations

import msgspec

from cfs.core.errors import Malformed, NotFound, Refused
from cfs.core.ids import SEGMENT_ID_BYTES
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records
from cfs.core.root.records import Phase, RoundRecord, encode, get, get_counters, long_key

OPEN_ROUNDS_MAX = 256
"""Bounds what the group remembers: 256 rounds of 4,096 segments are 16 MiB."""

_NEXT: dict[Phase, tuple[Phase, ...]] = {
    Phase.CONDEMNING: (Phase.DELETING, Phase.WITHDRAWING),
    Phase.DELETING: (Phase.OWED,),
    Phase.WITHDRAWING: (),
    Phase.OWED: (),
}


def read_rounds(kv: Reader) -> list[RoundRecord]:
    """Give every round that is not closed, oldest first."""
    return records.get_all(kv, RoundRecord, records.ROUND_PREFIX)


def open_round(kv: Writer, command: commands.OpenRound) -> int:
    """Give the round its number."""
    if not 0 < len(command.segments) <= commands.ROUND_SEGMENTS_MAX:
        raise Malformed(f"a garbage round over {len(command.segments)} segments")
    if any(len(s) != SEGMENT_ID_BYTES for s in command.segments):
        raise Malformed("a garbage round over something that is not a segment id")
    if len(read_rounds(kv)) >= OPEN_ROUNDS_MAX:
        raise Refused("too many garbage rounds wait for nodes that are down: bring them back")
    counters = get_counters(kv)
    number = counters.next_round
    kv.put(records.COUNTERS_KEY, encode(msgspec.structs.replace(counters, next_round=number + 1)))
    _put(
        kv,
        RoundRecord(number=number, phase=Phase.CONDEMNING, segments=command.segments, pending=()),
    )
    return number


def advance(kv: Writer, command: commands.AdvanceRound) -> int:
    """Move a round on; again to where it stands changes nothing."""
    record = _require(kv, command.number)
    try:
        phase = Phase(command.phase)
    except ValueError as error:
        raise Malformed(f"{command.phase} is not a phase of a garbage round") from error
    if phase == record.phase:
        return command.number
    if phase not in _NEXT[record.phase]:
        raise Refused(f"round {record.number} cannot go from {record.phase.name} to {phase.name}")
    pending = command.pending if phase == Phase.DELETING else record.pending
    _put(kv, msgspec.structs.replace(record, phase=phase, pending=pending))
    return command.number


def deleted(kv: Writer, command: commands.RoundDeleted) -> int:
    """Take nodes off the pending ones. Value: how many are left."""
    record = _require(kv, command.number)
    if record.phase not in (Phase.DELETING, Phase.OWED):
        raise Refused(f"round {record.number} is {record.phase.name}: nothing is deleted in it")
    pending = tuple(n for n in record.pending if n not in command.nodes)
    _put(kv, msgspec.structs.replace(record, pending=pending))
    return len(pending)


def close(kv: Writer, command: commands.CloseRound) -> int:
    """Forget a round; one already forgotten is no error."""
    record = get(kv, RoundRecord, long_key(records.ROUND_PREFIX, command.number))
    if record is None:
        return command.number
    if record.phase == Phase.CONDEMNING or record.pending:
        raise Refused(f"round {record.number} is {record.phase.name} and cannot be closed yet")
    kv.delete(long_key(records.ROUND_PREFIX, record.number))
    return command.number


def _require(kv: Reader, number: int) -> RoundRecord:
    record = get(kv, RoundRecord, long_key(records.ROUND_PREFIX, number))
    if record is None:
        raise NotFound(f"garbage round {number} is over")
    return record


def _put(kv: Writer, record: RoundRecord) -> None:
    kv.put(long_key(records.ROUND_PREFIX, record.number), encode(record))
