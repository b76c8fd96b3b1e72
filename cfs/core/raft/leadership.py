"""What a leader does in its term: replicate, commit, prove that it still leads, hand over.

Exists from election to resignation, so nothing of one term can leak into another. Invariants:

* only an entry of the own term is committed by counting; earlier ones come with it (Raft 5.4.2);
* the own log counts only as far as it is durable;
* the lease counts from when an answered heartbeat was *sent*. Once `TimeoutNow` went out it is void
  for the rest of the term: the target may be elected, at any later time, by voters whose promise
  it overrides.

A group without traffic still beats; a hibernating one would stop in `tick` after telling its
followers to stop their election timers.
"""

from __future__ import annotations

from collections import deque

from cfs.core.raft.log import entry_bytes
from cfs.core.raft.membership import encode_config, leave_joint, members_of, next_config
from cfs.core.raft.message import (
    Append,
    AppendReply,
    Beat,
    BeatReply,
    Dropped,
    Entry,
    EntryKind,
    Propose,
    ProposeConfig,
    Proposed,
    SendSnapshot,
    TimeoutNow,
)
from cfs.core.raft.progress import Progress, ProgressState
from cfs.core.raft.quorum import joint_value
from cfs.core.raft.reads import Reads
from cfs.core.raft.replica import Replica

_DEPARTURE_ELECTIONS = 3
"""A peer that left is told so for so many of the longest election timeouts; when it asks, again."""
_ROUNDS_MAX = 256
"""Rounds whose sending time is remembered; an answer to an older one is worth nothing."""


class Leadership:
    """One term of leading."""

    def __init__(self, replica: Replica, *, silent_ms: int) -> None:
        self._replica = replica
        lease_ms = replica.settings.election_ms_min - replica.settings.lease_margin_ms
        self.others_over_ms = replica.now_ms + min(0, lease_ms - silent_ms)
        """When no earlier leader answered reads any more. Its last lease or round was granted by a
        quorum, which holds a voter of this one, silent for `silent_ms` when it voted; after a
        transfer (silent for 0) the lease was void before."""
        self.peers: dict[int, Progress] = {}
        self._departing: dict[int, int] = {}
        """Peers that are no members any more, and until when they are told so: their replicas stay
        until they know that they were removed."""
        self.reads = Reads(replica)
        self.resigned = False
        """The machine must make this replica a follower."""
        self.transfer_to: int | None = None
        self._transfer_deadline_ms = 0
        self._lease_void = False
        self._round = 0
        self._round_times: deque[tuple[int, int]] = deque(maxlen=_ROUNDS_MAX)
        self._beat_due_ms = replica.now_ms
        self._beat_wanted = True
        self._own_from = replica.log.last_index + 1
        self._uncommitted_bytes = 0
        self._follow_config()
        self._add(EntryKind.EMPTY, b"")

    # --- what the host asks ---------------------------------------------------------------------

    def propose(self, event: Propose) -> None:
        """Append a command, or drop it."""
        replica = self._replica
        over = self._uncommitted_bytes >= replica.settings.uncommitted_bytes_max
        if over or self.transfer_to is not None:
            replica.notices.append(Dropped(token=event.token, leader=replica.node))
            return
        index = self._add(EntryKind.COMMAND, event.data)
        replica.notices.append(Proposed(token=event.token, index=index, term=replica.term))

    def propose_config(self, event: ProposeConfig) -> None:
        """Append the first step to another membership, or drop it: one change at a time."""
        replica = self._replica
        config = next_config(replica.config, event.voters, event.learners)
        settled = replica.commit >= max(self._own_from, replica.membership.current_index)
        if config is None or not settled or self.transfer_to is not None:
            replica.notices.append(Dropped(token=event.token, leader=replica.node))
            return
        index = self._add(EntryKind.CONFIG, encode_config(config))
        replica.notices.append(Proposed(token=event.token, index=index, term=replica.term))
        self._follow_config()

    def transfer(self, peer: int) -> None:
        """Hand over to a voter: no new proposals, and `TimeoutNow` once it has the whole log."""
        replica = self._replica
        if peer == replica.node or peer not in replica.config.voters or peer == self.transfer_to:
            return
        self.transfer_to = peer
        self._transfer_deadline_ms = replica.now_ms + replica.settings.election_ms_min
        self._hand_over_if_ready()

    # --- what happens ---------------------------------------------------------------------------

    def tick(self) -> None:
        """Beat when due; resign when no quorum was heard for the longest election timeout."""
        replica, now_ms = self._replica, self._replica.now_ms
        if self.transfer_to is not None and now_ms >= self._transfer_deadline_ms:
            self.transfer_to = None
        heard_ms = joint_value(replica.config, self._heard_ms)
        if now_ms - heard_ms >= replica.settings.election_ms_max:
            self.resigned = True
        elif now_ms >= self._beat_due_ms:
            self._beat_wanted = True
        for peer in [p for p, end_ms in self._departing.items() if now_ms >= end_ms]:
            del self._departing[peer], self.peers[peer]

    def campaigned(self, peer: int) -> None:
        """Hear that a replica wants to lead; if it is no member, have it learn that."""
        if peer not in self.peers and self._replica.commit >= self._own_from:
            self.peers[peer] = Progress(self._replica.log.last_index + 1, self._replica.now_ms)
            self._see_off(peer)

    def append_answered(self, reply: AppendReply) -> None:
        """Learn how far a peer's log agrees."""
        progress = self.peers.get(reply.sender)
        if progress is None:
            return
        replica, log = self._replica, self._replica.log
        progress.heard_ms = replica.now_ms
        if reply.rejected:
            index = reply.index
            if index > log.base_index:
                index = log.last_at_most(index, reply.hint_term)[0]
            elif index == log.base_index and reply.hint_term != log.base_term:
                index -= 1
            progress.rejected(max(index, 0))
        elif reply.index <= log.last_index and progress.accepted(reply.index):
            if progress.match_index > replica.commit:
                self.advance()
            if reply.sender == self.transfer_to:
                self._hand_over_if_ready()

    def beat_answered(self, reply: BeatReply) -> None:
        """Learn that a peer followed when a round was sent."""
        progress = self.peers.get(reply.sender)
        if progress is None:
            return
        progress.heard_ms = self._replica.now_ms
        if reply.round > progress.acked_round and reply.round <= self._round:
            progress.acked_round = reply.round
            for number, sent_ms in reversed(self._round_times):
                if number == reply.round:
                    progress.acked_ms = max(progress.acked_ms, sent_ms)
                    break
            if self.reads.has_waiting:
                config = self._replica.config
                self.reads.confirmed(joint_value(config, self._acked_round))
        if progress.beat_answered() and progress.state is ProgressState.REPLICATE:
            self._ask_again(reply.sender, progress)

    def snapshot_sent(self, peer: int, *, ok: bool) -> None:
        """Go on with a peer whose snapshot stream ended."""
        if (progress := self.peers.get(peer)) is not None:
            progress.snapshot_ended(ok=ok)

    def advance(self) -> None:
        """Commit what a quorum holds durably."""
        replica = self._replica
        index = joint_value(replica.config, self._match_index)
        if index <= replica.commit or replica.log.term_at(index) != replica.term:
            return
        committed = replica.log.between(max(replica.commit + 1, self._own_from), index + 1)
        self._uncommitted_bytes -= sum(map(entry_bytes, committed))
        replica.commit_to(index)
        if replica.membership.current_index > index:
            return
        config = replica.config
        if config.outgoing:
            self._add(EntryKind.CONFIG, encode_config(leave_joint(config)))
            self._follow_config()
        elif replica.node not in config.voters:
            self._leave(config.voters)

    def flush(self) -> None:
        """Send what is due: reads' answers, heartbeats, and one pipeline of Appends per peer."""
        replica = self._replica
        if self.reads.has_new and replica.commit >= self._own_from:
            if self.lease_holds():
                self.reads.answer_new()
            else:
                self._beat_wanted = True
                self.reads.await_round(self._round + 1)
        if self._beat_wanted:
            self._beat()
        for peer, progress in self.peers.items():
            if peer in self._departing and progress.match_index >= replica.membership.current_index:
                continue
            if progress.next_index <= replica.log.last_index or (
                progress.state is ProgressState.PROBE and not progress.probing
            ):
                self._feed(peer, progress)

    def lease_holds(self) -> bool:
        """Say whether no other leader can have been elected as of the last Tick."""
        replica, settings = self._replica, self._replica.settings
        if not settings.lease_reads or self._lease_void:
            return False
        acked_ms = joint_value(replica.config, self._acked_ms)
        lease_ms = settings.election_ms_min - settings.lease_margin_ms
        return replica.now_ms - acked_ms < lease_ms

    def needed_after(self) -> int:
        """Give the index after which some peer still needs the log."""
        return min((p.needs_after() for p in self.peers.values()), default=self._replica.applied)

    # --- within ---------------------------------------------------------------------------------

    def _add(self, kind: EntryKind, data: bytes) -> int:
        replica = self._replica
        entry = Entry(replica.log.last_index + 1, replica.term, kind, data)
        replica.append((entry,))
        self._uncommitted_bytes += entry_bytes(entry)
        return entry.index

    def _follow_config(self) -> None:
        """Keep one progress for each other member of the configuration, and those that depart."""
        replica = self._replica
        wanted = members_of(replica.config) - {replica.node}
        for peer in sorted(self.peers.keys() - wanted - self._departing.keys()):
            self._see_off(peer)
        for peer in wanted & self._departing.keys():
            del self._departing[peer]
        for peer in sorted(wanted - self.peers.keys()):
            self.peers[peer] = Progress(replica.log.last_index + 1, replica.now_ms)
        if self.transfer_to is not None and self.transfer_to not in wanted:
            self.transfer_to = None

    def _see_off(self, peer: int) -> None:
        settings = self._replica.settings
        for_ms = _DEPARTURE_ELECTIONS * settings.election_ms_max
        self._departing[peer] = self._replica.now_ms + for_ms

    def _match_index(self, node: int) -> int:
        return self._replica.durable if node == self._replica.node else self.peers[node].match_index

    def _heard_ms(self, node: int) -> int:
        return self._replica.now_ms if node == self._replica.node else self.peers[node].heard_ms

    def _acked_ms(self, node: int) -> int:
        return self._replica.now_ms if node == self._replica.node else self.peers[node].acked_ms

    def _acked_round(self, node: int) -> int:
        return self._round if node == self._replica.node else self.peers[node].acked_round

    def _beat(self) -> None:
        replica = self._replica
        self._beat_wanted = False
        every = replica.settings.heartbeat_ms
        self._beat_due_ms = (replica.now_ms // every + 1) * every  # all groups' at once: one frame
        self._round += 1
        self._round_times.append((self._round, replica.now_ms))
        for peer, progress in self.peers.items():
            replica.send(
                Beat(
                    group=replica.group,
                    sender=replica.node,
                    receiver=peer,
                    term=replica.term,
                    commit=min(replica.commit, progress.match_index),
                    round=self._round,
                )
            )
        if self.reads.has_waiting:
            self.reads.confirmed(joint_value(replica.config, self._acked_round))

    def _feed(self, peer: int, progress: Progress) -> None:
        replica, log, settings = self._replica, self._replica.log, self._replica.settings
        while progress.may_send(settings.inflight_max, settings.inflight_bytes_max):
            if progress.next_index <= log.base_index:
                progress.snapshot_started(log.base_index)
                replica.notices.append(SendSnapshot(peer=peer, term=replica.term))
                return
            entries: tuple[Entry, ...] = ()
            size = 0
            if progress.next_index <= log.last_index:
                entries, size = log.batch(progress.next_index, settings.append_bytes_max)
            elif progress.state is ProgressState.REPLICATE:
                return
            self._send_append(peer, progress, entries)
            progress.sent(entries[-1].index if entries else 0, size)

    def _ask_again(self, peer: int, progress: Progress) -> None:
        """Find out whether the pipeline was lost: an empty Append at its end is rejected then."""
        if progress.next_index <= self._replica.log.base_index:
            progress.rejected(progress.match_index)
        else:
            self._send_append(peer, progress, ())

    def _send_append(self, peer: int, progress: Progress, entries: tuple[Entry, ...]) -> None:
        replica = self._replica
        previous_index = progress.next_index - 1
        previous_term = replica.log.term_at(previous_index)
        assert previous_term is not None, (previous_index, replica.log.base_index)
        replica.send(
            Append(
                group=replica.group,
                sender=replica.node,
                receiver=peer,
                term=replica.term,
                previous_index=previous_index,
                previous_term=previous_term,
                entries=entries,
                commit=replica.commit,
            )
        )

    def _hand_over_if_ready(self) -> None:
        peer = self.transfer_to
        assert peer is not None
        if self.peers[peer].match_index == self._replica.log.last_index:
            self._order_election(peer)

    def _order_election(self, peer: int) -> None:
        replica = self._replica
        self._lease_void = True
        replica.send(
            TimeoutNow(group=replica.group, sender=replica.node, receiver=peer, term=replica.term)
        )

    def _leave(self, voters: tuple[int, ...]) -> None:
        """Resign: the committed configuration goes on without this replica."""
        best = max(voters, key=lambda voter: (self.peers[voter].match_index, -voter))
        self._order_election(best)
        self.resigned = True
