"""What log and state, opened after a crash, say together: which groups there are, and from where.

The log decides which groups exist: creation and removal are its records, and LMDB follows. A state
ahead of its log comes from a snapshot that was installed while the log had not restarted yet, or
from a log that lost a tail; either way what is applied is committed, so the log restarts there.
A state behind the log's mark is damage, which the machine refuses.
"""

from __future__ import annotations

from cfs.core.raft.message import SnapshotMeta
from cfs.fs.meta.group_record import meta_key
from cfs.fs.meta.state import State
from cfs.fs.meta.wal import Replayed, Wal
from cfs.fs.meta.wal_format import Kind, Record


def reconcile(log: Wal, state: State) -> dict[int, Replayed]:
    """Give each group's log as its machine should see it; `state` then holds the same groups.

    Blocks. Takes `log.replayed` over.
    """
    found, log.replayed = log.replayed, {}
    for number in [g for g in state.groups if g not in found]:
        state.store.write([(meta_key(number), None)], sync=True)
        del state.groups[number]
    for number, replayed in found.items():
        held = state.groups.get(number)
        if held is None:
            state.create(number, replayed.snapshot.config)
        elif _log_lacks(replayed, held.flushed):
            replayed.snapshot, replayed.entries = held.flushed, []
            log.write([Record(Kind.RESET, number, held.flushed)])
    return found


def _log_lacks(replayed: Replayed, flushed: SnapshotMeta) -> bool:
    """Tell whether the log does not contain the entry that the state was flushed at."""
    position = flushed.index - replayed.snapshot.index - 1
    if position < -1:
        return False
    if position == -1:
        return replayed.snapshot.term != flushed.term
    return position >= len(replayed.entries) or replayed.entries[position].term != flushed.term
