"""What may be proposed to the root group, and what an answer looks like.

A command carries every decision that needs a clock, chance, keys or a plan: the leader makes it,
the machine checks that it still holds. One version byte, then a tagged msgpack array.
"""

from __future__ import annotations

# ruff: noqa: PLC0414 - these names are given on
from typing import Any

import msgspec

# ruff: noqa: PLC0414 - these names are given on
from cfs.core.api.cluster import Node, Profile, ShardPlacement
from cfs.core.errors import CfsError, Malformed
from cfs.core.root.command import Command
from cfs.core.root.notes import CloseFindings as CloseFindings
from cfs.core.root.notes import NoteEvent as NoteEvent
from cfs.core.root.notes import NoteFindings as NoteFindings
from cfs.core.root.quotas import ForgetQuota as ForgetQuota
from cfs.core.root.quotas import PutQuota as PutQuota
from cfs.core.root.quotas import RaiseTerm as RaiseTerm
from cfs.core.root.records import CertificateRecord
from cfs.core.root.snapshot_commands import BeginSnapshot as BeginSnapshot
from cfs.core.root.snapshot_commands import DeleteSnapshot as DeleteSnapshot
from cfs.core.root.snapshot_commands import ForgetSnapshot as ForgetSnapshot
from cfs.core.root.snapshot_commands import KeepTrash as KeepTrash
from cfs.core.root.snapshot_commands import SetSchedule as SetSchedule
from cfs.core.root.snapshot_commands import SettleSnapshot as SettleSnapshot

VERSION = 1
ROUND_SEGMENTS_MAX = 4096
"""Segments of one garbage round: 64 KiB in one Raft entry."""
SESSION_COUNT_MAX = 1024


class CreateCluster(Command, frozen=True, kw_only=True, tag="create"):
    """Make the cluster: once; again with the same id changes nothing and succeeds."""

    cluster_id: bytes
    name: str
    site: int
    shard_count: int
    placement_count: int
    profile: Profile
    ca_bundle: bytes
    created_ms: int
    node: Node
    """The first meta node: sole voter of every group."""
    certificate_expires_ms: int
    secrets: dict[str, bytes]
    volume_key: bytes
    """Version 1, wrapped."""
    others: tuple[CertificateRecord, ...] = ()
    """Certificates issued beside the first node's: the first administrator's."""


class MintToken(Command, frozen=True, kw_only=True, tag="mint"):
    """Remember an enrolment token; forgets those that expired before `now_ms`."""

    token_id: bytes
    role: str
    expires_ms: int
    serial: int
    now_ms: int


class RevokeToken(Command, frozen=True, kw_only=True, tag="unmint"):
    """Make a token useless."""

    token_id: bytes


class Admit(Command, frozen=True, kw_only=True, tag="admit"):
    """Use a token: record the certificate and, for meta and storage, the node (its id: value).

    The same key asking again gets the same node id. Storage and meta nodes begin as JOINING.
    """

    token_id: bytes
    key_digest: bytes
    now_ms: int
    role: str
    name: str
    host: str
    port: int
    domain: str
    weight: float
    serial: int
    expires_ms: int


class IssueCertificate(Command, frozen=True, kw_only=True, tag="issue"):
    """Record a certificate for an identity already known; a node's becomes the one in force.

    Forgets certificates that expired before `now_ms`.
    """

    serial: int
    role: str
    name: str
    node_id: int
    expires_ms: int
    now_ms: int


class RevokeCertificates(Command, frozen=True, kw_only=True, tag="revoke"):
    """Refuse these serials from now on. Value: how many were not refused before."""

    serials: tuple[int, ...]
    now_ms: int = 0


class StateChange(msgspec.Struct, frozen=True, array_like=True):
    """Move a node from one state to another; refused when it is not in `old`."""

    node_id: int
    old: str
    new: str
    settled: bool = True
    """False: only for now; the node returns to its last settled state when it is back."""


class SetStates(Command, frozen=True, kw_only=True, tag="states"):
    """Change node states: all, or none when one does not hold any more."""

    changes: tuple[StateChange, ...]
    now_ms: int = 0


class SetNode(Command, frozen=True, kw_only=True, tag="node"):
    """Change what is known of a node; None leaves a field as it is."""

    node_id: int
    host: str | None = None
    port: int | None = None
    domain: str | None = None
    weight: float | None = None
    now_ms: int = 0


class Place(Command, frozen=True, kw_only=True, tag="place"):
    """Set placement lists, planned from `placement_epoch`.

    Once a client had a session data may exist: from then on members are only appended to a list.
    """

    placement_epoch: int
    lists: tuple[tuple[int, tuple[int, ...]], ...]
    now_ms: int = 0


class PlaceGroups(Command, frozen=True, kw_only=True, tag="groups"):
    """Set the replicas of Raft groups, planned from `placement_epoch`."""

    placement_epoch: int
    groups: tuple[ShardPlacement, ...]
    now_ms: int = 0


class SetDisks(Command, frozen=True, kw_only=True, tag="disks"):
    """Remember which disks a storage node has."""

    node_id: int
    disks: tuple[bytes, ...]


class Tidied(Command, frozen=True, kw_only=True, tag="tidied"):
    """A node that was OUT holds nothing that is others' any more."""

    node_id: int


class RemoveNode(Command, frozen=True, kw_only=True, tag="remove"):
    """Forget a node and refuse its certificates.

    Refused while a placement list, a move or a Raft group names it.
    """

    node_id: int
    now_ms: int = 0


class Whole(Command, frozen=True, kw_only=True, tag="whole"):
    """Every segment has the profile's form, unless that became untrue after `epoch`."""

    epoch: int


class SetProfile(Command, frozen=True, kw_only=True, tag="profile"):
    """Write by another erasure profile from now on. Refused while there are too few domains."""

    profile: Profile
    now_ms: int = 0


class Set(Command, frozen=True, kw_only=True, tag="set"):
    """Change one setting (a field of `SettingsRecord`)."""

    name: str
    value: float
    now_ms: int = 0


class Replacement(msgspec.Struct, frozen=True, array_like=True):
    """In placement group `group`, `target` is to take the place of `source`."""

    group: int
    source: int
    target: int


class BeginMoves(Command, frozen=True, kw_only=True, tag="begin"):
    """Begin to move members, all or none: one a group. Value: how many."""

    moves: tuple[Replacement, ...]


class SwitchMoves(Command, frozen=True, kw_only=True, tag="switch"):
    """Let the lists of these groups name the targets. Value: the epoch since which they do."""

    groups: tuple[int, ...]


class TurnMoves(Command, frozen=True, kw_only=True, tag="turn"):
    """The targets of these switched moves are gone: move back to where the fragments still are."""

    groups: tuple[int, ...]


class EndMoves(Command, frozen=True, kw_only=True, tag="end"):
    """Forget the moves of these groups: finished, or (not switched) given up. Value: how many.

    `unproven`: of those, where the source may still hold fragments.
    """

    groups: tuple[int, ...]
    unproven: tuple[int, ...] = ()


class IssueSessions(Command, frozen=True, kw_only=True, tag="sessions"):
    """Hand out `count` session ids. Value: the first.

    `internal`: to a metadata node, whose workers write only what came from a client's session.
    """

    count: int = 1
    internal: bool = False


class PutSecret(Command, frozen=True, kw_only=True, tag="secret"):
    """Store a wrapped secret."""

    name: str
    blob: bytes


class AddVolumeKey(Command, frozen=True, kw_only=True, tag="key"):
    """Store the wrapped volume key `version`, which must be the next; it seals new chunks."""

    version: int
    blob: bytes
    now_ms: int = 0


class RotateAuthority(Command, frozen=True, kw_only=True, tag="authority"):
    """Replace the authority's wrapped key and the bundle of trusted certificates.

    Refused unless `version` is the authority's in force, and while a node that is not OUT shows a
    certificate of an earlier version: it does not have the bundle of now. Value: the new version.
    """

    version: int
    blob: bytes
    ca_bundle: bytes
    next_blob: bytes = b""
    """Wrapped authority that is to issue next; empty: none."""
    now_ms: int = 0


class OpenRound(Command, frozen=True, kw_only=True, tag="open"):
    """Open a garbage round over `segments`. Value: its number."""

    segments: tuple[bytes, ...]


class AdvanceRound(Command, frozen=True, kw_only=True, tag="advance"):
    """Move a round on: to DELETING (then `pending` owe the deletion), WITHDRAWING or OWED."""

    number: int
    phase: int
    pending: tuple[int, ...] = ()


class RoundDeleted(Command, frozen=True, kw_only=True, tag="deleted"):
    """These nodes deleted the round's fragments."""

    number: int
    nodes: tuple[int, ...]


class CloseRound(Command, frozen=True, kw_only=True, tag="close"):
    """Forget a round: withdrawn everywhere, or collected everywhere with nothing pending."""

    number: int


class StartJob(Command, frozen=True, kw_only=True, tag="job"):
    """Remember a job, running. Value: its number.

    Refused while another job that is not over has the same `key` (not empty).
    """

    kind: str
    spec: dict[str, Any]
    key: str
    rate: int
    unit: str
    started_by: str
    now_ms: int


class ReportJob(Command, frozen=True, kw_only=True, tag="report"):
    """Note how far a job is; `state` (done, failed) ends it, if it runs.

    Refused once it is over. What a paused job had done still counts.
    """

    number: int
    now_ms: int
    cursor: bytes
    done: int
    total: int
    findings: int
    message: str
    last_error: str = ""
    state: str = ""
    result: dict[str, Any] = {}  # noqa: RUF012 - a struct: it is copied


class ControlJob(Command, frozen=True, kw_only=True, tag="control"):
    """An operator's word on a job: `state` running, paused or cancelled; `rate`."""

    number: int
    now_ms: int
    state: str = ""
    rate: int | None = None


AnyCommand = (
    CreateCluster | MintToken | RevokeToken | Admit | IssueCertificate | RevokeCertificates
    | SetStates | SetNode | Place | PlaceGroups | IssueSessions | PutSecret | AddVolumeKey
    | RotateAuthority | OpenRound | AdvanceRound | RoundDeleted | CloseRound
    | StartJob | ReportJob | ControlJob | NoteFindings | CloseFindings | NoteEvent
    | SetDisks | Tidied | Whole | RemoveNode | SetProfile | Set | BeginMoves | SwitchMoves
    | TurnMoves | EndMoves
    | BeginSnapshot | SettleSnapshot | DeleteSnapshot | ForgetSnapshot | SetSchedule
    | KeepTrash | PutQuota | ForgetQuota | RaiseTerm
)  # fmt: skip

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyCommand)
_VERSION_BYTE = bytes([VERSION])


class Result(msgspec.Struct, frozen=True):
    """The answer to a command: an error and nothing changed, or a number."""

    error: CfsError | None = None
    value: int = 0

    def unwrap(self) -> int:
        """Give the number; raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


def encode(command: AnyCommand) -> bytes:
    """Give the bytes of a command."""
    return _VERSION_BYTE + _ENCODER.encode(command)


def decode(data: bytes) -> AnyCommand:
    """Read a command; raises Malformed on anything else."""
    if data[:1] != _VERSION_BYTE:
        raise Malformed(f"root command of unknown version {data[:1].hex()}")
    try:
        command: AnyCommand = _DECODER.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Malformed(f"root command: {error}") from error
    return command
