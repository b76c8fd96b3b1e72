"""The part of the root machine that changes nodes, placement and session numbers.

A plan (`Place`, `PlaceGroups`) names the placement epoch it was made from and is refused when
nodes, states or placement changed since.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.api.cluster import Node, NodeState, Role, ShardPlacement
from cfs.core.errors import Malformed, NotFound, Refused, Retryable
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records
from cfs.core.root.records import (
    ClusterRecord,
    Counters,
    MoveRecord,
    NodeRecord,
    PlacementRecord,
    SettingsRecord,
    get,
    get_counters,
    number_key,
)

_AWAY = (NodeState.DOWN, NodeState.OUT)
PROFILE_DATA_MAX = 16
PROFILE_PARITY_MAX = 4
_SETTINGS = {
    "grace_s": (1.0, 30 * 86_400.0),
    "share_max": (0.0, 1.0),
    "repair_rate": (0.0, float(1 << 40)),
    "move_rate": (0.0, float(1 << 40)),
    "warn_share": (0.0, 1.0),
    "critical_share": (0.0, 1.0),
}
"""Every setting with its bounds."""


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
        stray = known.stray or (new == NodeState.OUT and node.role == Role.STORAGE)
        changed.append(msgspec.structs.replace(known, node=node, resting=resting, stray=stray))
    for record in changed:
        records.put_node(kv, record)
    if changed:
        records.bump(kv, placed=True)
    if any(r.node.role == Role.STORAGE and r.node.state in _AWAY for r in changed):
        _note_degraded(kv)
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
        if before.move is not None:
            raise Retryable(f"a member of placement group {number} is being moved")
        if len(members) > cluster.profile.total:
            raise Malformed(f"placement group {number} would have {len(members)} members")
        _check_members(known, number, members)
    for number, members in command.lists:
        _put_members(kv, counters, number, members)
    if command.lists:
        records.bump(kv, placed=True)
        if counters.written:  # lists were short: what was written to them is replicated
            _note_degraded(kv)
    return len(command.lists)


def _check_members(known: dict[int, Node], number: int, members: tuple[int, ...]) -> None:
    nodes = [known.get(m) for m in members]
    if any(n is None or n.role != Role.STORAGE for n in nodes):
        raise NotFound(f"placement group {number} would hold an unknown storage node")
    if len({n.domain for n in nodes if n is not None}) != len(members):
        raise Malformed(f"placement group {number} would have two members in one domain")


def _put_members(kv: Writer, counters: Counters, number: int, members: tuple[int, ...]) -> None:
    before = get(kv, PlacementRecord, number_key(records.PLACEMENT_PREFIX, number))
    assert before is not None
    # Appending leaves the epoch: what was written by the shorter list lies where it belongs.
    epoch = before.epoch if counters.written else counters.epoch + 1
    records.put_list(kv, number, msgspec.structs.replace(before, members=members, epoch=epoch))


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


def set_disks(kv: Writer, command: commands.SetDisks) -> int:
    """Remember a storage node's disks; the map does not show them."""
    known = _node(kv, command.node_id)
    records.put_node(kv, msgspec.structs.replace(known, disks=command.disks))
    return len(command.disks)


def tidied(kv: Writer, command: commands.Tidied) -> int:
    """Note that a node holds nothing of others' any more."""
    known = _node(kv, command.node_id)
    records.put_node(kv, msgspec.structs.replace(known, stray=False))
    return command.node_id


def remove_node(kv: Writer, command: commands.RemoveNode) -> int:
    """Forget a node and refuse its certificates."""
    node = _node(kv, command.node_id).node
    if node.state not in (NodeState.DRAINING, NodeState.OUT, NodeState.JOINING):
        raise Refused(f"{node.name} is {node.state}: drain it first (cfs admin node drain)")
    lists = records.get_all(kv, PlacementRecord, records.PLACEMENT_PREFIX)
    held = sum(
        node.node_id in r.members or (r.move is not None and node.node_id in _parties(r.move))
        for r in lists
    )
    if held:
        raise Refused(f"{node.name} still has its place in {held} placement groups: drain it first")
    groups = records.get_all(kv, ShardPlacement, records.GROUP_PREFIX)
    if any(node.node_id in g.voters + g.learners for g in groups):
        raise Refused(f"{node.name} still holds metadata: drain it first")
    kv.delete(number_key(records.NODE_PREFIX, node.node_id))
    for certificate in records.get_all(kv, records.CertificateRecord, records.CERTIFICATE_PREFIX):
        if certificate.node_id == node.node_id:
            records.put_certificate(kv, msgspec.structs.replace(certificate, revoked=True))
    records.bump(kv, placed=True)
    return node.node_id


def set_profile(kv: Writer, command: commands.SetProfile) -> int:
    """Change the erasure profile for what is written from now on."""
    profile = command.profile
    if not (1 <= profile.data <= PROFILE_DATA_MAX and 1 <= profile.parity <= PROFILE_PARITY_MAX):
        raise Malformed(f"{profile.data}+{profile.parity} is no usable erasure profile")
    cluster = get(kv, ClusterRecord, records.CLUSTER_KEY)
    assert cluster is not None
    nodes = [r.node for r in records.get_all(kv, NodeRecord, records.NODE_PREFIX)]
    domains = {n.domain for n in nodes if n.role == Role.STORAGE and n.state == NodeState.IN}
    if len(domains) < profile.total:
        raise Refused(
            f"the profile {profile.data}+{profile.parity} needs {profile.total} failure domains "
            f"and {len(domains)} are in: add storage nodes first"
        )
    if profile != cluster.profile:
        changed = msgspec.structs.replace(cluster, profile=profile)
        kv.put(records.CLUSTER_KEY, records.encode(changed))
        # Nobody may go on writing by a map that has the profile of before.
        epoch = get_counters(kv).epoch + 1
        lists = records.get_all(kv, PlacementRecord, records.PLACEMENT_PREFIX)
        for number, record in enumerate(lists):
            records.put_list(kv, number, msgspec.structs.replace(record, epoch=epoch))
        records.bump(kv, placed=True)
        _note_degraded(kv)
    return profile.total


def whole(kv: Writer, command: commands.Whole) -> int:
    """Note that every segment has the profile's form, if nothing happened since."""
    if command.epoch == degraded_since(kv):
        kv.delete(records.DEGRADED_KEY)
    return command.epoch


def degraded_since(kv: Reader) -> int:
    """Give the epoch since which segments may have another form; 0: none has."""
    record = get(kv, records.DegradedRecord, records.DEGRADED_KEY)
    return 0 if record is None else record.epoch


def _note_degraded(kv: Writer) -> None:
    record = records.DegradedRecord(epoch=get_counters(kv).epoch)
    kv.put(records.DEGRADED_KEY, records.encode(record))


def set_setting(kv: Writer, command: commands.Set) -> int:
    """Change a setting."""
    known = read_settings(kv)
    if command.name not in _SETTINGS:
        raise NotFound(f"there is no setting {command.name!r}; there are {', '.join(_SETTINGS)}")
    low, high = _SETTINGS[command.name]
    if not low <= command.value <= high:
        raise Refused(f"{command.name} lies between {low:g} and {high:g}")
    value = type(getattr(known, command.name))(command.value)
    changed = msgspec.structs.replace(known, **{command.name: value})
    kv.put(records.SETTINGS_KEY, records.encode(changed))
    return 0


def read_settings(kv: Reader) -> SettingsRecord:
    """Give the settings in force."""
    return get(kv, SettingsRecord, records.SETTINGS_KEY) or SettingsRecord()


def _node(kv: Reader, node_id: int) -> NodeRecord:
    known = get(kv, NodeRecord, number_key(records.NODE_PREFIX, node_id))
    if known is None:
        raise NotFound(f"there is no node {node_id}")
    return known


def _parties(move: MoveRecord) -> tuple[int, int]:
    return move.source, move.target
