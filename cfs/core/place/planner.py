"""Decides which storage nodes hold a placement group, and in which order.

A *list* holds at most `total` nodes of distinct failure domains; the position of a node in it is
the index of the fragments it keeps, so a node that stays keeps its position.

Quotas: a domain appears at most once in a list, so its share of all slots is its weight's, capped
at one slot a group, the rest shared by the others; within a domain nodes share by weight. Quotas
are whole numbers whose sum is exactly the number of slots, and every node that keeps its load
within rounding keeps all of it. So a plan moves the fewest groups: only what is above quota.

`fill` is the automatic part: it only appends. `step` is one round of a rebalance: it changes at
most one member of a group; calling it until it returns nothing reaches the quotas. Both are
pure and deterministic: chance is a hash of node and group.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

Lists = Sequence[tuple[int, ...]]
Changes = dict[int, tuple[int, ...]]

_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_EPSILON = 1e-6
"""Above the rounding error of shares, below any real fraction of a slot."""
_K = TypeVar("_K", int, str)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A storage node that may hold data."""

    node_id: int
    domain: str
    weight: float = 1.0


def length_of_lists(targets: Iterable[Target], total: int) -> int:
    """Give how long a list can be: `total`, or fewer while fewer domains exist."""
    return min(total, len({t.domain for t in targets if t.weight > 0}))


def fresh(targets: Sequence[Target], count: int, total: int) -> list[tuple[int, ...]]:
    """Plan every list from nothing: exact quotas, partners and positions spread by hash."""
    length = length_of_lists(targets, total)
    if length == 0:
        return [()] * count
    state = _State([()] * count, targets, length)
    for group in range(count):
        members: list[int] = []
        while len(members) < length:
            members.append(state.most_wanting(group, members, count - group))
            state.load[members[-1]] += 1
        members.sort(key=lambda node: _hash(node, group, 1))
        state.lists[group] = tuple(members)
    return state.lists


def fill(lists: Lists, targets: Sequence[Target], total: int) -> Changes:
    """Append to every list that is shorter than it can be; nothing else moves.

    A domain already in a list, even by a node that is no target any more, is not used again:
    give the domains of such nodes as targets of weight 0.
    """
    length = length_of_lists(targets, total)
    state = _State(list(lists), targets, length)
    changes: Changes = {}
    for group, members in enumerate(lists):
        grown = list(members)
        while len(grown) < length:
            node = state.most_wanting(group, grown, 0)
            if node == 0:
                break
            grown.append(node)
            state.load[node] += 1
        if len(grown) > len(members):
            changes[group] = tuple(grown)
    return changes


def step(
    lists: Lists, targets: Sequence[Target], total: int, moves_max: int | None = None
) -> Changes:
    """Change one member of each of at most `moves_max` groups towards the quotas.

    First the positions of nodes that are no targets (most endangered groups first), then moves
    from nodes above their quota. Empty when nothing is left to do.
    """
    length = length_of_lists(targets, total)
    if length == 0:
        return {}
    bound = len(lists) if moves_max is None else moves_max
    state = _State(list(lists), targets, length)
    changes: Changes = {}
    _replace_lost(state, changes, bound)
    _move_surplus(state, changes, bound)
    return changes


def replace(
    lists: Lists, targets: Sequence[Target], total: int, leaving: Collection[int], moves_max: int
) -> list[tuple[int, int, int]]:
    """Give `(group, leaving node, new node)` for one member each of at most `moves_max` groups.

    Only `leaving` nodes are replaced (give them as targets of weight 0), in groups that have most
    of them first: those are the most endangered. A group for which no target fits is passed over.
    """
    state = _State(list(lists), targets, total)
    ailing = [(sum(m in leaving for m in members), group) for group, members in enumerate(lists)]
    moves: list[tuple[int, int, int]] = []
    for _, group in sorted((-count, group) for count, group in ailing if count):
        if len(moves) >= moves_max:
            break
        members = state.lists[group]
        for lost in (m for m in members if m in leaving):
            node = state.most_wanting(group, [m for m in members if m != lost], 0)
            if node:
                state.replace(group, lost, node)
                moves.append((group, lost, node))
                break
    return moves


def even(
    lists: Lists, targets: Sequence[Target], total: int, moves_max: int
) -> list[tuple[int, int, int]]:
    """Give `(group, node, new node)` for one member each of at most `moves_max` groups.

    Only whole groups of targets move, from nodes above their quota; nothing when all are within.
    """
    state = _State(list(lists), targets, length_of_lists(targets, total))
    changes: Changes = {}
    _move_surplus(state, changes, moves_max)
    moves = []
    for group, members in changes.items():
        for old, new in zip(lists[group], members, strict=True):
            if old != new:
                moves.append((group, old, new))
    return moves


def quotas(targets: Sequence[Target], slots_per_list: int, count: int) -> dict[int, float]:
    """Give each node's exact share of slots, before rounding."""
    weights: dict[str, float] = {}
    for target in targets:
        weights[target.domain] = weights.get(target.domain, 0.0) + target.weight
    share: dict[str, float] = dict.fromkeys(weights, 0.0)
    open_domains = {d for d, w in sorted(weights.items()) if w > 0}
    slots = float(count * min(slots_per_list, len(open_domains)))
    while open_domains:
        total_weight = sum(weights[d] for d in sorted(open_domains))
        capped = [d for d in open_domains if slots * weights[d] / total_weight >= count]
        if not capped:
            for domain in open_domains:
                share[domain] = slots * weights[domain] / total_weight
            break
        for domain in capped:
            share[domain] = float(count)
            slots -= count
            open_domains.remove(domain)
    return {
        t.node_id: share[t.domain] * t.weight / weights[t.domain] if t.weight > 0 else 0.0
        for t in targets
    }


class _State:
    """Lists, loads and whole-number quotas of one planning run."""

    def __init__(
        self, lists: list[tuple[int, ...]], targets: Sequence[Target], length: int
    ) -> None:
        self.lists = lists
        self.length = length
        self.domain = {t.node_id: t.domain for t in targets}
        self.domains = [self._domains_of(members) for members in lists]
        """Those of each list; a list never has one twice."""
        self.usable = sorted(t.node_id for t in targets if t.weight > 0)
        self.load = dict.fromkeys(self.domain, 0)
        for members in lists:
            for node in members:
                if node in self.load:
                    self.load[node] += 1
        ideal = quotas(targets, length, len(lists))
        self.quota = _round(ideal, self.load, self.domain, len(lists))

    def most_wanting(self, group: int, members: Sequence[int], groups_left: int) -> int:
        """Give a usable node below quota that fits beside `members`; 0 when none fits.

        With `groups_left` (this group and those after it, when all are planned in order) a domain
        that needs every one of them goes first, so that all quotas fill exactly, and the others
        are drawn by hash, weighted by what they lack. Without, the furthest below quota goes
        first, and a node at quota is better than none.
        """
        taken = {self.domain.get(m) for m in members}
        wanting: dict[str, int] = {}
        if groups_left:
            for node in self.usable:
                domain = self.domain[node]
                wanting[domain] = wanting.get(domain, 0) + self.quota[node] - self.load[node]
        best, best_rank = 0, (0, 0.0, 0)
        for node in self.usable:
            if self.domain[node] in taken:
                continue
            lacking = self.quota[node] - self.load[node]
            chance = _hash(node, group, 0)
            if groups_left:
                urgent = int(lacking > 0 and wanting[self.domain[node]] >= groups_left)
                draw = lacking / -math.log((chance + 1) / (_MASK + 2)) if lacking > 0 else -1.0
                rank = (urgent, draw, chance)
            else:
                rank = (0, lacking / max(1, self.quota[node]), chance)
            if best == 0 or rank > best_rank:
                best, best_rank = node, rank
        return best

    def _domains_of(self, members: Iterable[int]) -> set[str | None]:
        return {self.domain.get(m) for m in members}

    def fits(self, node: int, group: int, leaving: int) -> bool:
        """Tell whether `node` can take the place of `leaving`."""
        domain = self.domain[node]
        if domain not in self.domains[group]:
            return True
        return domain == self.domain.get(leaving) and node not in self.lists[group]

    def replace(self, group: int, leaving: int, node: int) -> tuple[int, ...]:
        """Put `node` where `leaving` is."""
        members = tuple(node if m == leaving else m for m in self.lists[group])
        self.lists[group] = members
        self.domains[group] = self._domains_of(members)
        self.load[node] += 1
        if leaving in self.load:
            self.load[leaving] -= 1
        return members


def _replace_lost(state: _State, changes: Changes, bound: int) -> None:
    usable = set(state.usable)
    ailing: list[tuple[int, int]] = []
    for group, members in enumerate(state.lists):
        lost = sum(m not in usable for m in members)
        missing = max(lost, state.length - len(members) + lost)
        if missing > 0:
            ailing.append((-missing, group))
    for _, group in sorted(ailing):
        if len(changes) >= bound:
            return
        members = state.lists[group]
        stay = [m for m in members if m in usable]
        node = state.most_wanting(group, stay, 0)
        if node == 0:
            continue
        lost_member = next((m for m in members if m not in usable), None)
        if lost_member is None:
            state.lists[group] = changes[group] = (*members, node)
            state.domains[group].add(state.domain[node])
            state.load[node] += 1
        elif state.fits(node, group, lost_member):
            changes[group] = state.replace(group, lost_member, node)


def _move_surplus(state: _State, changes: Changes, bound: int) -> None:
    usable = set(state.usable)
    groups_of: dict[int, list[int]] = {node: [] for node in state.usable}
    for group, members in enumerate(state.lists):
        if group not in changes and all(m in usable for m in members):
            for node in members:
                groups_of[node].append(group)
    for start in sorted(state.usable, key=lambda n: (state.quota[n] - state.load[n], n)):
        while state.load[start] > state.quota[start]:
            path = _path_to_wanting(state, groups_of, start)
            if len(changes) + len(path) > bound or not path:
                break
            for node, group, successor in path:
                for member in state.lists[group]:
                    groups_of[member].remove(group)
                changes[group] = state.replace(group, node, successor)


def _path_to_wanting(
    state: _State, groups_of: Mapping[int, list[int]], start: int
) -> list[tuple[int, int, int]]:
    """Find the shortest chain of (node, group, successor) that ends below its quota.

    On a shortest chain no group occurs twice: its second use would have been a short cut.
    """
    came: dict[int, tuple[int, int]] = {start: (0, 0)}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        nexts = [n for n in state.usable if n not in came]
        nexts.sort(key=lambda n: (state.load[n] - state.quota[n], n))
        for successor in nexts:
            fitting = [g for g in groups_of[node] if state.fits(successor, g, node)]
            if not fitting:
                continue
            came[successor] = (node, min(fitting, key=lambda g: _hash(successor, g, 2)))
            if state.load[successor] < state.quota[successor]:
                return _trace(came, start, successor)
            queue.append(successor)
    return []


def _trace(came: Mapping[int, tuple[int, int]], start: int, end: int) -> list[tuple[int, int, int]]:
    path: list[tuple[int, int, int]] = []
    while end != start:
        node, group = came[end]
        path.append((node, group, end))
        end = node
    return path


def _round(
    ideal: Mapping[int, float], load: Mapping[int, int], domain: Mapping[int, str], count: int
) -> dict[int, int]:
    """Round shares to whole quotas: a domain's sum first (at most `count`), then its nodes'."""
    shares: dict[str, float] = {}
    loads: dict[str, int] = {}
    for node, share in ideal.items():
        shares[domain[node]] = shares.get(domain[node], 0.0) + share
        loads[domain[node]] = loads.get(domain[node], 0) + load[node]
    whole = _round_shares(shares, loads, round(sum(shares.values())), count)
    result: dict[int, int] = {}
    for name, slots in whole.items():
        nodes = {n: s for n, s in ideal.items() if domain[n] == name}
        result.update(_round_shares(nodes, load, slots, count))
    return result


def _round_shares(
    shares: Mapping[_K, float], loads: Mapping[_K, int], slots: int, cap: int
) -> dict[_K, int]:
    """Round each share down or up so that the sum is `slots`; up where the load is already."""
    whole = {key: int(share + _EPSILON) for key, share in shares.items()}
    rest = slots - sum(whole.values())
    candidates = [k for k, s in shares.items() if s - whole[k] > _EPSILON and whole[k] < cap]
    candidates.sort(key=lambda k: (loads[k] <= whole[k], whole[k] - shares[k], str(k)))
    assert 0 <= rest <= len(candidates)
    for key in candidates[:rest]:
        whole[key] += 1
    return whole


def _hash(node: int, group: int, salt: int) -> int:
    value = (node * _MIX ^ (group + 1) * 0xC2B2AE3D27D4EB4F ^ salt * 0x165667B19E3779F9) & _MASK
    value ^= value >> 31
    value = value * 0xBF58476D1CE4E5B9 & _MASK
    value ^= value >> 27
    value = value * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
