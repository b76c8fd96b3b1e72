"""Arithmetic of majorities, plain and joint: what a quorum agrees on.

Everything is one question: what is the highest value that a majority of the voters, and during
joint consensus a majority of the outgoing ones too, has reached? For log indexes the answer is
the commit index, for times it is when a quorum was last heard, for rounds it is what was confirmed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping

from cfs.core.raft.message import Config

UNBOUNDED = 1 << 62
"""What no voters at all have reached: they hold nobody back."""


class Outcome(enum.Enum):
    """Where a vote stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority_value(voters: tuple[int, ...], value_of: Callable[[int], int]) -> int:
    """Give the highest value that a majority of `voters` has reached."""
    if not voters:
        return UNBOUNDED
    values = sorted([value_of(voter) for voter in voters])
    return values[(len(values) - 1) >> 1]


def joint_value(config: Config, value_of: Callable[[int], int]) -> int:
    """Give the highest value that a quorum of `config` has reached; both halves must."""
    value = majority_value(config.voters, value_of)
    if config.outgoing:
        return min(value, majority_value(config.outgoing, value_of))
    return value


def majority_vote(voters: Iterable[int], votes: Mapping[int, bool]) -> Outcome:
    """Count `votes` (True: granted; absent: not yet answered) of a majority; no voters: won."""
    voters = tuple(voters)
    needed = len(voters) // 2 + 1
    granted = sum(votes.get(voter) is True for voter in voters)
    refused = sum(votes.get(voter) is False for voter in voters)
    if granted >= needed or not voters:
        return Outcome.WON
    return Outcome.LOST if len(voters) - refused < needed else Outcome.PENDING


def unanimous(config: Config, votes: Mapping[int, bool]) -> bool:
    """Say whether every voter of both halves granted."""
    return all(votes.get(voter) for half in (config.voters, config.outgoing) for voter in half)


def joint_vote(config: Config, votes: Mapping[int, bool]) -> Outcome:
    """Count `votes` in both halves: won when both are, lost when either is."""
    outcomes = {majority_vote(config.voters, votes), majority_vote(config.outgoing, votes)}
    if Outcome.LOST in outcomes:
        return Outcome.LOST
    return Outcome.PENDING if Outcome.PENDING in outcomes else Outcome.WON
