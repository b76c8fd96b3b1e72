"""What a host may look at in a machine: cheap, read-only, true as of the last step."""

from __future__ import annotations

from cfs.core.raft.election import Campaign
from cfs.core.raft.follower import Follower
from cfs.core.raft.leadership import Leadership
from cfs.core.raft.message import Config, SnapshotMeta
from cfs.core.raft.replica import Replica


class View:
    """The visible side of a machine."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._follower = Follower(replica)
        self._leadership: Leadership | None = None
        self._campaign: Campaign | None = None

    def accepts_snapshot(self, meta: SnapshotMeta) -> bool:
        """Say whether a snapshot brings what this replica lacks: else it must not be installed."""
        replica = self._replica
        has_entry = replica.log.term_at(meta.index) == meta.term
        return self._leadership is None and meta.index > replica.commit and not has_entry

    @property
    def role(self) -> str:
        """follower, candidate, leader or learner."""
        if self._leadership is not None:
            return "leader"
        if self._campaign is not None:
            return "candidate"
        return "follower" if self._replica.is_voter else "learner"

    @property
    def term(self) -> int:
        """The current term."""
        return self._replica.term

    @property
    def leader(self) -> int | None:
        """Who leads the term, if known."""
        return self._replica.leader

    @property
    def commit(self) -> int:
        """Highest index known to be committed."""
        return self._replica.commit

    @property
    def applied(self) -> int:
        """Highest index handed out by `Apply`."""
        return self._replica.applied

    @property
    def durable(self) -> int:
        """Highest index of this log that is durable here."""
        return self._replica.durable

    @property
    def first_index(self) -> int:
        """First index the log still holds."""
        return self._replica.log.first_index

    @property
    def last_index(self) -> int:
        """Last index of the log."""
        return self._replica.log.last_index

    @property
    def base(self) -> SnapshotMeta:
        """What precedes `first_index`: give it as `snapshot` after a restart."""
        return self._replica.meta_at(self._replica.log.base_index)

    def meta_at(self, index: int) -> SnapshotMeta:
        """Describe the state at `index`, from the base on: the head of a snapshot stream."""
        return self._replica.meta_at(index)

    @property
    def config(self) -> Config:
        """The membership in force."""
        return self._replica.config

    @property
    def config_settled(self) -> bool:
        """Say whether the membership in force is committed and not joint."""
        replica = self._replica
        return replica.membership.current_index <= replica.commit and not replica.config.outgoing

    @property
    def doubtful(self) -> bool:
        """Say whether this replica lost a tail and has not caught up since."""
        return self._replica.doubtful

    @property
    def waits_for(self) -> tuple[int, ...]:
        """Voters whose grant this candidate lacks, when lost tails make it need everyone's."""
        return self._campaign.waits_for if self._campaign is not None else ()

    def match(self, peer: int) -> int:
        """Give up to where `peer` holds the log durably, as the leader knows; else 0."""
        if peer == self._replica.node:
            return self._replica.durable
        progress = self._leadership.peers.get(peer) if self._leadership is not None else None
        return progress.match_index if progress is not None else 0

    @property
    def lease_holds(self) -> bool:
        """Say whether a read would be answered at once, as of the last Tick."""
        return self._leadership is not None and self._leadership.lease_holds()

    @property
    def others_over_ms(self) -> int:
        """When, by the Ticks, every earlier leader had stopped answering reads; now, at worst."""
        leadership = self._leadership
        return self._replica.now_ms if leadership is None else leadership.others_over_ms

    @property
    def log_bytes(self) -> int:
        """Bytes of the log in memory."""
        return self._replica.log.bytes_size

    @property
    def saves_pending(self) -> int:
        """Saves handed out and not yet durable."""
        return self._replica.saves_pending

    @property
    def reads_pending(self) -> int:
        """Reads not answered yet."""
        return self._leadership.reads.count if self._leadership is not None else 0
