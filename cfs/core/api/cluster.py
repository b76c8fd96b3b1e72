"""The cluster map: what every process must know to find the others.

One value, replaced as a whole, owned by the root group. `epoch` rises with every change; every
RPC carries the sender's epoch.
"""

from __future__ import annotations

import enum

import msgspec


class NodeState(enum.StrEnum):
    """Where a node stands in its life."""

    JOINING = "joining"
    IN = "in"
    DRAINING = "draining"
    DOWN = "down"
    OUT = "out"


class Role(enum.StrEnum):
    """What a certificate lets its holder do."""

    META = "meta"
    STORAGE = "storage"
    CLIENT = "client"
    GATEWAY = "gateway"
    ADMIN = "admin"
    ENROL = "enrol"
    READER = "reader"
    """A client that may change nothing."""


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """Erasure profile: `data` fragments carry the bytes, any `parity` of all may be lost."""

    data: int
    parity: int

    @property
    def total(self) -> int:
        """Fragments per segment."""
        return self.data + self.parity


class Node(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A meta or storage node."""

    node_id: int
    name: str
    role: Role
    host: str
    port: int
    domain: str
    """Failure domain; two members of a placement group never share one."""
    state: NodeState
    weight: float = 1.0
    """Relative capacity."""
    serial: int = 0
    """Serial number of the certificate in force."""


class ShardPlacement(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Which meta nodes hold replicas of a Raft group (`group` 0 is the root group)."""

    group: int
    voters: tuple[int, ...]
    learners: tuple[int, ...] = ()


class Move(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A placement group changes one member: what `source` keeps goes to `target`.

    Until `switched` the group's list still names the source. Afterwards it names the target, and
    what the source took before it knew is still there.
    """

    group: int
    position: int
    source: int
    target: int
    switched: bool = False


class ClusterMap(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Everything above, at one epoch."""

    epoch: int
    cluster_id: bytes
    name: str
    site: int
    shard_count: int
    profile: Profile
    key_version: int
    """Version of the volume key that new chunks are sealed with."""
    nodes: tuple[Node, ...]
    groups: tuple[ShardPlacement, ...]
    placement: tuple[tuple[int, ...], ...]
    """For each placement group the storage nodes in fragment order: `profile.total` of them, or
    fewer while there are fewer domains; empty before any storage node is in."""
    revoked: tuple[int, ...] = ()
    """Serial numbers of certificates that are refused."""
    authority: int = 0
    """Rises when the trusted authorities change: everybody renews its certificate then."""
    moves: tuple[Move, ...] = ()
    """At most one a placement group."""
    list_epochs: tuple[int, ...] = ()
    """The epoch since which each placement list is what it is: nobody may write to the group by an
    older map."""

    def node(self, node_id: int) -> Node | None:
        """Find a node."""
        return next((n for n in self.nodes if n.node_id == node_id), None)
