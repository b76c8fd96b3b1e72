"""The log window against a plain list, and where two logs may agree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.raft.log import Log, entry_bytes
from cfs.core.raft.message import Entry, EntryKind


def _entries(start: int, terms: list[int], size: int = 10) -> tuple[Entry, ...]:
    return tuple(
        Entry(start + i, term, EntryKind.COMMAND, bytes(size)) for i, term in enumerate(terms)
    )


def test_window_after_compaction_and_truncation():
    log = Log(4, 1, _entries(5, [1, 2, 2, 3]))
    assert (log.first_index, log.last_index, log.last_term) == (5, 8, 3)
    assert [log.term_at(i) for i in range(3, 10)] == [None, 1, 1, 2, 2, 3, None]
    log.compact(6)
    assert (log.base_index, log.base_term, log.first_index) == (6, 2, 7)
    log.truncate(8)
    assert (log.last_index, log.last_term) == (7, 2)
    log.truncate(7)
    assert (log.last_index, log.last_term, log.bytes_size) == (6, 2, 0)
    log.append(_entries(7, [5]))
    assert log.between(7, 8) == _entries(7, [5])


def test_a_gap_or_a_falling_term_is_a_bug():
    log = Log(0, 0, _entries(1, [2]))
    with pytest.raises(AssertionError):
        log.append(_entries(3, [2]))
    with pytest.raises(AssertionError):
        log.append(_entries(2, [1]))
    with pytest.raises(AssertionError):
        Log(5, 1).truncate(5)


def test_batch_is_bounded_but_never_empty():
    log = Log(0, 0, _entries(1, [1] * 5, size=100))
    one = entry_bytes(log.between(1, 2)[0])
    assert log.batch(1, 3 * one) == (log.between(1, 4), 3 * one)
    assert log.batch(1, 3 * one - 1) == (log.between(1, 3), 2 * one)
    assert log.batch(5, 1) == (log.between(5, 6), one)


def test_conflict_is_the_first_entry_that_is_missing_or_differs():
    log = Log(0, 0, _entries(1, [1, 1, 2]))
    assert log.conflict(_entries(1, [1, 1, 2])) is None
    assert log.conflict(_entries(2, [1, 2, 2])) == 4
    assert log.conflict(_entries(2, [1, 3])) == 3
    assert log.conflict(()) is None


def test_tail_start_keeps_what_fits():
    log = Log(10, 1, _entries(11, [1] * 5, size=68))
    assert log.tail_start(15, 300) == 13
    assert log.tail_start(15, 99) == 16
    assert log.tail_start(15, 10**6) == 11
    assert log.tail_start(13, 100) == 13


def test_a_log_is_current_by_term_first():
    log = Log(0, 0, _entries(1, [1, 2]))
    assert log.is_current(2, 2)
    assert log.is_current(1, 3)
    assert not log.is_current(9, 1)
    assert not log.is_current(1, 2)


_TERMS = st.lists(st.integers(1, 4), min_size=1, max_size=8).map(sorted)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_TERMS, _TERMS)
def test_hints_find_the_common_prefix_in_few_rounds(left, right):
    """A leader and a follower that exchange hints as the machine does end where they agree.

    The logs share a prefix; behind it the terms differ, as log matching guarantees.
    """
    shared = 0
    while shared < min(len(left), len(right)) and left[shared] == right[shared]:
        shared += 1
    ours, theirs = left, right
    behind = zip(ours[shared:], theirs[shared:], strict=False)
    if any(a == b for a, b in behind):
        return  # same (index, term) behind a difference: no Raft history makes that
    leader, follower = Log(0, 0, _entries(1, ours)), Log(0, 0, _entries(1, theirs))
    previous, rounds = leader.last_index, 0
    while follower.term_at(previous) != leader.term_at(previous):
        term = leader.term_at(previous)
        assert term is not None
        hint, hint_term = follower.last_at_most(previous, term)
        following = leader.last_at_most(hint, hint_term)[0]
        assert following < previous, "a probe must go down"
        previous, rounds = following, rounds + 1
    assert previous <= shared
    assert rounds <= len(set(ours)) + len(set(theirs))
