"""When a replica campaigns, how it votes, and how one attempt to be elected is counted.

A campaign asks first whether it would win (pre-vote: nobody's term changes), then for votes. The
candidate's own vote counts only when it is durable: were it forgotten in a crash, the restarted
candidate could lead the same term a second time with another log.
"""

from __future__ import annotations

from cfs.core.raft.membership import voters_of
from cfs.core.raft.message import PreVote, PreVoteReply, Vote, VoteReply
from cfs.core.raft.quorum import Outcome, joint_vote
from cfs.core.raft.replica import Replica
from cfs.core.raft.settings import Settings

_MASK = (1 << 64) - 1


class ElectionTimer:
    """When this replica last heard from a leader, and when it will campaign.

    A message is stamped by the *next* Tick, so never before it really came: the promise not to
    vote for others that lies in every answer must not end early, also when the host stalled.
    A start counts as hearing: a promise given before a crash is kept.
    """

    __slots__ = ("_fresh", "_random", "_settings", "deadline_ms", "heard_ms")

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._random = seed & _MASK
        self._fresh = True
        self.heard_ms = 0
        self.deadline_ms = 0

    def heard(self) -> None:
        """Note that the leader was heard just now."""
        self._fresh = True

    def tick(self, now_ms: int) -> None:
        """Stamp what was heard since the last tick."""
        if self._fresh:
            self._fresh = False
            self.heard_ms = now_ms
            self.restart(now_ms)

    def restart(self, now_ms: int) -> None:
        """Draw a new election timeout."""
        low, high = self._settings.election_ms_min, self._settings.election_ms_max
        self.deadline_ms = now_ms + low + self._next_random() % (high - low + 1)

    def protects(self, now_ms: int) -> bool:
        """Say whether a leader was heard too recently to vote for another."""
        return self._fresh or now_ms - self.heard_ms < self._settings.election_ms_min

    def _next_random(self) -> int:
        # SplitMix64 (Steele, Lea, Flood 2014): one 64-bit state, any seed is good.
        self._random = (self._random + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._random
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
        return mixed ^ mixed >> 31


def answer_pre_vote(replica: Replica, message: PreVote, *, willing: bool) -> None:
    """Say whether this replica would vote; `willing`: it may vote and no lease forbids it."""
    granted = (
        willing
        and message.term > replica.term
        and replica.log.is_current(message.last_index, message.last_term)
    )
    replica.send(
        PreVoteReply(
            group=replica.group,
            sender=replica.node,
            receiver=message.sender,
            term=message.term if granted else replica.term,
            granted=granted,
        )
    )


def answer_vote(replica: Replica, message: Vote, *, willing: bool) -> bool:
    """Vote, once and durably, for a candidate of this term whose log is as good; say if it did."""
    granted = (
        willing
        and message.term == replica.term
        and replica.leader is None
        and replica.vote in (0, message.sender)
        and replica.log.is_current(message.last_index, message.last_term)
    )
    if granted:
        replica.vote = message.sender
    replica.send(
        VoteReply(
            group=replica.group,
            sender=replica.node,
            receiver=message.sender,
            term=replica.term,
            granted=granted,
        ),
        after_save=granted,
    )
    return granted


class Campaign:
    """One attempt: a pre-vote (`pre`) or a vote, in the replica's term."""

    __slots__ = ("_replica", "_votes", "own_save_number", "pre")

    def __init__(self, replica: Replica, *, pre: bool, transfer: bool = False) -> None:
        self._replica = replica
        self._votes: dict[int, bool] = {}
        self.pre = pre
        self.own_save_number = 0
        """The `Save` that makes the own vote durable."""
        if pre:
            replica.leader = None
            self._votes[replica.node] = True
        else:
            replica.enter_term(replica.term + 1, vote=replica.node)
            self.own_save_number = replica.save_number + 1
        self._ask(transfer=transfer)

    def own_vote_saved(self, number: int) -> None:
        """Count the own vote once the `Save` that holds it is durable."""
        if not self.pre and number >= self.own_save_number:
            self._votes[self._replica.node] = True

    def answered(self, voter: int, *, granted: bool) -> None:
        """Count an answer; the first one of a voter stands."""
        self._votes.setdefault(voter, granted)

    def outcome(self) -> Outcome:
        """Say where it stands; never won without the own, durable vote."""
        outcome = joint_vote(self._replica.config, self._votes)
        if outcome is Outcome.WON and self._replica.node not in self._votes:
            return Outcome.PENDING
        return outcome

    def _ask(self, *, transfer: bool) -> None:
        replica, log = self._replica, self._replica.log
        for peer in sorted(voters_of(replica.config) - {replica.node}):
            if self.pre:
                replica.send(
                    PreVote(
                        group=replica.group,
                        sender=replica.node,
                        receiver=peer,
                        term=replica.term + 1,
                        last_index=log.last_index,
                        last_term=log.last_term,
                    )
                )
            else:
                replica.send(
                    Vote(
                        group=replica.group,
                        sender=replica.node,
                        receiver=peer,
                        term=replica.term,
                        last_index=log.last_index,
                        last_term=log.last_term,
                        transfer=transfer,
                    )
                )
