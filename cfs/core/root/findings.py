"""What scrub and fsck found, as the root group remembers it: what, where, since when, what became.

A finding is one fault of one object and is named by its key: found again it is the same finding,
seen again. It is *open* until something repaired it, or until a later look at the same object did
not find it any more (*gone*). Bounded: the oldest closed ones are forgotten first; when `KEPT_MAX`
are open, new ones only count.
"""

from __future__ import annotations

import enum

import msgspec

from cfs.core.errors import Malformed
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records

FINDING_PREFIX = b"f"
OVERFLOW_KEY = b"F"
KEPT_MAX = 1000
BATCH_MAX = 200
KEY_MAX = 200
TEXT_MAX = 500


class FindingState(enum.StrEnum):
    """What became of a fault."""

    OPEN = "open"
    REPAIRED = "repaired"
    GONE = "gone"


class FindingRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One fault of one object."""

    key: str
    kind: str
    where: str
    detail: str
    state: FindingState
    since_ms: int
    """First found, in its present life: a fault after a repair begins anew."""
    seen_ms: int
    count: int = 1
    segment: bytes = b""
    index: int = -1


class Overflow(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Findings that were not kept because too many are open."""

    count: int = 0


records.add_kind(FindingRecord)
records.add_kind(Overflow)


def read_findings(kv: Reader) -> list[FindingRecord]:
    """Give every finding that is remembered, in the order of their keys."""
    return records.get_all(kv, FindingRecord, FINDING_PREFIX)


def overflow(kv: Reader) -> int:
    """Count the findings that were not kept."""
    return (records.get(kv, Overflow, OVERFLOW_KEY) or Overflow()).count


def note(kv: Writer, command: commands.NoteFindings) -> int:
    """Keep findings; value: how many were new."""
    if len(command.findings) > BATCH_MAX:
        raise Malformed(f"{len(command.findings)} findings at once")
    known = {f.key: f for f in read_findings(kv)}
    fresh = 0
    for found in command.findings:
        key = found.key[:KEY_MAX]
        before = known.get(key)
        alive = before is not None and before.state == FindingState.OPEN
        if before is None and len(known) >= KEPT_MAX and not _make_room(kv, known):
            kv.put(OVERFLOW_KEY, records.encode(Overflow(count=overflow(kv) + 1)))
            continue
        fresh += not alive
        record = FindingRecord(
            key=key,
            kind=found.kind[:TEXT_MAX],
            where=found.where[:TEXT_MAX],
            detail=found.detail[:TEXT_MAX],
            state=FindingState.REPAIRED if found.repaired else FindingState.OPEN,
            since_ms=before.since_ms if before is not None and alive else command.now_ms,
            seen_ms=command.now_ms,
            count=1 if before is None else before.count + 1,
            segment=found.segment,
            index=found.index,
        )
        known[key] = record
        _put(kv, record)
    return fresh


def close(kv: Writer, command: commands.CloseFindings) -> int:
    """Close what a whole look at these kinds did not find again; value: how many."""
    closed = 0
    for record in read_findings(kv):
        if (
            record.state == FindingState.OPEN
            and record.kind in command.kinds
            and record.seen_ms < command.before_ms
            and (not command.where or record.where.split(" ")[0] in command.where)
        ):
            _put(kv, msgspec.structs.replace(record, state=FindingState.GONE))
            closed += 1
    return closed


def _make_room(kv: Writer, known: dict[str, FindingRecord]) -> bool:
    over = [f for f in known.values() if f.state != FindingState.OPEN]
    if not over:
        return False
    oldest = min(over, key=lambda f: (f.seen_ms, f.key))
    kv.delete(FINDING_PREFIX + oldest.key.encode())
    del known[oldest.key]
    return True


def _put(kv: Writer, record: FindingRecord) -> None:
    kv.put(FINDING_PREFIX + record.key.encode(), records.encode(record))
