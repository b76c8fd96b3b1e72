"""Majorities against a brute-force reading of their definition."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.raft.message import Config
from cfs.core.raft.quorum import UNBOUNDED, Outcome, joint_value, joint_vote

_HALF = st.sets(st.integers(1, 6), max_size=5).map(lambda s: tuple(sorted(s)))


def _quorums(voters: tuple[int, ...]):
    size = len(voters) // 2 + 1 if voters else 0
    return [set(chosen) for chosen in combinations(voters, size)]


def _brute(voters, values):
    if not voters:
        return UNBOUNDED
    return max(min(values[v] for v in quorum) for quorum in _quorums(voters))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_HALF, _HALF, st.lists(st.integers(0, 9), min_size=6, max_size=6))
def test_value_is_what_some_quorum_of_each_half_has_reached(voters, outgoing, numbers):
    values = dict(enumerate(numbers, 1))
    config = Config(voters=voters, outgoing=outgoing)
    expected = min(_brute(voters, values), _brute(outgoing, values))
    assert joint_value(config, values.__getitem__) == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_HALF, _HALF, st.dictionaries(st.integers(1, 6), st.booleans()))
def test_vote_is_won_or_lost_exactly_when_nothing_can_change_it(voters, outgoing, votes):
    def can_win(assumed):
        agreed = {v for v in {*voters, *outgoing} if votes.get(v, assumed)}
        return all(any(q <= agreed for q in _quorums(half)) for half in (voters, outgoing) if half)

    outcome = joint_vote(Config(voters=voters, outgoing=outgoing), votes)
    if can_win(False):
        assert outcome is Outcome.WON
    elif not can_win(True):
        assert outcome is Outcome.LOST
    else:
        assert outcome is Outcome.PENDING


def test_even_groups_need_more_than_half():
    config = Config(voters=(1, 2, 3, 4))
    assert joint_value(config, {1: 9, 2: 9, 3: 4, 4: 1}.__getitem__) == 4
    assert joint_vote(config, {1: True, 2: True, 3: False}) is Outcome.PENDING
    assert joint_vote(config, {1: True, 2: True, 3: False, 4: False}) is Outcome.LOST
