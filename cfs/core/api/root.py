"""Messages to the leader of the root group: the map, sessions, enrolment, heartbeats, status."""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.api.cluster import ClusterMap
from cfs.core.api.store import StoreStat


class GetMap(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask any meta node for the cluster map; answered from its applied state."""

    have_epoch: int = 0


class GetMapReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """`map` is None when nothing is newer than `have_epoch`."""

    map: ClusterMap | None
    root_leader: int | None = None


class NewSession(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask for a session id, never given before. `client` names the asker to operators."""

    client: str


class NewSessionReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The id."""

    session: int


class GetVolumeKeys(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask for the volume keys (clients and gateways only)."""


class GetVolumeKeysReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Version to 32-byte key."""

    keys: dict[int, bytes]


class Enrol(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Join with a token (its certificate has role ENROL): sign `csr` (DER) for `role`.

    Raises Refused when the token was used, revoked, expired or is for another role.
    """

    token_id: bytes
    role: str
    name: str
    csr: bytes
    host: str = ""
    port: int = 0
    domain: str = ""


class EnrolReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Certificate chain and CA bundle (PEM), and the node's id (0 for clients).

    `secrets` has, for meta nodes only, `master_key`: the key that wraps what the root group keeps.
    """

    certificate: bytes
    ca_bundle: bytes
    node_id: int
    cluster_id: bytes
    map: ClusterMap
    secrets: dict[str, bytes] = {}


class RenewCertificate(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Sign `csr` for the caller's own identity and role, for another term."""

    csr: bytes


class GroupLoad(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A Raft group replica as its host sees it."""

    group: int
    role: str
    term: int
    leader: int | None
    applied: int
    committed: int
    last: int


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A node is alive and how it is."""

    node_id: int
    epoch: int
    started_ms: int
    """Wall clock when the process started."""
    rss_anon: int = 0
    version: str = ""
    store: StoreStat | None = None
    groups: tuple[GroupLoad, ...] = ()
    meta_log_bytes: int = 0
    meta_state_bytes: int = 0
    counters: dict[str, int] = {}


class HeartbeatReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The leader's epoch: refresh the map when it is newer."""

    epoch: int


class NodeStatus(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A node with its last heartbeat."""

    node_id: int
    name: str
    role: str
    address: str
    state: str
    seen_ms_ago: int | None
    """None: not since the leader took over."""
    heartbeat: Heartbeat | None


class GetStatus(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask the root leader how the cluster is."""


class WorkerStatus(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A background job: who runs it, what it does, how far it is."""

    name: str
    node: str
    state: str
    progress: str = ""
    last_error: str = ""


class Status(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The cluster at a glance. Bytes."""

    map: ClusterMap
    leader: int
    nodes: tuple[NodeStatus, ...]
    logical_bytes: int
    inodes: int
    inline_bytes: int
    health: str
    """`ok`, `degraded` or `down`."""
    problems: tuple[str, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    sessions: int = 0


class Admin(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An operator's command to the root leader; names and arguments in `cfs.fs.root.admin`."""

    command: str
    arguments: dict[str, Any] = {}


class AdminReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What it gave."""

    value: dict[str, Any] = {}
