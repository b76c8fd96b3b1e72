"""Replica planning: sizes, spread, minimal movement."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.api.cluster import ShardPlacement
from cfs.core.place import replicas
from cfs.core.place.replicas import Host


def _hosts(count: int, domains: int | None = None) -> list[Host]:
    return [
        Host(node_id=n + 1, domain=f"d{n if domains is None else n % domains}")
        for n in range(count)
    ]


def _apply(groups: list[ShardPlacement], changed: list[ShardPlacement]) -> list[ShardPlacement]:
    new = {g.group: g for g in changed}
    return [new.get(g.group, g) for g in groups]


def _start(count: int) -> list[ShardPlacement]:
    return [ShardPlacement(group=g, voters=(1,)) for g in range(count)]


@given(st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_spread_is_even_and_stable(host_count: int, group_count: int) -> None:
    hosts = _hosts(host_count)
    groups = _apply(_start(group_count), replicas.plan(_start(group_count), hosts))
    for group in groups:
        assert len(set(group.voters)) == len(group.voters)
        assert len(group.voters) == replicas.size_of(group.group, host_count)
    load = [sum(h.node_id in g.voters for g in groups) for h in hosts]
    leads = [sum(h.node_id == g.voters[0] for g in groups) for h in hosts]
    assert max(load) - min(load) <= 1
    assert max(leads) - min(leads) <= 1
    assert replicas.plan(groups, hosts) == []


@given(st.integers(4, 10), st.integers(1, 30), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_losing_a_host_moves_only_its_replicas(
    host_count: int, group_count: int, data: st.DataObject
) -> None:
    hosts = _hosts(host_count)
    groups = _apply(_start(group_count), replicas.plan(_start(group_count), hosts))
    lost = data.draw(st.integers(1, host_count))
    left = [h for h in hosts if h.node_id != lost]
    after = _apply(groups, replicas.plan(groups, left))
    moved = sum(len(set(b.voters) - set(a.voters)) for a, b in zip(groups, after, strict=True))
    held = sum(lost in g.voters for g in groups)
    load = [sum(h.node_id in g.voters for g in after) for h in left]
    assert all(lost not in g.voters for g in after)
    assert max(load) - min(load) <= 1
    # Only what it held moves, and at most a rounding's worth of others.
    assert moved <= held + len(left)


def test_domains_are_distinct_where_enough_exist() -> None:
    hosts = _hosts(6, domains=3)
    groups = _apply(_start(16), replicas.plan(_start(16), hosts))
    for group in groups[1:]:
        assert len({(v - 1) % 3 for v in group.voters}) == 3


def test_no_hosts_change_nothing() -> None:
    assert replicas.plan(_start(3), []) == []
