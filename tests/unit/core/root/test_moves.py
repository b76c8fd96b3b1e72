"""Moves of the members of placement groups: begun, switched, turned, ended; nodes that leave."""

from __future__ import annotations

import pytest

from cfs.core.api.cluster import NodeState, Profile
from cfs.core.errors import NotFound, Refused, Retryable
from cfs.core.root import commands as c
from cfs.core.root import records
from cfs.core.root.map import read_map
from cfs.core.root.nodes import degraded_since, read_settings
from tests.unit.core.root.test_root_machine import CREATE, Root


def admit(root: Root, name: str, *, domain: str = "") -> int:
    number = root.do(
        c.MintToken(
            token_id=name.encode(), role="storage", expires_ms=9, serial=len(name), now_ms=1
        )
    )
    number = root.do(
        c.Admit(
            token_id=name.encode(), key_digest=b"k", now_ms=2, role="storage", name=name, host="h",
            port=1, domain=domain, weight=1.0, serial=100 + sum(name.encode()), expires_ms=99,
        )
    )  # fmt: skip
    root.do(c.SetStates(changes=(c.StateChange(number, NodeState.JOINING, NodeState.IN),)))
    return number


def placed(count: int) -> tuple[Root, list[int]]:
    """A cluster of `count` storage nodes, all four groups on the first three, with data."""
    root = Root()
    root.do(CREATE)
    nodes = [admit(root, f"s{n}") for n in range(1, count + 1)]
    epoch = records.get_counters(root.kv).placement_epoch
    lists = tuple((g, tuple(nodes[:3])) for g in range(4))
    root.do(c.Place(placement_epoch=epoch, lists=lists))
    root.do(c.IssueSessions())
    return root, nodes


def test_a_move_goes_through_its_states_and_the_map_shows_them() -> None:
    root, nodes = placed(4)
    root.do(c.BeginMoves(moves=(c.Replacement(1, nodes[0], nodes[3]),)))
    known = read_map(root.kv)
    assert known is not None
    assert known.placement[1] == tuple(nodes[:3])
    assert [(m.group, m.source, m.target, m.switched) for m in known.moves] == [
        (1, nodes[0], nodes[3], False)
    ]
    epoch = root.do(c.SwitchMoves(groups=(1,)))
    known = read_map(root.kv)
    assert known is not None
    assert known.epoch == epoch
    assert known.placement[1] == (nodes[3], nodes[1], nodes[2])
    assert known.moves[0].switched
    assert known.list_epochs[1] == epoch > known.list_epochs[0]
    assert root.do(c.SwitchMoves(groups=(1,))) == epoch, "again changes nothing"
    assert root.do(c.EndMoves(groups=(1,))) == 1
    known = read_map(root.kv)
    assert known is not None
    assert known.moves == ()
    assert known.list_epochs[1] == epoch


def test_one_move_a_group_and_only_to_a_node_that_fits() -> None:
    root, nodes = placed(4)
    twin = admit(root, "twin", domain="s2")
    root.do(c.BeginMoves(moves=(c.Replacement(0, nodes[0], nodes[3]),)))
    root.refuses(c.BeginMoves(moves=(c.Replacement(0, nodes[1], nodes[3]),)), Retryable)
    root.refuses(c.BeginMoves(moves=(c.Replacement(1, nodes[0], twin),)), Refused)
    root.refuses(c.BeginMoves(moves=(c.Replacement(1, nodes[0], nodes[1]),)), Refused)
    root.refuses(c.BeginMoves(moves=(c.Replacement(1, nodes[3], nodes[3]),)), Retryable)
    root.refuses(c.BeginMoves(moves=(c.Replacement(1, nodes[0], 1),)), NotFound)
    root.do(c.BeginMoves(moves=(c.Replacement(1, nodes[1], twin),)))
    root.do(c.SetStates(changes=(c.StateChange(nodes[3], NodeState.IN, NodeState.DOWN, False),)))
    root.refuses(c.BeginMoves(moves=(c.Replacement(2, nodes[0], nodes[3]),)), Retryable)


def test_a_move_whose_target_is_gone_turns_back() -> None:
    root, nodes = placed(4)
    root.do(c.BeginMoves(moves=(c.Replacement(2, nodes[0], nodes[3]),)))
    root.refuses(c.TurnMoves(groups=(2,)), Refused)
    root.do(c.SwitchMoves(groups=(2,)))
    root.do(c.TurnMoves(groups=(2,)))
    known = read_map(root.kv)
    assert known is not None
    move = known.moves[0]
    assert (move.source, move.target, move.switched) == (nodes[3], nodes[0], False)
    root.do(c.SwitchMoves(groups=(2,)))
    known = read_map(root.kv)
    assert known is not None
    assert known.placement[2] == tuple(nodes[:3])


def test_who_may_still_hold_fragments_is_remembered() -> None:
    root, nodes = placed(4)
    root.do(c.BeginMoves(moves=(c.Replacement(0, nodes[0], nodes[3]),)))
    root.do(c.SwitchMoves(groups=(0,)))
    root.do(c.EndMoves(groups=(0,), unproven=(0,)))

    def stray(node: int) -> bool:
        found = records.get(
            root.kv, records.NodeRecord, records.number_key(records.NODE_PREFIX, node)
        )
        assert found is not None
        return found.stray

    assert stray(nodes[0])
    root.do(c.Tidied(node_id=nodes[0]))
    assert not stray(nodes[0])
    root.do(c.SetStates(changes=(c.StateChange(nodes[1], NodeState.IN, NodeState.OUT, False),)))
    assert stray(nodes[1]), "a node that was out holds what is others' when it comes back"


def test_a_node_leaves_only_when_it_holds_nothing() -> None:
    root, nodes = placed(4)
    root.refuses(c.RemoveNode(node_id=nodes[3]), Refused)
    root.do(c.SetStates(changes=(c.StateChange(nodes[0], NodeState.IN, NodeState.DRAINING),)))
    root.refuses(c.RemoveNode(node_id=nodes[0]), Refused)
    for group in range(4):
        root.do(c.BeginMoves(moves=(c.Replacement(group, nodes[0], nodes[3]),)))
    root.do(c.SwitchMoves(groups=(0, 1, 2, 3)))
    root.refuses(c.RemoveNode(node_id=nodes[0]), Refused)
    root.do(c.EndMoves(groups=(0, 1, 2, 3)))
    root.do(c.RemoveNode(node_id=nodes[0]))
    known = read_map(root.kv)
    assert known is not None
    assert known.node(nodes[0]) is None
    assert known.revoked


def test_a_profile_needs_its_domains_and_marks_what_is_stored_as_old() -> None:
    root, nodes = placed(4)
    root.refuses(c.SetProfile(profile=Profile(4, 2)), Refused)
    root.do(c.SetProfile(profile=Profile(3, 1)))
    known = read_map(root.kv)
    assert known is not None
    assert set(known.list_epochs) == {known.epoch}, "no write by the profile of before"
    since = degraded_since(root.kv)
    assert since
    root.do(c.SetStates(changes=(c.StateChange(nodes[3], NodeState.IN, NodeState.DOWN, False),)))
    root.do(c.Whole(epoch=since))
    assert degraded_since(root.kv) > since, "it became untrue meanwhile"
    root.do(c.Whole(epoch=degraded_since(root.kv)))
    assert degraded_since(root.kv) == 0


def test_settings_have_bounds() -> None:
    root, _ = placed(3)
    root.do(c.Set(name="grace_s", value=30))
    root.do(c.Set(name="repair_rate", value=1e6))
    assert read_settings(root.kv).grace_s == 30
    assert read_settings(root.kv).repair_rate == 1_000_000
    root.refuses(c.Set(name="grace_s", value=0), Refused)
    with pytest.raises(NotFound, match="grace_s"):
        root.do(c.Set(name="nonsense", value=1))
