"""Taking a replica from its peers anew: its state is thrown away, its vote is not trusted.

A replica that starts from nothing while others count it as a voter may have acknowledged entries
and votes it no longer knows. That is just what a *doubtful* one is (`core.raft.election`): it goes
on in a term beyond all it can have voted in, and votes for nobody by itself until a leader has
caught it up. So a rebuild needs no change of members, and the data's safety is never less than with
this replica gone.

Crash-safe by a note in the node's directory: what it names begins empty at the next start, too.
"""

from __future__ import annotations

from typing import Protocol

import structlog
import trio

from cfs.core.errors import NotFound, Refused, Unavailable
from cfs.core.raft.message import Config, HardState, SnapshotMeta
from cfs.fs.meta.group import Group
from cfs.fs.meta.group_record import meta_key
from cfs.fs.meta.host import Host
from cfs.fs.meta.snapshot import wipe
from cfs.fs.meta.state import State
from cfs.fs.meta.wal import Replayed, Wal
from cfs.fs.meta.wal_format import Kind, Record

_LOG = structlog.get_logger()

EMPTY = SnapshotMeta(index=0, term=0, config=Config())


class Note(Protocol):
    """Where it is noted which groups begin empty: `cfs.fs.root.directory.NodeDirectory`."""

    def rebuilding(self) -> dict[int, int]:
        """Give groups and their terms."""
        ...

    def write_rebuilding(self, terms: dict[int, int]) -> None:
        """Keep them, durably."""
        ...


def begin_empty(log: Wal, state: State, terms: dict[int, int]) -> None:
    """Have these groups begin empty and doubtful; before a `Host` takes log and state. Blocks."""
    for group, term in terms.items():
        known = log.replayed.get(group, Replayed()).state
        hard = HardState(term=max(term, known.term), vote=0, commit=0)
        log.write(_records(group, hard))
        log.replayed[group] = Replayed(state=hard, snapshot=EMPTY, entries=[], doubtful=True)
        if state.groups.pop(group, None) is not None:
            state.store.write([(meta_key(group), None)], sync=True)
        _LOG.warning("replica_begins_empty", group=group, term=hard.term)


async def rebuild(host: Host, number: int, note: Note) -> None:
    """Throw a replica's state away and begin empty, durably on return; its leader sends the rest.

    Raises NotFound, Refused (there are no peers), Unavailable (it leads, and nobody takes over).
    """
    group = host.groups.get(number)
    if group is None:
        raise NotFound(f"group {number} has no replica on node {host.node}")
    others = [v for v in group.config.voters if v != host.node]
    if not others and group.config.voters:
        raise Refused(f"group {number} has no other replica: this one cannot be rebuilt from it")
    if group.is_leader:
        await _hand_over(group, others)
    async with host.flush_lock:
        if host.groups.get(number) is not group or group.is_leader:
            raise Unavailable(f"group {number} changed meanwhile: ask again")
        with trio.CancelScope(shield=True):
            await _replace(host, group, note)


async def _hand_over(group: Group, others: list[int]) -> None:
    for peer in others:
        try:
            await group.transfer(peer)
        except Unavailable:
            continue
        return
    raise Unavailable(f"group {group.group}: no peer takes the lead, so this replica must stay")


async def _replace(host: Host, group: Group, note: Note) -> None:
    number, hard = group.group, HardState(term=group.term, vote=0, commit=0)
    terms = await host.threads.run(note.rebuilding)
    await host.threads.run(note.write_rebuilding, {**terms, number: hard.term})
    group.paused = group.removed = True
    group.ready = False
    group.fail_all("this replica is rebuilt from its peers")
    for record in _records(number, hard):
        await host.writer.write_through(record)
    slot = host.state.groups.pop(number).slot
    host.state.reserved.add(slot)
    store = host.state.store
    await host.threads.run(lambda: store.write([(meta_key(number), None)], sync=True))
    host.state.create(number, Config())
    host.begin(number, Replayed(state=hard, snapshot=EMPTY, entries=[], doubtful=True))
    await host.threads.run(note.write_rebuilding, terms)
    await host.threads.run(wipe, store, slot)
    host.state.reserved.discard(slot)
    _LOG.warning("replica_begins_empty", group=number, term=hard.term)


def renew_log(host: Host) -> bool:
    """Write all that the log must hold into a new segment, and let the old ones go.

    For a log that is damaged on the disk: what it should say is in memory. Blocks the loop. False:
    not now, ask again.
    """
    records: list[Record] = []
    for number, group in host.groups.items():
        mark = group.state.flushed
        if group.paused or mark.index < group.machine.base.index:
            return False
        entries = group.machine.entries_after(mark.index)
        records.append(Record(Kind.RESET, number, mark))
        if entries:
            records.append(Record(Kind.ENTRIES, number, entries))
    return host.writer.renew_now(records)


def _records(group: int, hard: HardState) -> list[Record]:
    return [
        Record(Kind.RESET, group, EMPTY),
        Record(Kind.STATE, group, hard),
        Record(Kind.DOUBT, group, True),
    ]
