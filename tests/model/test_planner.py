"""Placement planning against its promises, over random clusters and their changes."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.place import planner
from cfs.core.place.planner import Target

GROUPS = 96


@st.composite
def clusters(draw: st.DrawFn, *, least: int = 1) -> tuple[list[Target], int]:
    total = draw(st.integers(2, 6))
    count = draw(st.integers(max(least, 1), 14))
    domains = draw(st.integers(max(1, count // 2), count))
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 1.0, 2.0]), min_size=count, max_size=count))
    targets = [
        Target(node_id=n + 1, domain=f"d{n % domains}", weight=weights[n]) for n in range(count)
    ]
    return targets, total


def _loads(lists: list[tuple[int, ...]], targets: list[Target]) -> dict[int, int]:
    return {t.node_id: sum(t.node_id in m for m in lists) for t in targets}


def _check_lists(lists: list[tuple[int, ...]], targets: list[Target], total: int) -> None:
    domain = {t.node_id: t.domain for t in targets}
    for members in lists:
        assert len(members) == planner.length_of_lists(targets, total)
        assert len({domain[m] for m in members}) == len(members)


def _check_balance(lists: list[tuple[int, ...]], targets: list[Target], total: int) -> None:
    ideal = planner.quotas(targets, planner.length_of_lists(targets, total), len(lists))
    for node, load in _loads(lists, targets).items():
        # Whole slots; a domain's sum rounds first, its nodes' shares then.
        assert math.floor(ideal[node] - 1e-6) <= load <= math.ceil(ideal[node] + 1e-6)


@given(clusters())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_fresh_lists_are_whole_distinct_and_balanced(cluster: tuple[list[Target], int]) -> None:
    targets, total = cluster
    lists = planner.fresh(targets, GROUPS, total)
    _check_lists(lists, targets, total)
    _check_balance(lists, targets, total)
    assert planner.step(lists, targets, total) == {}
    assert planner.fill(lists, targets, total) == {}
    assert planner.fresh(list(reversed(targets)), GROUPS, total) == lists


def _run(
    lists: list[tuple[int, ...]], targets: list[Target], total: int, moves_max: int
) -> tuple[list[tuple[int, ...]], int]:
    moved = 0
    for _ in range(2000):
        changes = planner.step(lists, targets, total, moves_max)
        if not changes:
            return lists, moved
        assert len(changes) <= moves_max
        for group, members in changes.items():
            before = lists[group]
            differing = [i for i in range(len(before)) if before[i] != members[i]]
            assert len(differing) + len(members) - len(before) == 1
            moved += 1
            lists = [*lists[:group], members, *lists[group + 1 :]]
    raise AssertionError("does not end")


@given(clusters(least=6), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_steps_reach_balance_with_the_fewest_moves(
    cluster: tuple[list[Target], int], data: st.DataObject
) -> None:
    targets, total = cluster
    lists = planner.fresh(targets, GROUPS, total)
    newcomer = Target(node_id=99, domain="new", weight=data.draw(st.sampled_from([0.5, 1.0, 3.0])))
    grown = [*targets, newcomer]
    if planner.length_of_lists(grown, total) != planner.length_of_lists(targets, total):
        return
    after, moved = _run(lists, grown, total, data.draw(st.sampled_from([8, 32, GROUPS])))
    _check_lists(after, grown, total)
    _check_balance(after, grown, total)
    surplus = sum(after[g] != lists[g] for g in range(GROUPS))
    arrived = _loads(after, grown)[99]
    # Uncapped domains: exactly the newcomer's share moves; a capped domain's neighbours shift too.
    assert arrived <= moved
    assert surplus <= moved


@given(st.integers(5, 12), st.integers(3, 4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_equal_nodes_move_exactly_the_newcomers_share(count: int, total: int) -> None:
    targets = [Target(node_id=n + 1, domain=f"d{n}") for n in range(count)]
    lists = planner.fresh(targets, GROUPS, total)
    grown = [*targets, Target(node_id=99, domain="new")]
    after, moved = _run(lists, grown, total, GROUPS)
    assert moved - _loads(after, grown)[99] <= 2  # a chain now and then
    _check_balance(after, grown, total)


@given(clusters(least=7), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_losing_a_node_refills_its_positions(
    cluster: tuple[list[Target], int], data: st.DataObject
) -> None:
    targets, total = cluster
    lists = planner.fresh(targets, GROUPS, total)
    lost = data.draw(st.sampled_from(targets))
    left = [t for t in targets if t.node_id != lost.node_id]
    if planner.length_of_lists(left, total) != planner.length_of_lists(targets, total):
        return
    after, _ = _run(lists, left, total, 16)
    _check_lists(after, left, total)
    _check_balance(after, left, total)


def _apply(
    lists: list[tuple[int, ...]], moves: list[tuple[int, int, int]]
) -> list[tuple[int, ...]]:
    assert len({group for group, _, _ in moves}) == len(moves), "one member of a group at a time"
    changed = list(lists)
    for group, old, new in moves:
        assert old in changed[group]
        assert new not in changed[group]
        changed[group] = tuple(new if m == old else m for m in changed[group])
    return changed


@given(clusters(least=5), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_leaving_nodes_are_replaced_most_endangered_groups_first(
    cluster: tuple[list[Target], int], data: st.DataObject
) -> None:
    """Whoever leaves keeps its domain until it is gone, and nobody else moves."""
    targets, total = cluster
    lists = planner.fresh(targets, GROUPS, total)
    gone = set(data.draw(st.sets(st.sampled_from([t.node_id for t in targets]), max_size=2)))
    left = [t for t in targets if t.node_id not in gone]
    if planner.length_of_lists(left, total) != planner.length_of_lists(targets, total):
        return
    idle = [Target(node_id=t.node_id, domain=t.domain, weight=0.0) for t in targets
            if t.node_id in gone]  # fmt: skip
    for _ in range(GROUPS):
        moves = planner.replace(lists, [*left, *idle], total, gone, 8)
        if not moves:
            break
        counts = [sum(m in gone for m in lists[group]) for group, _, _ in moves]
        assert counts == sorted(counts, reverse=True)
        assert all(old in gone and new not in gone for _, old, new in moves)
        lists = _apply(lists, moves)
        _check_lists(lists, targets, total)
    assert not any(m in gone for members in lists for m in members)


@given(clusters(least=6), st.sampled_from([8, GROUPS]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_evening_out_moves_what_steps_move(
    cluster: tuple[list[Target], int], moves_max: int
) -> None:
    targets, total = cluster
    lists = planner.fresh(targets, GROUPS, total)
    grown = [*targets, Target(node_id=99, domain="new")]
    if planner.length_of_lists(grown, total) != planner.length_of_lists(targets, total):
        return
    for _ in range(GROUPS):
        moves = planner.even(lists, grown, total, moves_max)
        if not moves:
            break
        lists = _apply(lists, moves)
        _check_lists(lists, grown, total)
    _check_balance(lists, grown, total)


@given(st.integers(1, 8), st.integers(2, 6))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_fill_only_appends(count: int, total: int) -> None:
    lists: list[tuple[int, ...]] = [()] * GROUPS
    targets: list[Target] = []
    for n in range(count):
        targets.append(Target(node_id=n + 1, domain=f"d{n}"))
        changes = planner.fill(lists, targets, total)
        for group, members in changes.items():
            assert members[: len(lists[group])] == lists[group]
            lists[group] = members
        _check_lists(lists, targets, total)


def test_partners_are_spread() -> None:
    targets = [Target(node_id=n + 1, domain=f"d{n}") for n in range(24)]
    lists = planner.fresh(targets, 1024, 3)
    for target in targets:
        partners = {m for members in lists if target.node_id in members for m in members}
        assert len(partners) >= 22
        for position in range(3):
            assert sum(members[position] == target.node_id for members in lists) >= 20
