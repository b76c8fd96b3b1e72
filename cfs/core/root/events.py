"""What happened to the cluster, as the root group remembers it: numbered, bounded.

Most events follow from commands: the machine adds them when a command took effect, so none is lost
and none is invented. What no command says (who leads) is noted by `NoteEvent`. The latest
`KEPT_MAX` are kept. Times are the proposer's wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cfs.core.kv import Reader, Writer, prefix_end
from cfs.core.root import commands, findings, records
from cfs.core.root.records import NodeRecord, number_key

EVENT_PREFIX = b"e"
LAST_KEY = b"E"
KEPT_MAX = 2000
TEXT_MAX = 400


class EventRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One thing that happened."""

    number: int
    at_ms: int
    kind: str
    text: str


class Last(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The number of the latest event, and the latest time that was seen."""

    number: int = 0
    at_ms: int = 0


records.add_kind(EventRecord)
records.add_kind(Last)


def read_events(kv: Reader, after: int, limit: int) -> list[EventRecord]:
    """Give events with a number above `after`, oldest first, `limit` at most."""
    found: list[EventRecord] = []
    start = records.long_key(EVENT_PREFIX, after + 1)
    for _, value in kv.scan(start, prefix_end(EVENT_PREFIX)):
        if len(found) >= limit:
            break
        found.append(records.decode(EventRecord, value))
    return found


def last_number(kv: Reader) -> int:
    """Give the number of the latest event."""
    return (records.get(kv, Last, LAST_KEY) or Last()).number


def note_event(kv: Writer, command: commands.NoteEvent) -> int:
    """Remember what no command says."""
    return _add(kv, command.kind, command.text, command.now_ms)


def follow(kv: Writer, command: Any, value: int) -> None:
    """Remember what follows from a command that took effect."""
    now_ms = getattr(command, "now_ms", 0)
    for kind, text in _told(kv, command, value):
        _add(kv, kind, text, now_ms)


def _add(kv: Writer, kind: str, text: str, now_ms: int) -> int:
    last = records.get(kv, Last, LAST_KEY) or Last()
    number, at_ms = last.number + 1, now_ms or last.at_ms
    kv.put(LAST_KEY, records.encode(Last(number=number, at_ms=max(at_ms, last.at_ms))))
    record = EventRecord(number=number, at_ms=at_ms, kind=kind[:TEXT_MAX], text=text[:TEXT_MAX])
    kv.put(records.long_key(EVENT_PREFIX, number), records.encode(record))
    if number > KEPT_MAX:
        kv.delete(records.long_key(EVENT_PREFIX, number - KEPT_MAX))
    return number


def _told(kv: Reader, command: Any, value: int) -> list[tuple[str, str]]:
    tell = _TOLD.get(type(command))
    return [] if tell is None else tell(kv, command, value)


def _findings(kv: Reader, command: commands.NoteFindings) -> list[tuple[str, str]]:
    told = []
    for found in command.findings[:SHOWN_MAX]:
        key = findings.FINDING_PREFIX + found.key[: findings.KEY_MAX].encode()
        record = records.get(kv, findings.FindingRecord, key)
        if record is not None and (record.since_ms == command.now_ms or found.repaired):
            told.append(("scrub", f"{found.key} {found.where}: {found.detail}"))
    if len(command.findings) > SHOWN_MAX:
        told.append(("scrub", f"and {len(command.findings) - SHOWN_MAX} more"))
    return told


SHOWN_MAX = 10
"""Findings of one report that are told one by one: a broken disk must not push all else out."""


def _node(kv: Reader, node_id: int) -> str:
    known = records.get(kv, NodeRecord, number_key(records.NODE_PREFIX, node_id))
    return known.node.name if known is not None else f"node {node_id}"


def _job_end(command: commands.ReportJob) -> list[tuple[str, str]]:
    said = f": {command.last_error}" if command.last_error else ""
    return [("job", f"job {command.number} {command.state}{said}")] if command.state else []


_TOLD: dict[type, Callable[[Reader, Any, int], list[tuple[str, str]]]] = {
    commands.CreateCluster: lambda _kv, c, _: [
        ("cluster", f"cluster {c.name} was made with node {c.node.name}")
    ],
    commands.SetStates: lambda kv, c, _: [
        ("node", f"{_node(kv, change.node_id)}: {change.old} -> {change.new}")
        for change in c.changes
    ],
    commands.Admit: lambda _kv, c, _: [("join", f"{c.role} {c.name} joined")],
    commands.RevokeCertificates: lambda _kv, _c, value: [
        ("certificate", f"{value} certificates are refused from now on")
    ],
    commands.RotateAuthority: lambda _kv, _c, value: [
        ("certificate", f"the authority, or what is trusted, changed: version {value}")
    ],
    commands.AddVolumeKey: lambda _kv, _c, value: [
        ("key", f"new chunks are sealed with volume key {value}")
    ],
    commands.SetNode: lambda kv, c, _: [
        ("config", f"{_node(kv, c.node_id)}: address, domain or weight changed")
    ],
    commands.PlaceGroups: lambda _kv, c, _: [
        ("config", f"replicas of {len(c.groups)} Raft groups are placed anew")
    ],
    commands.Place: lambda _kv, c, _: [
        ("config", f"{len(c.lists)} placement groups are placed anew")
    ],
    commands.RemoveNode: lambda _kv, c, _: [("node", f"node {c.node_id} was removed")],
    commands.SetProfile: lambda _kv, c, _: [
        ("config", f"the erasure profile is {c.profile.data}+{c.profile.parity} from now on")
    ],
    commands.Set: lambda _kv, c, _: [("config", f"{c.name} set to {c.value:g}")],
    commands.StartJob: lambda _kv, c, value: [
        ("job", f"job {value} ({c.kind}) started by {c.started_by}")
    ],
    commands.ReportJob: lambda _kv, c, _: _job_end(c),
    commands.ControlJob: lambda _kv, c, _: (
        [("job", f"job {c.number} set {c.state}")] if c.state else []
    ),
    commands.NoteFindings: lambda kv, c, _: _findings(kv, c),
}
