"""What the placer proposes: fresh until data may exist, growth after; replicas off the missing."""

from __future__ import annotations

from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role, ShardPlacement
from cfs.fs.root.placer import plan_groups, plan_lists


def _node(node_id: int, role: Role, state: NodeState = NodeState.IN) -> Node:
    return Node(
        node_id=node_id, name=f"n{node_id}", role=role, host="h", port=node_id,
        domain=f"d{node_id}", state=state,
    )  # fmt: skip


def _map(
    *nodes: Node,
    placement: tuple[tuple[int, ...], ...] = ((),) * 8,
    groups: tuple[ShardPlacement, ...] = (),
) -> ClusterMap:
    return ClusterMap(
        epoch=1, cluster_id=b"c", name="t", site=0, shard_count=1, profile=Profile(2, 1),
        key_version=1, nodes=nodes, groups=groups, placement=placement,
    )  # fmt: skip


def _storage(*numbers: int, down: int = 0) -> list[Node]:
    return [_node(n, Role.STORAGE, NodeState.DOWN if n == down else NodeState.IN) for n in numbers]


def test_before_data_everything_is_planned_afresh() -> None:
    known = _map(*_storage(1, 2, 3, 4), placement=((1, 2, 3),) * 8)
    lists = dict(plan_lists(known, False))
    used = [m for number in range(8) for m in lists.get(number, (1, 2, 3))]
    assert sorted(used.count(n) for n in (1, 2, 3, 4)) == [6, 6, 6, 6]


def test_with_data_short_lists_grow_and_whole_ones_stay() -> None:
    known = _map(*_storage(1, 2, 3, 4), placement=((1, 2), (3, 1), (2, 3, 4), ()))
    lists = dict(plan_lists(known, True))
    assert set(lists) == {0, 1, 3}
    assert lists[0][:2] == (1, 2)
    assert lists[1][:2] == (3, 1)
    assert all(len(set(members)) == 3 for members in lists.values())


def test_a_down_member_keeps_its_place_and_its_domain() -> None:
    known = _map(*_storage(1, 2, 3, down=2), placement=((1, 2),))
    assert plan_lists(known, True) == ()
    assert plan_lists(_map(*_storage(1, 2, down=2), placement=((1, 2),)), True) == ()


def test_replicas_wait_for_a_down_node_and_leave_one_that_is_out() -> None:
    groups = (ShardPlacement(group=0, voters=(1, 2, 3)), ShardPlacement(group=1, voters=(2, 3, 1)))
    metas = [_node(n, Role.META) for n in (1, 2, 3, 4)]
    metas[2] = _node(3, Role.META, NodeState.DOWN)
    assert plan_groups(_map(*metas, groups=groups)) == ()
    metas[2] = _node(3, Role.META, NodeState.OUT)
    changed = plan_groups(_map(*metas, groups=groups))
    assert {g.group: set(g.voters) for g in changed} == {0: {1, 2, 4}, 1: {1, 2, 4}}
