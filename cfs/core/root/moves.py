"""Moves: members of placement groups are replaced, one a group at a time.

    begin ──> copying ──switch──> switched ──end──> (no move)
                 │                  └──turn──> copying, the other way: the target is gone
                 └──────────────end───────────────> (given up: the list is as it was)

`begin` checks that the target may hold the group beside the others; from then on readers know of
both places. `switch` lets the list name the target, at an epoch that storage nodes then require of
writers. Who copies, seals, proves and deletes is `cfs.fs.root.mover`.
"""

from __future__ import annotations

import msgspec

from cfs.core.api.cluster import Node, NodeState, Role
from cfs.core.errors import NotFound, Refused, Retryable
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records
from cfs.core.root.records import MoveRecord, NodeRecord, PlacementRecord, get, number_key


def begin(kv: Writer, command: commands.BeginMoves) -> int:
    """Begin moves, all or none."""
    nodes = {r.node.node_id: r.node for r in records.get_all(kv, NodeRecord, records.NODE_PREFIX)}
    changed: dict[int, PlacementRecord] = {}
    for wanted in command.moves:
        record = _require(kv, wanted.group)
        if record.move is not None or wanted.group in changed:
            raise Retryable(f"a member of placement group {wanted.group} is being moved already")
        if wanted.source not in record.members:
            raise Retryable(f"node {wanted.source} has left placement group {wanted.group}")
        _check_target(nodes, record, wanted)
        changed[wanted.group] = msgspec.structs.replace(
            record,
            move=MoveRecord(
                position=record.members.index(wanted.source),
                source=wanted.source,
                target=wanted.target,
            ),
        )
    return _store(kv, changed)


def switch(kv: Writer, command: commands.SwitchMoves) -> int:
    """Let lists name the targets; those that do already stay as they are."""
    epoch = records.get_counters(kv).epoch + 1
    changed: dict[int, PlacementRecord] = {}
    for number in command.groups:
        record = _require(kv, number)
        move = record.move
        if move is None:
            raise Refused(f"no member of placement group {number} is being moved")
        if move.switched:
            continue
        members = list(record.members)
        members[move.position] = move.target
        changed[number] = PlacementRecord(
            members=tuple(members), epoch=epoch, move=msgspec.structs.replace(move, switched=True)
        )
    _store(kv, changed)
    return max(_require(kv, number).epoch for number in command.groups)


def turn(kv: Writer, command: commands.TurnMoves) -> int:
    """Let switched moves go back: the sources hold what they held, until it is proven elsewhere."""
    changed: dict[int, PlacementRecord] = {}
    for number in command.groups:
        record = _require(kv, number)
        move = record.move
        if move is None or not move.switched:
            raise Refused(f"placement group {number} has no switched move")
        back = MoveRecord(position=move.position, source=move.target, target=move.source)
        changed[number] = msgspec.structs.replace(record, move=back)
    return _store(kv, changed)


def end(kv: Writer, command: commands.EndMoves) -> int:
    """Forget moves; what has none is no error."""
    for number in command.unproven:
        move = _require(kv, number).move
        key = number_key(records.NODE_PREFIX, move.source if move is not None else 0)
        holder = get(kv, NodeRecord, key)
        if holder is not None:
            records.put_node(kv, msgspec.structs.replace(holder, stray=True))
    changed = {
        number: msgspec.structs.replace(record, move=None)
        for number in command.groups
        if (record := _require(kv, number)).move is not None
    }
    return _store(kv, changed)


def _store(kv: Writer, changed: dict[int, PlacementRecord]) -> int:
    for number, record in changed.items():
        records.put_list(kv, number, record)
    if changed:
        records.bump(kv, placed=True)
    return len(changed)


def _require(kv: Reader, number: int) -> PlacementRecord:
    record = get(kv, PlacementRecord, number_key(records.PLACEMENT_PREFIX, number))
    if record is None:
        raise NotFound(f"there is no placement group {number}")
    return record


def _check_target(
    nodes: dict[int, Node], record: PlacementRecord, wanted: commands.Replacement
) -> None:
    target = nodes.get(wanted.target)
    if target is None or target.role != Role.STORAGE:
        raise NotFound(f"there is no storage node {wanted.target}")
    if target.state != NodeState.IN:
        raise Retryable(f"{target.name} is {target.state}: nothing moves to it")
    others = [nodes.get(m) for m in record.members if m != wanted.source]
    if wanted.target in record.members or any(
        o is not None and o.domain == target.domain for o in others
    ):
        raise Refused(
            f"placement group {wanted.group} would have two members in domain {target.domain}"
        )
