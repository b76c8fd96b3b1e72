"""Which records of the log still matter to a group, and in which segment its entries lie.

The log keeps one `Live` per group, changed by every durable record in order. A new segment repeats
state and mark from it; entries in a segment about to go are found by it.
"""

from __future__ import annotations

import msgspec

from cfs.core.raft.message import Config, HardState, SnapshotMeta
from cfs.fs.meta.wal_format import Kind, Record

NO_SNAPSHOT = SnapshotMeta(index=0, term=0, config=Config())


class Span(msgspec.Struct):
    """Live entries `first..last` of a group, in one segment."""

    first: int
    last: int
    sequence: int


class Live(msgspec.Struct):
    """What a checkpoint must repeat for a group, and where its entries lie, in index order."""

    state: HardState = HardState()
    snapshot: SnapshotMeta = NO_SNAPSHOT
    doubtful: bool = False
    spans: list[Span] = []

    def note(self, record: Record, sequence: int) -> None:
        """Take a durable record of segment `sequence` into account."""
        body = record.body
        match record.kind:
            case Kind.STATE:
                self.state = body
            case Kind.ENTRIES if body:
                _cut(self.spans, body[0].index)
                _extend(self.spans, body[0].index, body[-1].index, sequence)
            case Kind.COPY if body:
                _move(self.spans, body[0].index, body[-1].index, sequence)
            case Kind.TRUNCATE:
                _cut(self.spans, body)
            case Kind.MARK:
                self.snapshot = body
                _drop(self.spans, body.index)
            case Kind.RESET:
                self.snapshot = body
                self.spans.clear()
            case Kind.DOUBT:
                self.doubtful = body
            case _:
                pass


def _cut(spans: list[Span], start: int) -> None:
    """Forget everything from index `start` on."""
    while spans and spans[-1].first >= start:
        spans.pop()
    if spans and spans[-1].last >= start:
        spans[-1].last = start - 1


def _drop(spans: list[Span], index: int) -> None:
    """Forget everything up to `index`."""
    gone = 0
    while gone < len(spans) and spans[gone].last <= index:
        gone += 1
    del spans[:gone]
    if spans and spans[0].first <= index:
        spans[0].first = index + 1


def _extend(spans: list[Span], first: int, last: int, sequence: int) -> None:
    if spans and spans[-1].sequence == sequence and spans[-1].last + 1 == first:
        spans[-1].last = last
    else:
        spans.append(Span(first, last, sequence))


def _move(spans: list[Span], first: int, last: int, sequence: int) -> None:
    """Note that live entries `first..last`, or what is left of them, now lie in `sequence`."""
    before = [s for s in spans if s.last < first]
    after = [s for s in spans if s.first > last]
    for span in spans:
        if span.first <= last < span.last:
            after.insert(0, Span(last + 1, span.last, span.sequence))
        if span.first < first <= span.last:
            before.append(Span(span.first, first - 1, span.sequence))
    spans[:] = [*before, Span(first, last, sequence), *after]
