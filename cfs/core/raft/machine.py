"""The Raft machine of one replica: hears events, decides, says what the host must do.

Decides the role and answers as a follower; a candidate's attempt is `election.Campaign`, a
leader's term `leadership.Leadership`. What must hold (each has a checker in
`tests/model/test_raft.py`): one leader a term; logs that agree at an index agree before it; what
is committed is in every later leader's log; replicas apply the same entries in the same order.

What the host owes beside the contract in `message`:

* a `Tick` with the present time first in every batch that holds a `Read`: the lease is judged at
  the last Tick, and `Settings.lease_margin_ms` is all that covers a later one;
* to ask `accepts_snapshot` directly before it installs one, and to step nothing between that and
  `SnapshotRestored`;
* messages of one connection in order: none from before a replica's crash arrives after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from cfs.core.raft.election import Campaign, ElectionTimer, answer_pre_vote, answer_vote
from cfs.core.raft.leadership import Leadership
from cfs.core.raft.message import (
    AnyMessage,
    Append,
    AppendReply,
    Beat,
    BeatReply,
    Compact,
    Config,
    ConfigChanged,
    Dropped,
    Effect,
    Entry,
    Event,
    HardState,
    PreVote,
    PreVoteReply,
    Propose,
    ProposeConfig,
    Read,
    ReadFailed,
    Received,
    RoleChanged,
    Saved,
    SnapshotMeta,
    SnapshotRestored,
    SnapshotSent,
    Tick,
    TimeoutNow,
    Transfer,
    Vote,
    VoteReply,
)
from cfs.core.raft.quorum import Outcome
from cfs.core.raft.replica import Replica
from cfs.core.raft.settings import Settings
from cfs.core.raft.view import View


class Machine(View):
    """One replica of a group; synchronous, knows no clock and no disk.

    `applied` is what the host's state durably holds; `Apply` goes on after it. `snapshot` is the
    log's base as `base` gave it, `entries` what follows. `doubtful`: the log lost a tail, now or
    before a restart since which the machine was still `doubtful`; its votes then count less
    (`election`), and the host must remember it until the machine says otherwise.
    Raises Corrupt when log and state do not belong together.
    """

    def __init__(
        self,
        *,
        group: int,
        node: int,
        state: HardState,
        snapshot: SnapshotMeta,
        entries: Sequence[Entry],
        applied: int,
        settings: Settings,
        seed: int,
        doubtful: bool = False,
    ) -> None:
        replica = Replica(
            group=group,
            node=node,
            state=state,
            snapshot=snapshot,
            entries=entries,
            applied=applied,
            settings=settings,
        )
        super().__init__(replica)
        self._timer = ElectionTimer(settings, seed)
        if doubtful:
            replica.doubt(self._timer.terms_lost_max())
        self._ticked = False
        self._told_role: tuple[str, int, int | None] = ("", -1, None)
        self._told_config: Config | None = None

    def entries_after(self, index: int) -> tuple[Entry, ...]:
        """Give the entries of the log from `index` + 1 on; `index` is not before the base."""
        log = self._replica.log
        return log.between(index + 1, log.last_index + 1)

    def step(self, event: Event) -> list[Effect]:
        """Take one event in; give the effects, to be executed in order."""
        self._take(event)
        return self._flush()

    def step_many(self, events: Iterable[Event]) -> list[Effect]:
        """Take events in; give one Save and one Append per peer for all of them."""
        for event in events:
            self._take(event)
        return self._flush()

    # --- events ---------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:  # noqa: C901, PLR0912  # one branch an event
        leadership = self._leadership
        match event:
            case Received(message=message):
                self._receive(message)
            case Saved(number=number):
                self._saved(number)
            case Propose():
                if leadership is None:
                    self._drop(event.token)
                else:
                    leadership.propose(event)
            case Tick(now_ms=now_ms):
                self._tick(now_ms)
            case Read(token=token):
                if leadership is None:
                    leader = self._replica.leader
                    self._replica.notices.append(ReadFailed(token=token, leader=leader))
                else:
                    leadership.reads.add(token)
            case Compact(index=index):
                self._compact(index)
            case ProposeConfig():
                if leadership is None:
                    self._drop(event.token)
                else:
                    leadership.propose_config(event)
            case SnapshotSent(peer=peer, ok=ok):
                if leadership is not None:
                    leadership.snapshot_sent(peer, ok=ok)
            case SnapshotRestored():
                self._snapshot_restored(event)
            case Transfer(peer=peer):
                if leadership is not None:
                    leadership.transfer(peer)
            case _:
                raise AssertionError(event)
        if self._leadership is not None and self._leadership.resigned:
            self._follow(self._replica.term, None)

    def _drop(self, token: int) -> None:
        self._replica.notices.append(Dropped(token=token, leader=self._replica.leader))

    def _tick(self, now_ms: int) -> None:
        replica = self._replica
        replica.now_ms = max(replica.now_ms, now_ms)
        self._timer.tick(replica.now_ms)
        self._ticked = True
        if self._leadership is not None:
            self._leadership.tick()
        elif replica.now_ms >= self._timer.deadline_ms:
            self._timer.restart(replica.now_ms)
            if replica.may_campaign:
                self._start_campaign(pre=True)

    def _saved(self, number: int) -> None:
        self._replica.saved(number)
        if self._leadership is not None:
            self._leadership.advance()
        elif self._campaign is not None:
            self._campaign.own_vote_saved(number)
            self._settle_campaign()

    def _compact(self, index: int) -> None:
        replica, log = self._replica, self._replica.log
        index = min(index, replica.applied)
        bytes_max = replica.settings.log_bytes_max
        kept = log.tail_start(index, bytes_max // 4) - 1
        if self._leadership is not None and (needed := self._leadership.needed_after()) < kept:
            kept = max(needed, log.tail_start(index, bytes_max) - 1)
        replica.compact(min(index, kept))

    def _snapshot_restored(self, event: SnapshotRestored) -> None:
        replica = self._replica
        if event.term >= replica.term and self._leadership is None:
            self._follow(event.term, event.sender)
        replica.restore(event.meta)
        self._follower.acknowledge(event.sender, event.meta.index)

    # --- roles ----------------------------------------------------------------------------------

    def _follow(self, term: int, leader: int | None) -> None:
        """Become a follower in `term`, of `leader` if known."""
        replica = self._replica
        if term > replica.term:
            replica.enter_term(term)
            self._follower.forget()
        replica.leader = leader
        self._campaign = None
        if self._leadership is not None:
            self._leadership.reads.fail(leader)
            self._leadership = None
            self._timer.ceased_to_lead(replica.now_ms)

    def _start_campaign(self, *, pre: bool, transfer: bool = False) -> None:
        self._follower.forget()
        silent_ms = self._timer.silent_ms(self._replica.now_ms)
        self._campaign = Campaign(self._replica, pre=pre, silent_ms=silent_ms, transfer=transfer)
        self._timer.restart(self._replica.now_ms)
        self._settle_campaign()

    def _settle_campaign(self) -> None:
        campaign = self._campaign
        assert campaign is not None
        match campaign.outcome():
            case Outcome.WON if campaign.pre:
                self._start_campaign(pre=False)
            case Outcome.WON:
                self._campaign = None
                self._replica.leader = self._replica.node
                self._leadership = Leadership(self._replica, silent_ms=campaign.silent_ms)
            case Outcome.LOST:
                self._follow(self._replica.term, None)
            case Outcome.PENDING:
                pass

    # --- messages -------------------------------------------------------------------------------

    def _receive(self, message: AnyMessage) -> None:  # noqa: C901, PLR0912  # one branch a message
        replica = self._replica
        if message.group != replica.group or message.receiver != replica.node:
            return
        leadership = self._leadership
        match message:
            case Append():
                if self._from_leader(message):
                    self._follower.append(message)
            case AppendReply():
                if self._in_own_term(message) and leadership is not None:
                    leadership.append_answered(message)
            case Beat():
                if self._from_leader(message):
                    self._follower.beat(message)
            case BeatReply():
                if self._in_own_term(message) and leadership is not None:
                    leadership.beat_answered(message)
            case Vote():
                self._vote(message)
            case VoteReply():
                if self._in_own_term(message):
                    self._vote_answered(message, pre=False)
            case PreVote():
                willing = self._is_willing(transfer=message.transfer)
                answer_pre_vote(replica, message, willing=willing)
                if leadership is not None:
                    leadership.campaigned(message.sender)
            case PreVoteReply():
                if message.granted:
                    valid = message.term == replica.term + 1
                else:
                    valid = self._in_own_term(message)
                if valid:
                    self._vote_answered(message, pre=True)
            case TimeoutNow():
                self._timeout_now(message)
            case _:
                assert_never(message)

    def _in_own_term(self, reply: AnyMessage) -> bool:
        """Follow a later term that a reply shows; say whether the reply is of the own one."""
        if reply.term > self._replica.term:
            self._follow(reply.term, None)
            return False
        return reply.term == self._replica.term

    def _from_leader(self, message: Append | Beat) -> bool:
        """Follow the sender of an Append or Beat; tell one of an earlier term to resign."""
        replica = self._replica
        if message.term < replica.term:
            self._follower.refuse(message.sender)
            return False
        if message.term > replica.term or replica.leader != message.sender:
            assert self._leadership is None or message.term > replica.term, "two leaders in a term"
            self._follow(message.term, message.sender)
        self._timer.heard()
        return True

    def _is_willing(self, *, transfer: bool) -> bool:
        """Say whether no leader's lease forbids to vote.

        A leader never does: it resigns by check-quorum.
        """
        if transfer:
            return True
        return self._leadership is None and not self._timer.protects(self._replica.now_ms)

    def _vote(self, message: Vote) -> None:
        replica = self._replica
        willing = self._is_willing(transfer=message.transfer)
        if message.term > replica.term:
            if not willing:
                return
            self._follow(message.term, None)
        silent_ms = self._timer.silent_ms(replica.now_ms)
        if answer_vote(replica, message, willing=willing, silent_ms=silent_ms):
            self._timer.restart(replica.now_ms)

    def _vote_answered(self, reply: PreVoteReply | VoteReply, *, pre: bool) -> None:
        campaign = self._campaign
        if campaign is not None and campaign.pre is pre:
            campaign.answered(reply)
            self._settle_campaign()

    def _timeout_now(self, message: TimeoutNow) -> None:
        replica = self._replica
        ordered = message.term == replica.term and message.sender == replica.leader
        if ordered and self._ticked and replica.may_campaign:
            self._start_campaign(pre=False, transfer=True)

    # --- effects --------------------------------------------------------------------------------

    def _flush(self) -> list[Effect]:
        """Give the effects: notices, what may go at once, Apply, Save, what must wait for it."""
        replica = self._replica
        if self._leadership is not None:
            self._leadership.flush()
        else:
            self._follower.flush()
        replica.settle_doubt()
        effects = self._changes()
        effects += replica.notices
        effects += replica.sends_at_once
        if (apply := replica.take_apply()) is not None:
            effects.append(apply)
        if (save := replica.take_save()) is not None:
            effects.append(save)
        effects += replica.sends_after_save
        replica.notices.clear()
        replica.sends_at_once.clear()
        replica.sends_after_save.clear()
        return effects

    def _changes(self) -> list[Effect]:
        replica = self._replica
        effects: list[Effect] = []
        role = (self.role, replica.term, replica.leader)
        if role != self._told_role:
            self._told_role = role
            effects.append(RoleChanged(role=role[0], term=role[1], leader=role[2]))
        if replica.config is not self._told_config:
            self._told_config = replica.config
            effects.append(ConfigChanged(config=replica.config))
        return effects
