"""The part of the root machine that changes nodes, placement and session numbers.

A plan (`Place`, `PlaceGroups`) names the placement epoch it was made from and is refused when
nodes, states or placement changed since.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.api.cluster import NodeState, Role, ShardPlacement
from cfs.core.errors import Malformed, NotFound, Refused, Retryable
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records
from cfs.core.root.records import (
    ClusterRecord,
    Counters,
    NodeRecord,
    PlacementRecord,
    get,
    get_counters,
    number_key,
)


def set_states(kv: Writer, command: commands.SetStates) -> int:
    """Change node states, all or none."""
    changed: list[NodeRecord] = []
    for change in command.changes:
        known = get(kv, NodeRecord, number_key(records.NODE_PREFIX, change.node_id))
        if known is None:
            raise NotFound(f"there is no node {change.node_id}")
        if known.node.state != change.old:
            raise Retryable(f"node {known.node.name} is {known.node.state}, not {change.old}")
        try:
            new = NodeState(change.new)
        except ValueError as error:
            raise Malformed(f"{change.new!r} is not a state of a node") from error
        node = msgspec.structs.replace(known.node, state=new)
        resting = new if change.settled else known.resting
        changed.append(NodeRecord(node=node, resting=resting))
    for record in changed:
        records.put_node(kv, record)
    if changed:
        records.bump(kv, placed=True)
    return len(changed)


def set_node(kv: Writer, command: commands.SetNode) -> int:
    """Change what is known of a node."""
    known = get(kv, NodeRecord, number_key(records.NODE_PREFIX, command.node_id))
    if known is None:
        raise NotFound(f"there is no node {command.node_id}")
    fields: dict[str, Any] = {
        name: value
        for name in ("host", "port", "domain", "weight")
        if (value := getattr(command, name)) is not None
    }
    node = msgspec.structs.replace(known.node, **fields)
    if node != known.node:
        records.put_node(kv, msgspec.structs.replace(known, node=node))
        records.bump(kv, placed=True)
    return command.node_id


def place(kv: Writer, command: commands.Place) -> int:
    """Set placement lists."""
    counters = _check_plan(kv, command.placement_epoch)
    cluster = get(kv, ClusterRecord, records.CLUSTER_KEY)
    assert cluster is not None
    known = {r.node.node_id: r.node for r in records.get_all(kv, NodeRecord, records.NODE_PREFIX)}
    for number, members in command.lists:
        before = get(kv, PlacementRecord, number_key(records.PLACEMENT_PREFIX, number))
        if before is None:
            raise NotFound(f"there is no placement group {number}")
        if counters.written and members[: len(before.members)] != before.members:
            raise Refused(f"placement group {number} may hold data: it can only grow")
        if len(members) > cluster.profile.total:
            raise Malformed(f"placement group {number} would have {len(members)} members")
        nodes = [known.get(m) for m in members]
        if any(n is None or n.role != Role.STORAGE for n in nodes):
            raise NotFound(f"placement group {number} would hold an unknown storage node")
        if len({n.domain for n in nodes if n is not None}) != len(members):
            raise Malformed(f"placement group {number} would have two members in one domain")
    for number, members in command.lists:
        records.put_list(kv, number, members)
    if command.lists:
        records.bump(kv, placed=True)
    return len(command.lists)


def place_groups(kv: Writer, command: commands.PlaceGroups) -> int:
    """Set the replicas of Raft groups."""
    _check_plan(kv, command.placement_epoch)
    known = {r.node.node_id: r.node for r in records.get_all(kv, NodeRecord, records.NODE_PREFIX)}
    for group in command.groups:
        if get(kv, ShardPlacement, number_key(records.GROUP_PREFIX, group.group)) is None:
            raise NotFound(f"there is no Raft group {group.group}")
        members = group.voters + group.learners
        if not group.voters or len(set(members)) != len(members):
            raise Malformed(f"Raft group {group.group} would have no voter, or one twice")
        if any((n := known.get(m)) is None or n.role != Role.META for m in members):
            raise NotFound(f"Raft group {group.group} would be held by an unknown meta node")
    for group in command.groups:
        records.put_group(kv, group)
    if command.groups:
        records.bump(kv, placed=True)
    return len(command.groups)


def _check_plan(kv: Reader, placement_epoch: int) -> Counters:
    counters = get_counters(kv)
    if counters.placement_epoch != placement_epoch:
        raise Retryable(
            f"nodes or placement changed at epoch {counters.placement_epoch}: plan anew"
        )
    return counters


def issue_sessions(kv: Writer, command: commands.IssueSessions) -> int:
    """Hand out session ids."""
    if not 0 < command.count <= commands.SESSION_COUNT_MAX:
        raise Malformed(f"{command.count} sessions at once")
    counters = get_counters(kv)
    first = counters.next_session
    written = counters.written or not command.internal
    records.put_counters(
        kv,
        msgspec.structs.replace(counters, next_session=first + command.count, written=written),
    )
    return first
