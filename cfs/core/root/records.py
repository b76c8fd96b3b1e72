"""The root group's records: keys, values, versions.

Every value is one version byte, then a msgpack array (`cfs.core.api` rules: new fields go last,
with a default). Keys, all big endian:

    "c"                       ClusterRecord     written once
    "x"                       Counters          rises only
    "n" node u32              NodeRecord
    "g" Raft group u32        ShardPlacement
    "p" placement group u32   PlacementRecord
    "t" token id              TokenRecord
    "s" serial u64            CertificateRecord
    "k" name                  SecretRecord      wrapped under the master key; opaque here
    "o" round u64             RoundRecord
    "j" job u64               JobRecord
    "e" number u64            EventRecord       see `events`, which also owns "E"
    "f" key of the object     FindingRecord     see `findings`, which also owns "F"
    "S"                       SettingsRecord    what is not there has its default
    "R"                       DegradedRecord    not there: every segment has the profile's form
    "h" epoch u32             SnapshotRecord
    "H" inode u64             ScheduleRecord    of the directory of that inode
    "y"                       TrashRecord
    "q" kind u8 id u64        QuotaRecord       see `quotas`
"""

from __future__ import annotations

import enum
from typing import Any, TypeVar

import msgspec

from cfs.core.api.cluster import Node, NodeState, Profile, ShardPlacement
from cfs.core.api.snapshots import Snapshot
from cfs.core.errors import Corrupt
from cfs.core.kv import Reader, Writer, prefix_end

VERSION = 1

CLUSTER_KEY = b"c"
COUNTERS_KEY = b"x"
NODE_PREFIX = b"n"
GROUP_PREFIX = b"g"
PLACEMENT_PREFIX = b"p"
TOKEN_PREFIX = b"t"
CERTIFICATE_PREFIX = b"s"
SECRET_PREFIX = b"k"
ROUND_PREFIX = b"o"
JOB_PREFIX = b"j"
SETTINGS_KEY = b"S"
DEGRADED_KEY = b"R"
SNAPSHOT_PREFIX = b"h"
SCHEDULE_PREFIX = b"H"
TRASH_KEY = b"y"

SECRET_CA = "ca"  # noqa: S105 - a name
"""Name of the secret that holds the certificate authority's private key."""
SECRET_CA_NEXT = "ca-next"  # noqa: S105 - a name
"""The authority that is trusted already and will issue next."""


class ClusterRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What is decided when the cluster is made; only the authority may change."""

    cluster_id: bytes
    name: str
    site: int
    shard_count: int
    placement_count: int
    profile: Profile
    ca_bundle: bytes
    """Certificates of every authority still trusted (PEM)."""
    created_ms: int
    authority: int = 0
    """Counts changes of the authority or of what is trusted."""


class Counters(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Numbers that only rise."""

    epoch: int = 1
    next_node: int = 1
    next_session: int = 1
    next_round: int = 1
    key_version: int = 1
    placement_epoch: int = 1
    """Epoch of the last change of nodes, states or placement: what a plan was made from."""
    written: bool = False
    """A client was given a session: data may exist from then on."""
    next_job: int = 1
    next_snapshot: int = 1
    quota_version: int = 0
    """Of the set of what is limited by quotas."""
    quota_base: int = 0
    """Added to the leader's term where shards remember it; see `quotas.RaiseTerm`."""


class NodeRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A node as the map shows it, and what it returns to."""

    node: Node
    resting: NodeState
    """The state it has again when it comes back from DOWN."""
    stray: bool = False
    """It was OUT: it may hold fragments that are others' by now."""
    disks: tuple[bytes, ...] = ()
    """Ids of the disks its fragments are on; one that is missing is to be repaired."""


class MoveRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A member that is being replaced; see `cfs.core.api.cluster.Move`."""

    position: int
    source: int
    target: int
    switched: bool = False


class PlacementRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Storage nodes of a placement group in fragment order."""

    members: tuple[int, ...]
    epoch: int = 0
    """Of the map in which `members` last changed."""
    move: MoveRecord | None = None


class TokenRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An enrolment token: works once, for one role, until it expires."""

    token_id: bytes
    role: str
    expires_ms: int
    """Wall clock."""
    serial: int
    """Serial of the certificate inside the token."""
    used_by: bytes = b""
    """Digest of the public key it enrolled; empty: unused. The same key may ask again."""
    node_id: int = 0
    revoked: bool = False


class CertificateRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A certificate that was issued."""

    serial: int
    role: str
    name: str
    node_id: int
    expires_ms: int
    revoked: bool = False
    authority: int = 0
    """`ClusterRecord.authority` when it was issued: its holder got the bundle of that time."""


class SecretRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A secret, wrapped under the master key."""

    blob: bytes


class Phase(enum.IntEnum):
    """Where a garbage round stands."""

    CONDEMNING = 0
    """Condemned in some shards, perhaps all; nothing deleted."""
    DELETING = 1
    """Every shard confirmed it: fragments are being deleted. There is no way back."""
    WITHDRAWING = 2
    """Some shard still refers to a segment of it: being withdrawn."""
    OWED = 3
    """Collected in every shard; `pending` nodes still have to delete when they are back."""


class RoundRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A garbage round."""

    number: int
    phase: Phase
    segments: tuple[bytes, ...]
    pending: tuple[int, ...]
    """Storage nodes that have not confirmed the deletion."""


class SettingsRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What an administrator may change while the cluster runs; units are in the names."""

    grace_s: float = 600.0
    """How long a node is down before its data is re-homed."""
    share_max: float = 0.34
    """More of a role missing at once than this is a network fault, and nothing is re-homed."""
    repair_rate: int = 100 << 20
    """Bytes a second of repair, before a job's own rate is set."""
    move_rate: int = 50 << 20
    """Bytes a second of drain and rebalance."""
    warn_share: float = 0.80
    """A disk fuller than this is warned of."""
    critical_share: float = 0.92


class DegradedRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Since this epoch segments may have been written in another form than the profile's."""

    epoch: int


class JobState(enum.StrEnum):
    """Where a job stands; the last two are for ever."""

    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    """Stopped by an error: resume it, or cancel it to dismiss it."""
    DONE = "done"
    CANCELLED = "cancelled"


class JobRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A long operation: what to do, and how far it is."""

    number: int
    kind: str
    spec: dict[str, Any]
    """What to do, in the kind's own words."""
    key: str
    """At most one job that is not over has this key; empty: any number."""
    state: JobState
    started_by: str
    started_ms: int
    updated_ms: int
    rate: int = 0
    """Most bytes a second; 0: no bound."""
    unit: str = "bytes"
    """What `done` and `total` count."""
    done: int = 0
    total: int = 0
    """0: not known yet."""
    cursor: bytes = b""
    """Where the next leader goes on, in the kind's own encoding."""
    findings: int = 0
    message: str = ""
    """What it is doing, for people."""
    last_error: str = ""
    result: dict[str, Any] = {}


class SnapshotPhase(enum.IntEnum):
    """Where a snapshot stands."""

    TAKING = 0
    READY = 1
    DELETING = 2
    """Out of sight; shards still have to drop it."""


class SnapshotRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A snapshot."""

    snapshot: Snapshot
    phase: SnapshotPhase


class ScheduleRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Which snapshots are taken of a directory by themselves: period to how many are kept."""

    scope: int
    path: str
    keep: dict[str, int]


class TrashRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How long what is removed stays in the trash, and whether every shard knows."""

    keep_s: int = 0
    told: bool = True


_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind)
    for kind in (
        ClusterRecord, Counters, NodeRecord, ShardPlacement, PlacementRecord, TokenRecord,
        CertificateRecord, SecretRecord, RoundRecord, JobRecord, SettingsRecord,
        DegradedRecord,
        SnapshotRecord, ScheduleRecord, TrashRecord,
    )
}  # fmt: skip
_T = TypeVar("_T")
_VERSION_BYTE = bytes([VERSION])


def add_kind(kind: type) -> None:
    """Make a record readable that another module of this package owns."""
    _DECODERS[kind] = msgspec.msgpack.Decoder(kind)


def encode(record: object) -> bytes:
    """Give the stored bytes of a record."""
    return _VERSION_BYTE + _ENCODER.encode(record)


def decode(kind: type[_T], value: bytes) -> _T:
    """Read a record; raises Corrupt on a version this program does not know."""
    if value[:1] != _VERSION_BYTE:
        raise Corrupt(f"root record {kind.__name__} has unknown version {value[:1].hex()}: upgrade")
    record: _T = _DECODERS[kind].decode(memoryview(value)[1:])
    return record


def number_key(prefix: bytes, number: int) -> bytes:
    """Key of a node, Raft group, placement group or snapshot."""
    return prefix + number.to_bytes(4, "big")


def long_key(prefix: bytes, number: int) -> bytes:
    """Key of a certificate, a round, a job or a schedule."""
    return prefix + number.to_bytes(8, "big")


def get(kv: Reader, kind: type[_T], key: bytes) -> _T | None:
    """Read one record, or None."""
    value = kv.get(key)
    return None if value is None else decode(kind, value)


def get_all(kv: Reader, kind: type[_T], prefix: bytes) -> list[_T]:
    """Read every record under a prefix, in key order."""
    return [decode(kind, value) for _, value in kv.scan(prefix, prefix_end(prefix))]


def get_counters(kv: Reader) -> Counters:
    """Read the counters; their first values before the cluster is made."""
    return get(kv, Counters, COUNTERS_KEY) or Counters()


def bump(kv: Writer, *, placed: bool = False, **fields: Any) -> None:
    """Raise the epoch, and with `placed` what plans are checked against; set counters."""
    counters = get_counters(kv)
    epoch = counters.epoch + 1
    if placed:
        fields["placement_epoch"] = epoch
    put_counters(kv, msgspec.structs.replace(counters, epoch=epoch, **fields))


def put_counters(kv: Writer, counters: Counters) -> None:
    """Store the counters."""
    kv.put(COUNTERS_KEY, encode(counters))


def put_node(kv: Writer, record: NodeRecord) -> None:
    """Store a node."""
    kv.put(number_key(NODE_PREFIX, record.node.node_id), encode(record))


def put_group(kv: Writer, group: ShardPlacement) -> None:
    """Store the replicas of a Raft group."""
    kv.put(number_key(GROUP_PREFIX, group.group), encode(group))


def put_list(kv: Writer, number: int, record: PlacementRecord) -> None:
    """Store a placement list."""
    kv.put(number_key(PLACEMENT_PREFIX, number), encode(record))


def put_secret(kv: Writer, name: str, blob: bytes) -> None:
    """Store a wrapped secret."""
    kv.put(SECRET_PREFIX + name.encode(), encode(SecretRecord(blob=blob)))


def put_token(kv: Writer, token: TokenRecord) -> None:
    """Store a token."""
    kv.put(TOKEN_PREFIX + token.token_id, encode(token))


def put_certificate(kv: Writer, certificate: CertificateRecord) -> None:
    """Store a certificate."""
    kv.put(long_key(CERTIFICATE_PREFIX, certificate.serial), encode(certificate))
