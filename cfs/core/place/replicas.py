"""Decides which metadata nodes hold the replicas of each Raft group, and who should lead it.

Three replicas (five of the root group when five nodes exist), in distinct failure domains where
there are enough; fewer while there are fewer nodes. `voters[0]` is the preferred leader. A node
that may stay, stays: replicas move only off nodes that are gone, onto nodes that hold more than
one replica less than another. Pure and deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cfs.core.api.cluster import ShardPlacement
from cfs.core.ids import ROOT_GROUP

REPLICAS = 3
ROOT_REPLICAS_MAX = 5


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A metadata node that may hold replicas."""

    node_id: int
    domain: str


def plan(groups: Sequence[ShardPlacement], hosts: Sequence[Host]) -> list[ShardPlacement]:
    """Give the groups that should change, with all their voters, the preferred leader first.

    Nodes not among `hosts` lose their replicas. With no hosts nothing changes.
    """
    if not hosts:
        return []
    domain = {h.node_id: h.domain for h in hosts}
    voters = {g.group: [v for v in g.voters if v in domain] for g in groups}
    load = {h.node_id: 0 for h in sorted(hosts, key=lambda h: h.node_id)}
    for members in voters.values():
        for node in members:
            load[node] += 1
    for group in sorted(voters):
        _resize(voters[group], size_of(group, len(hosts)), load, domain)
    _separate(voters, load, domain)
    _even(voters, load, domain)
    leaders = _spread_leaders(groups, voters, load)
    changed = []
    for placement in groups:
        first = leaders[placement.group]
        rest = [v for v in placement.voters if v in voters[placement.group] and v != first]
        rest += [v for v in voters[placement.group] if v not in rest and v != first]
        wanted = ShardPlacement(group=placement.group, voters=(first, *rest))
        if wanted != placement:
            changed.append(wanted)
    return changed


def size_of(group: int, host_count: int) -> int:
    """Give how many replicas a group should have."""
    if group == ROOT_GROUP and host_count >= ROOT_REPLICAS_MAX:
        return ROOT_REPLICAS_MAX
    return min(REPLICAS, host_count)


def _resize(members: list[int], size: int, load: dict[int, int], domain: dict[int, str]) -> None:
    while len(members) < size:
        taken = {domain[m] for m in members}
        node = min(
            (n for n in load if n not in members),
            key=lambda n: (domain[n] in taken, load[n], n),
        )
        members.append(node)
        load[node] += 1
    while len(members) > size:
        domains = [domain[m] for m in members]
        node = max(members, key=lambda n: (domains.count(domain[n]) > 1, load[n], n))
        members.remove(node)
        load[node] -= 1


def _separate(voters: dict[int, list[int]], load: dict[int, int], domain: dict[int, str]) -> None:
    """Move replicas out of a domain that a group uses twice, where a free one exists."""
    for members in voters.values():
        for node in sorted(members, key=lambda n: (-load[n], n)):
            domains = [domain[m] for m in members]
            if domains.count(domain[node]) < 2:
                continue
            free = [n for n in load if domain[n] not in domains]
            if free:
                _swap(members, node, min(free, key=lambda n: (load[n], n)), load)


def _even(voters: dict[int, list[int]], load: dict[int, int], domain: dict[int, str]) -> None:
    """Move replicas from the fullest to the emptiest nodes until they differ by one at most."""
    for _ in range(sum(load.values())):
        if not _even_once(voters, load, domain):
            return


def _even_once(voters: dict[int, list[int]], load: dict[int, int], domain: dict[int, str]) -> bool:
    for full in sorted(load, key=lambda n: (-load[n], n)):
        for empty in sorted(load, key=lambda n: (load[n], n)):
            if load[full] - load[empty] < 2:
                break
            for group in sorted(voters, reverse=True):
                members = voters[group]
                if full not in members or empty in members:
                    continue
                others = {domain[m] for m in members if m != full}
                if domain[empty] not in others or domain[full] in others:
                    _swap(members, full, empty, load)
                    return True
    return False


def _swap(members: list[int], old: int, new: int, load: dict[int, int]) -> None:
    members[members.index(old)] = new
    load[old] -= 1
    load[new] += 1


def _spread_leaders(
    groups: Sequence[ShardPlacement], voters: dict[int, list[int]], load: dict[int, int]
) -> dict[int, int]:
    """Keep preferred leaders that stay; shift from those with the most to those with the fewest."""
    leads = dict.fromkeys(load, 0)
    leaders: dict[int, int] = {}
    for placement in groups:
        first = placement.voters[0] if placement.voters else 0
        if first in voters[placement.group]:
            leaders[placement.group] = first
            leads[first] += 1
    for group in sorted(voters):
        if group not in leaders:
            leaders[group] = min(voters[group], key=lambda n: (leads[n], n))
            leads[leaders[group]] += 1
    for _ in range(len(leaders) * len(leads)):
        path = _leader_path(voters, leaders, leads)
        if not path:
            break
        for group, node in path:
            leads[leaders[group]] -= 1
            leaders[group] = node
            leads[node] += 1
    return leaders


def _leader_path(
    voters: dict[int, list[int]], leaders: dict[int, int], leads: dict[int, int]
) -> list[tuple[int, int]]:
    """Find the shortest chain of handovers from a node to one that leads two groups fewer."""
    for start in sorted(leads, key=lambda n: (-leads[n], n)):
        came: dict[int, tuple[int, int]] = {start: (-1, 0)}
        queue = [start]
        for node in queue:
            if leads[node] <= leads[start] - 2:
                path = []
                while node != start:
                    group, before = came[node]
                    path.append((group, node))
                    node = before  # noqa: PLW2901
                return path
            for group in sorted(leaders, reverse=True):
                if leaders[group] == node:
                    for successor in voters[group]:
                        if successor not in came:
                            came[successor] = (group, node)
                            queue.append(successor)
    return []
