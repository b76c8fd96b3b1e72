"""When a replica campaigns, how it votes, and how one attempt to be elected is counted.

A campaign asks first whether it would win (pre-vote: nobody's term changes), then for votes. The
candidate's own vote counts only when it is durable: were it forgotten in a crash, the restarted
candidate could lead the same term a second time with another log.

A replica whose log lost its tail is *doubtful*: what is gone may have been acknowledged, entries
and votes alike. The rules, and why they are safe:

* It goes on, durably before anything it promises, in a term beyond every one the tail can have
  told of (`TERMS_LOST_MAX`). So it never votes again in a term whose vote it forgot, and no leader
  that counted its lost entries can count anything more from it: that leader's term is over here.
  Never two leaders in a term, whoever lost how much; nor a learner with entries of a term that is
  used twice. Chance in the leap covers a second loss that takes the leap itself along.
* Its grants say so, and are worth nothing to a majority. For a quorum of *sure* grants the usual
  argument holds: it meets every quorum that committed something in a replica that still has it,
  and that one grants only a log that has it too.
* With all tails lost such a quorum can never come about. So also those win who have the grant of
  *every* voter of both halves, under the same check of logs: whatever is left of an entry that
  was committed is left on some voter, a lost tail leaves a prefix of what was, so the log that
  beats all others has it. (What every holder among the voters lost is lost, doubts or not. A tail
  that held the addition of a voter *and* what only that voter still has is beyond this rule.)
* The doubt ends when an entry of the present term is known to be committed here
  (`Replica.settle_doubt`). A commit index alone proves nothing: a new leader's is old.

With a voter gone for good and a quorum of sure ones lacking, nobody is elected: that voter may hold
the only copy. `Campaign.waits_for` names it.
"""

from __future__ import annotations

from cfs.core.raft.membership import voters_of
from cfs.core.raft.message import PreVote, PreVoteReply, Vote, VoteReply
from cfs.core.raft.quorum import Outcome, joint_vote, unanimous
from cfs.core.raft.replica import Replica
from cfs.core.raft.settings import Settings

TERMS_LOST_MAX = 1 << 20
"""Terms a lost tail may have advanced: each takes a round among voters, a tail is milliseconds."""

_MASK = (1 << 64) - 1


class ElectionTimer:
    """When this replica last heard from a leader, and when it will campaign.

    A message is stamped by the *next* Tick, so never before it really came: the promise not to
    vote for others that lies in every answer must not end early, also when the host stalled.
    A start counts as hearing: a promise given before a crash is kept.
    """

    __slots__ = ("_fresh", "_led_ms", "_random", "_settings", "deadline_ms", "heard_ms")

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._random = seed & _MASK
        self._fresh = True
        self._led_ms = 0
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

    def ceased_to_lead(self, now_ms: int) -> None:
        """Note that this replica led until now."""
        self._led_ms = now_ms
        self.restart(now_ms)

    def silent_ms(self, now_ms: int) -> int:
        """Give for how long, at least, it has neither heard a leader nor been one."""
        return 0 if self._fresh else now_ms - max(self.heard_ms, self._led_ms)

    def terms_lost_max(self) -> int:
        """Draw how many terms to leave behind: never fewer than a tail can have held."""
        return TERMS_LOST_MAX + self._next_random() % TERMS_LOST_MAX

    def _next_random(self) -> int:
        # SplitMix64 (Steele, Lea, Flood 2014): one 64-bit state, any seed is good.
        self._random = (self._random + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._random
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
        return mixed ^ mixed >> 31


def answer_pre_vote(replica: Replica, message: PreVote, *, willing: bool) -> None:
    """Say whether this replica would vote; `willing`: no lease forbids it."""
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
            doubtful=replica.doubtful,
        )
    )


def answer_vote(replica: Replica, message: Vote, *, willing: bool, silent_ms: int) -> bool:
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
            doubtful=replica.doubtful,
            silent_ms=0 if message.transfer else silent_ms,
        ),
        after_save=granted,
    )
    return granted


class Campaign:
    """One attempt: a pre-vote (`pre`) or a vote, in the replica's term."""

    __slots__ = ("_doubtful", "_replica", "_votes", "own_save_number", "pre", "silent_ms")

    def __init__(
        self, replica: Replica, *, pre: bool, silent_ms: int, transfer: bool = False
    ) -> None:
        self._replica = replica
        self._votes: dict[int, bool] = {}
        self._doubtful: set[int] = set()
        self.pre = pre
        self.silent_ms = 0 if transfer else silent_ms
        """For how long no voter that granted this had heard a leader when it did."""
        self.own_save_number = 0
        """The `Save` that makes the own vote durable."""
        if pre:
            replica.leader = None
            self._grant_own()
        else:
            replica.enter_term(replica.term + 1, vote=replica.node)
            self.own_save_number = replica.save_number + 1
        self._ask(transfer=transfer)

    def own_vote_saved(self, number: int) -> None:
        """Count the own vote once the `Save` that holds it is durable."""
        if not self.pre and number >= self.own_save_number:
            self._grant_own()

    def answered(self, reply: PreVoteReply | VoteReply) -> None:
        """Count an answer; the first one of a voter stands."""
        if reply.sender not in self._votes:
            self._votes[reply.sender] = reply.granted
            if reply.doubtful:
                self._doubtful.add(reply.sender)
            if reply.granted and isinstance(reply, VoteReply):
                self.silent_ms = min(self.silent_ms, reply.silent_ms)

    def outcome(self) -> Outcome:
        """Say where it stands; never won without the own, durable vote."""
        config, votes = self._replica.config, self._votes
        sure = joint_vote(config, {v: votes[v] and v not in self._doubtful for v in votes})
        if sure is Outcome.WON or unanimous(config, votes):
            return Outcome.WON if self._replica.node in votes else Outcome.PENDING
        # Refused by anyone, it cannot be everyone's; while nobody refuses it still may.
        return Outcome.PENDING if all(votes.values()) else sure

    @property
    def waits_for(self) -> tuple[int, ...]:
        """Voters whose grant is lacking, when a doubtful one is counted and so all must grant."""
        votes = self._votes
        if not any(votes[voter] for voter in self._doubtful):
            return ()
        voters = voters_of(self._replica.config)
        return tuple(sorted(voter for voter in voters if not votes.get(voter)))

    def _grant_own(self) -> None:
        self._votes[self._replica.node] = True
        if self._replica.doubtful:
            self._doubtful.add(self._replica.node)

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
