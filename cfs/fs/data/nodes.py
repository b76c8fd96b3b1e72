"""Which storage nodes are worth asking now: the map's word, and what this process has just seen.

A node that failed a call is *suspect*, one that answered NoSpace *full*, each for a few seconds:
long enough to send what is in hand elsewhere, short enough that a node that is back is used again.
Nothing here is more than a preference: readers still ask a suspect node when no other can answer.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from cfs.core.api.cluster import ClusterMap, Move, Node, NodeState
from cfs.core.ids import SegmentId
from cfs.core.place.group import placement_group_of

SUSPECT_S = 3.0
FULL_S = 5.0
_SERVING = frozenset({NodeState.IN, NodeState.DRAINING})


class Nodes:
    """A view of the cluster map with this process's own observations."""

    def __init__(self, cluster_map: Callable[[], ClusterMap]) -> None:
        self._source = cluster_map
        self._map: ClusterMap | None = None
        self._by_id: dict[int, Node] = {}
        self._moves: dict[int, Move] = {}
        self._serving: frozenset[int] = frozenset()
        self._suspect_until: dict[int, float] = {}
        self._full_until: dict[int, float] = {}

    @property
    def map(self) -> ClusterMap:
        """The cluster map in force."""
        current = self._source()
        if current is not self._map:
            self._map = current
            self._by_id = {node.node_id: node for node in current.nodes}
            self._moves = {move.group: move for move in current.moves}
            self._serving = frozenset(n.node_id for n in current.nodes if n.state in _SERVING)
        return current

    def members(self, segment: bytes) -> tuple[int, ...]:
        """Give the members of a segment's placement group in fragment order; () without groups."""
        placement = self.map.placement
        if not placement:
            return ()
        return placement[placement_group_of(SegmentId(segment), len(placement))]

    def places(self, segment: bytes) -> tuple[int, ...]:
        """Give every node that may hold fragments: the members, and the other side of a move."""
        members = self.members(segment)
        if not self.map.moves:
            return members
        group = placement_group_of(SegmentId(segment), len(self.map.placement))
        move = self._moves.get(group)
        if move is None:
            return members
        return (*members, move.source if move.switched else move.target)

    def live(self, node: int) -> bool:
        """Tell whether the map calls the node serving and no call to it has just failed."""
        if self._source() is not self._map:
            self.map  # noqa: B018 - reading it brings `_serving` up to date
        return node in self._serving and not _marked(self._suspect_until, node)

    def writable(self, node: int) -> bool:
        """Tell whether the node is live and has not just refused a fragment for want of room."""
        return self.live(node) and not _marked(self._full_until, node)

    def suspect(self, node: int) -> None:
        """Note a failed call."""
        self._suspect_until[node] = trio.current_time() + SUSPECT_S

    def full(self, node: int) -> None:
        """Note an answer of NoSpace."""
        self._full_until[node] = trio.current_time() + FULL_S

    def live_domains(self) -> tuple[int, int]:
        """Count failure domains of placed nodes: those with a live one, those with a writable."""
        placed = {node for group in self.map.placement for node in group}
        live = {self._by_id[node].domain for node in placed if self.live(node)}
        writable = {self._by_id[node].domain for node in placed if self.writable(node)}
        return len(live), len(writable)


def _marked(until: dict[int, float], node: int) -> bool:
    if not until or node not in until:
        return False
    if trio.current_time() < until[node]:
        return True
    del until[node]
    return False
