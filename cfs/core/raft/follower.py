"""How a follower answers its leader: takes entries in, says how far the logs agree.

Owns the one AppendReply a step gives: however many Appends a step holds, their highest index is
acknowledged once, after the Save.
"""

from __future__ import annotations

from cfs.core.raft.message import Append, AppendReply, Beat, BeatReply, Entry
from cfs.core.raft.replica import Replica


class Follower:
    """The following side of a replica."""

    __slots__ = ("_acknowledge", "_replica")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._acknowledge: tuple[int, int] | None = None
        """Leader and index of the one AppendReply this step will give."""

    def append(self, message: Append) -> None:
        """Take entries in, or say where the logs may still agree."""
        replica, log = self._replica, self._replica.log
        entries, previous_index = message.entries, message.previous_index
        last_index = previous_index + len(entries)
        if previous_index != log.last_index or message.previous_term != log.last_term:
            if previous_index < log.base_index:
                entries = entries[log.base_index - previous_index :]
                last_index = max(last_index, log.base_index)
            elif log.term_at(previous_index) != message.previous_term:
                hint = log.last_at_most(previous_index, message.previous_term)
                self._reject(message.sender, *hint)
                return
            entries = self._without_known(entries)
        if entries:
            replica.append(entries)
        if message.commit > replica.commit:
            replica.commit_to(max(replica.commit, min(message.commit, last_index)))
        self.acknowledge(message.sender, last_index)

    def _without_known(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Give the entries from the first unknown one on, having cut what contradicts it."""
        replica = self._replica
        start = replica.log.conflict(entries)
        if start is None:
            return ()
        if start <= replica.log.last_index:
            replica.truncate(start)
        return entries[start - entries[0].index :]

    def _reject(self, leader: int, index: int, term: int) -> None:
        replica = self._replica
        replica.send(
            AppendReply(
                group=replica.group,
                sender=replica.node,
                receiver=leader,
                term=replica.term,
                index=index,
                rejected=True,
                hint_term=term,
            )
        )

    def beat(self, message: Beat) -> None:
        """Answer a heartbeat at once: the promise in it is the timer's, nothing to save."""
        replica = self._replica
        if message.commit > replica.commit:
            replica.commit_to(min(message.commit, replica.log.last_index))
        replica.send(
            BeatReply(
                group=replica.group,
                sender=replica.node,
                receiver=message.sender,
                term=replica.term,
                round=message.round,
            )
        )

    def refuse(self, sender: int) -> None:
        """Tell a leader of an earlier term that its time is over."""
        self._reject(sender, self._replica.log.last_index, 0)

    def acknowledge(self, leader: int, index: int) -> None:
        """Promise `leader`, once this step's Save is durable, that the logs agree to `index`."""
        if self._acknowledge is not None and self._acknowledge[0] == leader:
            index = max(index, self._acknowledge[1])
        self._acknowledge = (leader, index)

    def forget(self) -> None:
        """Drop the promise: the term it was for is over."""
        self._acknowledge = None

    def flush(self) -> None:
        """Send the promise, if one is due."""
        if self._acknowledge is None:
            return
        leader, index = self._acknowledge
        self._acknowledge = None
        replica = self._replica
        replica.send(
            AppendReply(
                group=replica.group,
                sender=replica.node,
                receiver=leader,
                term=replica.term,
                index=index,
            ),
            after_save=True,
        )
