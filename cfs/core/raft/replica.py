"""The state every role shares: terms, the log and how far it is durable, committed, handed out.

Owns the outbox of a step and the numbering of `Save`s. Invariants:

* `applied <= min(commit, durable)`: an entry is applied only when this replica holds it durably,
  so the log never ends before the applied index.
* what a pending `Save` says stays true only up to the index where the log was cut since.
* term and vote change only here, and every change leads to a `Save` in the same step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from cfs.core.errors import Corrupt
from cfs.core.raft.log import Log
from cfs.core.raft.membership import Membership, voters_of
from cfs.core.raft.message import (
    AnyMessage,
    Apply,
    Config,
    Effect,
    Entry,
    HardState,
    Save,
    Send,
    SnapshotMeta,
)
from cfs.core.raft.settings import Settings


class Replica:
    """One replica's log and hard state, and what the step under way will ask of the host."""

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
    ) -> None:
        self.group = group
        self.node = node
        self.settings = settings
        self.term = max(state.term, snapshot.term)
        self.vote = state.vote if self.term == state.term else 0
        following = tuple(entry for entry in entries if entry.index > snapshot.index)
        _check_restart(group, snapshot, following, applied)
        self.log = Log(snapshot.index, snapshot.term, following)
        self.term = max(self.term, self.log.last_term)
        self.membership = Membership(snapshot.index, snapshot.config)
        self.membership.append(following)
        self.applied = applied
        self.commit = max(applied, min(state.commit, self.log.last_index))
        self.durable = self.log.last_index
        self.leader: int | None = None
        self.doubtful = False
        """The log lost a tail that may have been acknowledged; see `election`."""
        self.now_ms = 0
        self.save_number = 0
        self.notices: list[Effect] = []
        self.sends_at_once: list[Effect] = []
        self.sends_after_save: list[Effect] = []
        self._pending_saves: deque[tuple[int, int]] = deque()
        self._unsaved_from = self.log.last_index + 1
        self._truncated_from: int | None = None
        self._saved_state = (state.term, state.vote)

    @property
    def config(self) -> Config:
        """The membership in force."""
        return self.membership.current

    @property
    def is_voter(self) -> bool:
        """Say whether this replica's vote counts."""
        return self.node in voters_of(self.membership.current)

    @property
    def may_campaign(self) -> bool:
        """Say whether this replica may have to lead: its vote counts, or counted as of the commit.

        While the entry that removes it is not committed, it may hold the only log that is complete.
        """
        return self.is_voter or self.node in voters_of(self.membership.at(self.commit))

    @property
    def saves_pending(self) -> int:
        """Saves handed out and not yet durable."""
        return len(self._pending_saves)

    def send(self, message: AnyMessage, *, after_save: bool = False) -> None:
        """Put a message into the outbox."""
        outbox = self.sends_after_save if after_save else self.sends_at_once
        outbox.append(Send(message=message, after_save=after_save))

    def enter_term(self, term: int, vote: int = 0) -> None:
        """Go to a later term, with a vote in it or none yet."""
        assert term > self.term, (term, self.term)
        self.term, self.vote, self.leader = term, vote, None

    def doubt(self, terms_lost_max: int) -> None:
        """Note that a tail was lost; leave behind every term a vote of which it may have held."""
        self.doubtful = True
        self.enter_term(self.term + terms_lost_max)

    def settle_doubt(self) -> None:
        """End the doubt once an entry of the present term, later than the loss, is committed here.

        What was committed before it precedes it in its leader's log, hence here.
        """
        if self.doubtful and self.log.term_at(self.commit) == self.term:
            self.doubtful = False

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Add entries at the end of the log, to be saved with this step."""
        self.log.append(entries)
        self.membership.append(entries)

    def truncate(self, index: int) -> None:
        """Cut the log from `index` on: a leader says otherwise. Never below what is committed."""
        assert index > self.commit, (index, self.commit)
        self.log.truncate(index)
        self.membership.truncate(index)
        self.durable = min(self.durable, index - 1)
        self._unsaved_from = min(self._unsaved_from, index)
        cut = self._truncated_from
        self._truncated_from = index if cut is None else min(cut, index)
        self._pending_saves = deque((n, min(last, index - 1)) for n, last in self._pending_saves)

    def commit_to(self, index: int) -> None:
        """Raise the commit index."""
        assert index <= self.log.last_index, (index, self.log.last_index)
        self.commit = max(self.commit, index)

    def compact(self, index: int) -> None:
        """Forget the log up to `index`, which is applied."""
        assert index <= self.applied, (index, self.applied)
        self.log.compact(index)
        self.membership.compact(self.log.base_index)

    def restore(self, meta: SnapshotMeta) -> None:
        """Take over a durable snapshot.

        Entries behind it that agree with it may have been acknowledged: they stay and are saved
        again. Without agreement the log restarts empty.
        """
        log = self.log
        if meta.index <= self.commit:
            assert meta.index >= log.base_index, "the installed snapshot is older than the log"
            self.applied = min(self.applied, meta.index)
        elif log.term_at(meta.index) == meta.term:
            log.compact(meta.index)
            self.membership.compact(meta.index)
            self.applied = self.commit = meta.index
        else:
            log.reset(meta.index, meta.term)
            self.membership.reset(meta.index, meta.config)
            self.applied = self.commit = meta.index
        self.durable = meta.index
        self._unsaved_from = meta.index + 1
        self._truncated_from = None
        self._pending_saves = deque((n, meta.index) for n, _ in self._pending_saves)

    def saved(self, number: int) -> None:
        """Note that a `Save`, and all before it, are durable."""
        pending = self._pending_saves
        while pending and pending[0][0] <= number:
            self.durable = max(self.durable, pending.popleft()[1])

    def take_save(self) -> Save | None:
        """Give what must become durable since the last one, if anything."""
        last_index, start = self.log.last_index, self._unsaved_from
        cut = self._truncated_from
        state = (self.term, self.vote)
        if start > last_index and cut is None and state == self._saved_state:
            return None
        self.save_number += 1
        self._pending_saves.append((self.save_number, last_index))
        self._unsaved_from = last_index + 1
        self._truncated_from = None
        self._saved_state = state
        return Save(
            number=self.save_number,
            state=HardState(term=self.term, vote=self.vote, commit=self.commit),
            entries=self.log.between(start, last_index + 1) if start <= last_index else (),
            truncate_from=cut,
        )

    def take_apply(self) -> Apply | None:
        """Give the entries that are committed and durable here and were not handed out."""
        end = min(self.commit, self.durable)
        if end <= self.applied:
            return None
        entries = self.log.between(self.applied + 1, end + 1)
        self.applied = end
        return Apply(entries=entries)

    def meta_at(self, index: int) -> SnapshotMeta:
        """Describe a snapshot of the state at `index`, within the log's window or its base."""
        term = self.log.term_at(index)
        assert term is not None, (index, self.log.base_index, self.log.last_index)
        return SnapshotMeta(index=index, term=term, config=self.membership.at(index))


def _check_restart(
    group: int, snapshot: SnapshotMeta, entries: tuple[Entry, ...], applied: int
) -> None:
    """Refuse a log and a state that do not belong together."""
    first = entries[0].index if entries else snapshot.index + 1
    last = snapshot.index + len(entries)
    if first != snapshot.index + 1 or (entries and entries[-1].index != last):
        raise Corrupt(
            f"group {group}: the log after {snapshot.index} has a gap; rebuild from its peers"
        )
    if not snapshot.index <= applied <= last:
        raise Corrupt(
            f"group {group}: state is applied up to {applied}, but the log covers "
            f"{snapshot.index}..{last}; rebuild from its peers"
        )
