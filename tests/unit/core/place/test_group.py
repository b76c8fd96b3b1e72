"""The rule from segment to placement group never changes and is even."""

from __future__ import annotations

from collections import Counter

from cfs.core.ids import SessionId, make_segment_id
from cfs.core.place.group import placement_group_of


def test_golden():
    segments = [make_segment_id(SessionId(7), n) for n in range(6)]
    assert [placement_group_of(s, 1024) for s in segments] == [635, 768, 605, 963, 786, 131]


def test_even():
    counts = Counter(
        placement_group_of(make_segment_id(SessionId(s), n), 16)
        for s in range(4)
        for n in range(4000)
    )
    assert len(counts) == 16
    assert max(counts.values()) < 1.15 * min(counts.values())
