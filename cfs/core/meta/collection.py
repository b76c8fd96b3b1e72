"""Garbage: which segments may no longer be referred to, and which nothing refers to.

A round condemns segments in every shard; each then refuses new references and counts its live
ones. Where all are zero and the round still stands everywhere, the segments are deleted and the
shards told: they refuse them for ever. Deleted ids are kept as ranges of sequences per session,
joined where they touch. Rounds follow one another: a round at or below the last one closed is void.
"""

from __future__ import annotations

from collections.abc import Iterable

from cfs.core.api.meta import Extent, ExtentKind
from cfs.core.errors import Condemned as CondemnedError
from cfs.core.errors import Malformed
from cfs.core.ids import SEGMENT_ID_BYTES, SegmentId, sequence_of_segment, session_of_segment
from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import keys
from cfs.core.meta.commands import Collected, Condemn, Withdraw
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import CONDEMNATION, COUNT, DELETED, Condemnation, Deleted
from cfs.core.meta.results import Condemned, Done, Gone, Stands


def check_usable(draft: Draft, new: Iterable[Extent]) -> None:
    """Raise `Condemned` when extents refer to segments that are being collected or are gone."""
    segments = {e.segment: None for e in new if e.kind is ExtentKind.CHUNK}
    check_segments(draft, segments)


def check_segments(draft: Draft, segments: Iterable[bytes]) -> None:
    """Raise `Condemned`, naming every segment that may not be referred to."""
    if not draft.state.condemned and not draft.state.deleted:
        return
    refused = [
        s for s in segments
        if draft.get(keys.condemned(s)) is not None or is_deleted(draft, s)
    ]  # fmt: skip
    if refused:
        raise CondemnedError(
            f"{len(refused)} segments are being collected: upload their chunks again",
            segments=refused,
        )


def condemn(draft: Draft, command: Condemn) -> Condemned:
    """Apply `Condemn`."""
    _check_ids(command.segments)
    if command.round <= draft.state.round_closed:
        return Condemned(live=(-1,) * len(command.segments))
    live: list[int] = []
    record = CONDEMNATION.encode(Condemnation(command.round), draft.state.epoch)
    for segment in command.segments:
        key = keys.condemned(segment)
        value = draft.get(key)
        if value is None:
            draft.put(key, record)
            draft.state.condemned += 1
        elif CONDEMNATION.decode(value).round != command.round:
            live.append(-1)
            continue
        live.append(references(draft, segment))
    return Condemned(live=tuple(live))


def withdraw(draft: Draft, command: Withdraw) -> Done:
    """Apply `Withdraw`."""
    for key in _standing(draft, command.round):
        draft.delete(key)
        draft.state.condemned -= 1
    draft.state.round_closed = max(draft.state.round_closed, command.round)
    return Done()


def standing(kv: Reader, number: int) -> Stands:
    """Count what a round condemns."""
    return Stands(count=len(_standing(kv, number)))


def collected(draft: Draft, command: Collected) -> Gone:
    """Apply `Collected`; a segment that extents here refer to is not taken as deleted."""
    _check_ids(command.segments)
    live: list[bytes] = []
    for segment in command.segments:
        if references(draft, segment):
            live.append(segment)
            continue
        if draft.get(keys.condemned(segment)) is not None:
            draft.delete(keys.condemned(segment))
            draft.state.condemned -= 1
        draft.delete(keys.candidate(segment))
        _add_deleted(draft, segment)
    return Gone(live=tuple(live))


def references(kv: Reader, segment: bytes) -> int:
    """Count the extents that refer to a segment."""
    return sum(COUNT.decode(value).extents for _, value in kv.scan(*keys.references_range(segment)))


def is_deleted(kv: Reader, segment: bytes) -> bool:
    """Tell whether a segment is deleted."""
    session = session_of_segment(SegmentId(segment))
    sequence = sequence_of_segment(SegmentId(segment))
    below = _range_at_or_below(kv, session, sequence)
    return below is not None and below[1] >= sequence


def _add_deleted(draft: Draft, segment: bytes) -> None:
    session = session_of_segment(SegmentId(segment))
    sequence = sequence_of_segment(SegmentId(segment))
    first = last = sequence
    below = _range_at_or_below(draft, session, sequence)
    if below is not None:
        if below[1] >= sequence:
            return
        if below[1] + 1 == sequence:
            first = below[0]
            draft.state.deleted -= 1
    above = None
    if sequence + 1 < 1 << 64:
        above = draft.get(keys.deleted(session, sequence + 1))
    if above is not None:
        last = DELETED.decode(above).last
        draft.delete(keys.deleted(session, sequence + 1))
        draft.state.deleted -= 1
    record = DELETED.encode(Deleted(last), draft.state.epoch)
    draft.put(keys.deleted(session, first), record)
    draft.state.deleted += 1


def _range_at_or_below(kv: Reader, session: int, sequence: int) -> tuple[int, int] | None:
    start, end = keys.deleted(session, 0), keys.deleted(session, sequence) + b"\0"
    found = next(kv.scan(start, end, reverse=True), None)
    if found is None:
        return None
    return keys.number_at(found[0], 9), DELETED.decode(found[1]).last


def _standing(kv: Reader, number: int) -> list[bytes]:
    return [
        key
        for key, value in kv.scan(b"c", prefix_end(b"c"))
        if CONDEMNATION.decode(value).round == number
    ]


def _check_ids(segments: Iterable[bytes]) -> None:
    if any(len(s) != SEGMENT_ID_BYTES for s in segments):
        raise Malformed("a segment id has 16 bytes")
