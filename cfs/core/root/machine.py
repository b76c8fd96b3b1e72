"""The root group's state machine.

Invariants:
* a node id, session id, round, job number, snapshot epoch or key version is given once;
* the epoch rises by one with every command that changes the map, and with no other;
* a token enrols one public key, before it expires, for its role;
* once a client had a session (data may exist), a placement list changes only at its end, or by a
  move of one member at a time;
* a refused command changes nothing.

What a command should be is decided by the leader's workers (`cfs.fs.root`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.api.cluster import Node, NodeState, Role, ShardPlacement
from cfs.core.errors import CfsError, Malformed, NotFound, Refused, Retryable
from cfs.core.kv import Reader, Writer
from cfs.core.root import (
    commands,
    events,
    findings,
    jobs,
    moves,
    nodes,
    quotas,
    records,
    rounds,
    snapshots,
)
from cfs.core.root.commands import Result
from cfs.core.root.records import (
    CertificateRecord,
    ClusterRecord,
    Counters,
    NodeRecord,
    SecretRecord,
    TokenRecord,
    encode,
    get,
    get_counters,
    long_key,
    number_key,
)

_NODE_ROLES = (Role.META.value, Role.STORAGE.value)


class RootMachine:
    """Applies commands (`cfs.core.machine.StateMachine`)."""

    def apply(self, kv: Writer, index: int, command: bytes) -> Result:
        """Apply one command; its `Result` holds the refusal or the number it gave."""
        del index
        try:
            decoded = commands.decode(command)
            if not isinstance(decoded, commands.CreateCluster) and (
                kv.get(records.CLUSTER_KEY) is None
            ):
                raise Refused("the cluster is not made yet")
            value = _APPLY[type(decoded)](kv, decoded)
            events.follow(kv, decoded, value)
            return Result(value=value)
        except CfsError as error:
            return Result(error=error)


def volume_key_name(version: int) -> str:
    """Name of the secret that holds a volume key."""
    return f"volume/{version:010d}"


def read_secret(kv: Reader, name: str) -> bytes:
    """Give a wrapped secret; raises NotFound."""
    record = get(kv, SecretRecord, records.SECRET_PREFIX + name.encode())
    if record is None:
        raise NotFound(f"the root group has no secret {name!r}")
    return record.blob


def read_volume_keys(kv: Reader) -> dict[int, bytes]:
    """Give every wrapped volume key by version."""
    last = get_counters(kv).key_version
    return {v: read_secret(kv, volume_key_name(v)) for v in range(1, last + 1)}


# --- creation and secrets ------------------------------------------------------------------------


def _create(kv: Writer, command: commands.CreateCluster) -> int:
    existing = get(kv, ClusterRecord, records.CLUSTER_KEY)
    if existing is not None:
        if existing.cluster_id == command.cluster_id:
            return command.node.node_id
        raise Refused(f"the cluster {existing.name!r} exists already")
    if command.shard_count < 1 or command.placement_count < 1:
        raise Malformed("a cluster needs at least one shard and one placement group")
    node = command.node
    kv.put(
        records.CLUSTER_KEY,
        encode(
            ClusterRecord(
                cluster_id=command.cluster_id,
                name=command.name,
                site=command.site,
                shard_count=command.shard_count,
                placement_count=command.placement_count,
                profile=command.profile,
                ca_bundle=command.ca_bundle,
                created_ms=command.created_ms,
            )
        ),
    )
    records.put_counters(kv, Counters(next_node=node.node_id + 1))
    records.put_node(kv, NodeRecord(node=node, resting=NodeState.IN))
    for group in range(command.shard_count + 1):
        records.put_group(kv, ShardPlacement(group=group, voters=(node.node_id,)))
    for number in range(command.placement_count):
        records.put_list(kv, number, records.PlacementRecord(members=()))
    for name, blob in command.secrets.items():
        records.put_secret(kv, name, blob)
    records.put_secret(kv, volume_key_name(1), command.volume_key)
    records.put_certificate(
        kv,
        CertificateRecord(
            serial=node.serial,
            role=node.role.value,
            name=node.name,
            node_id=node.node_id,
            expires_ms=command.certificate_expires_ms,
        ),
    )
    for certificate in command.others:
        records.put_certificate(kv, certificate)
    return node.node_id


def _put_secret_command(kv: Writer, command: commands.PutSecret) -> int:
    records.put_secret(kv, command.name, command.blob)
    return 0


def _add_volume_key(kv: Writer, command: commands.AddVolumeKey) -> int:
    counters = get_counters(kv)
    if command.version != counters.key_version + 1:
        raise Retryable(f"the volume key in force has version {counters.key_version} by now")
    records.put_secret(kv, volume_key_name(command.version), command.blob)
    records.bump(kv, key_version=command.version)
    return command.version


def _rotate_authority(kv: Writer, command: commands.RotateAuthority) -> int:
    cluster = get(kv, ClusterRecord, records.CLUSTER_KEY)
    assert cluster is not None
    if command.version != cluster.authority:
        raise Retryable(f"the authority has version {cluster.authority} by now")
    for record in records.get_all(kv, NodeRecord, records.NODE_PREFIX):
        node = record.node
        shown = get(kv, CertificateRecord, long_key(records.CERTIFICATE_PREFIX, node.serial))
        renewed = shown is not None and shown.authority == cluster.authority
        if node.state != NodeState.OUT and not renewed:
            raise Refused(
                f"node {node.name} has not renewed its certificate since the last change of the "
                "authority: start it and wait, or set it out"
            )
    version = cluster.authority + 1
    replaced = msgspec.structs.replace(cluster, ca_bundle=command.ca_bundle, authority=version)
    kv.put(records.CLUSTER_KEY, encode(replaced))
    records.put_secret(kv, records.SECRET_CA, command.blob)
    if command.next_blob:
        records.put_secret(kv, records.SECRET_CA_NEXT, command.next_blob)
    else:
        kv.delete(records.SECRET_PREFIX + records.SECRET_CA_NEXT.encode())
    records.bump(kv)
    return version


def _authority_version(kv: Reader) -> int:
    cluster = get(kv, ClusterRecord, records.CLUSTER_KEY)
    assert cluster is not None
    return cluster.authority


# --- tokens and certificates ---------------------------------------------------------------------


def _mint(kv: Writer, command: commands.MintToken) -> int:
    for token in records.get_all(kv, TokenRecord, records.TOKEN_PREFIX):
        if token.expires_ms < command.now_ms:
            kv.delete(records.TOKEN_PREFIX + token.token_id)
    key = records.TOKEN_PREFIX + command.token_id
    if kv.get(key) is not None:
        raise Refused("this token exists already")
    records.put_token(
        kv,
        TokenRecord(
            token_id=command.token_id,
            role=command.role,
            expires_ms=command.expires_ms,
            serial=command.serial,
        ),
    )
    return 0


def _revoke_token(kv: Writer, command: commands.RevokeToken) -> int:
    token = get(kv, TokenRecord, records.TOKEN_PREFIX + command.token_id)
    if token is None:
        raise NotFound("there is no such token; it may have expired")
    records.put_token(kv, msgspec.structs.replace(token, revoked=True))
    return 0


def check_token(kv: Reader, token_id: bytes, role: str, key_digest: bytes, now_ms: int) -> None:
    """Raise Refused unless this key may enrol with this token for this role now."""
    token = get(kv, TokenRecord, records.TOKEN_PREFIX + token_id)
    if token is None:
        raise Refused("this token is unknown or expired: make a new one with cfs token create")
    if token.revoked:
        raise Refused("this token was revoked")
    if token.expires_ms < now_ms:
        raise Refused("this token has expired: make a new one with cfs token create")
    if token.role != role:
        raise Refused(f"this token is for the role {token.role}, not {role}")
    if token.used_by and token.used_by != key_digest:
        raise Refused("this token was used already: make a new one with cfs token create")


def _admit(kv: Writer, command: commands.Admit) -> int:
    check_token(kv, command.token_id, command.role, command.key_digest, command.now_ms)
    token = get(kv, TokenRecord, records.TOKEN_PREFIX + command.token_id)
    assert token is not None
    node_id = token.node_id
    if command.role in _NODE_ROLES:
        node_id = _admit_node(kv, command, node_id)
    records.put_token(
        kv, msgspec.structs.replace(token, used_by=command.key_digest, node_id=node_id)
    )
    records.put_certificate(
        kv,
        CertificateRecord(
            serial=command.serial,
            role=command.role,
            name=command.name,
            node_id=node_id,
            expires_ms=command.expires_ms,
            authority=_authority_version(kv),
        ),
    )
    return node_id


def _admit_node(kv: Writer, command: commands.Admit, known: int) -> int:
    for other in records.get_all(kv, NodeRecord, records.NODE_PREFIX):
        node = other.node
        if node.name == command.name and node.node_id != known and node.state != NodeState.OUT:
            raise Refused(f"a node named {node.name!r} exists already (node {node.node_id})")
    counters = get_counters(kv)
    node_id = known or counters.next_node
    before = get(kv, NodeRecord, number_key(records.NODE_PREFIX, node_id))
    node = Node(
        node_id=node_id,
        name=command.name,
        role=Role(command.role),
        host=command.host,
        port=command.port,
        domain=command.domain or command.name,
        state=NodeState.JOINING if before is None else before.node.state,
        weight=command.weight,
        serial=command.serial,
    )
    resting = NodeState.JOINING if before is None else before.resting
    records.put_node(kv, NodeRecord(node=node, resting=resting))
    records.bump(kv, placed=True, next_node=max(counters.next_node, node_id + 1))
    return node_id


def _issue(kv: Writer, command: commands.IssueCertificate) -> int:
    for certificate in records.get_all(kv, CertificateRecord, records.CERTIFICATE_PREFIX):
        if certificate.expires_ms < command.now_ms:
            kv.delete(long_key(records.CERTIFICATE_PREFIX, certificate.serial))
    records.put_certificate(
        kv,
        CertificateRecord(
            serial=command.serial,
            role=command.role,
            name=command.name,
            node_id=command.node_id,
            expires_ms=command.expires_ms,
            authority=_authority_version(kv),
        ),
    )
    known = get(kv, NodeRecord, number_key(records.NODE_PREFIX, command.node_id))
    if known is not None:
        node = msgspec.structs.replace(known.node, serial=command.serial)
        records.put_node(kv, msgspec.structs.replace(known, node=node))
        records.bump(kv)
    return 0


def _revoke(kv: Writer, command: commands.RevokeCertificates) -> int:
    count = 0
    for serial in command.serials:
        certificate = get(kv, CertificateRecord, long_key(records.CERTIFICATE_PREFIX, serial))
        if certificate is None:
            raise NotFound(f"no certificate in force has the serial {serial:x}")
        count += not certificate.revoked
    for serial in command.serials:
        certificate = get(kv, CertificateRecord, long_key(records.CERTIFICATE_PREFIX, serial))
        assert certificate is not None
        records.put_certificate(kv, msgspec.structs.replace(certificate, revoked=True))
    if count:
        records.bump(kv)
    return count


_APPLY: dict[type, Any] = {
    commands.CreateCluster: _create,
    commands.MintToken: _mint,
    commands.RevokeToken: _revoke_token,
    commands.Admit: _admit,
    commands.IssueCertificate: _issue,
    commands.RevokeCertificates: _revoke,
    commands.SetStates: nodes.set_states,
    commands.SetNode: nodes.set_node,
    commands.Place: nodes.place,
    commands.PlaceGroups: nodes.place_groups,
    commands.SetDisks: nodes.set_disks,
    commands.Tidied: nodes.tidied,
    commands.RemoveNode: nodes.remove_node,
    commands.Whole: nodes.whole,
    commands.SetProfile: nodes.set_profile,
    commands.Set: nodes.set_setting,
    commands.BeginMoves: moves.begin,
    commands.SwitchMoves: moves.switch,
    commands.TurnMoves: moves.turn,
    commands.EndMoves: moves.end,
    commands.IssueSessions: nodes.issue_sessions,
    commands.PutSecret: _put_secret_command,
    commands.AddVolumeKey: _add_volume_key,
    commands.RotateAuthority: _rotate_authority,
    commands.OpenRound: rounds.open_round,
    commands.AdvanceRound: rounds.advance,
    commands.RoundDeleted: rounds.deleted,
    commands.CloseRound: rounds.close,
    commands.NoteFindings: findings.note,
    commands.CloseFindings: findings.close,
    commands.NoteEvent: events.note_event,
    commands.StartJob: jobs.start,
    commands.ReportJob: jobs.report,
    commands.ControlJob: jobs.control,
    commands.BeginSnapshot: snapshots.begin,
    commands.SettleSnapshot: snapshots.settle,
    commands.DeleteSnapshot: snapshots.delete,
    commands.ForgetSnapshot: snapshots.forget,
    commands.SetSchedule: snapshots.schedule,
    commands.KeepTrash: snapshots.keep_trash,
    commands.PutQuota: quotas.put,
    commands.ForgetQuota: quotas.forget,
    commands.RaiseTerm: quotas.raise_term,
}
