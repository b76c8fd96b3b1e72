"""The root group's state machine.

Invariants:
* a node id, session id, round number or key version is given once;
* the epoch rises by one with every command that changes the map, and with no other;
* a token enrols one public key, before it expires, for its role;
* once a session was issued, placement lists only grow at their end (data may lie where they say);
* a refused command changes nothing.

What a command should be is decided by the leader's workers (`cfs.fs.root`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.api.cluster import Node, NodeState, Role, ShardPlacement
from cfs.core.errors import CfsError, Malformed, NotFound, Refused, Retryable
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records, rounds
from cfs.core.root.commands import Result
from cfs.core.root.records import (
    CertificateRecord,
    ClusterRecord,
    Counters,
    NodeRecord,
    PlacementRecord,
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
            return Result(value=_APPLY[type(decoded)](kv, decoded))
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
    _put_counters(kv, Counters(next_node=node.node_id + 1))
    _put_node(kv, NodeRecord(node=node, resting=NodeState.IN))
    for group in range(command.shard_count + 1):
        _put_group(kv, ShardPlacement(group=group, voters=(node.node_id,)))
    for number in range(command.placement_count):
        _put_list(kv, number, ())
    for name, blob in command.secrets.items():
        _put_secret(kv, name, blob)
    _put_secret(kv, volume_key_name(1), command.volume_key)
    _put_certificate(
        kv,
        CertificateRecord(
            serial=node.serial,
            role=node.role.value,
            name=node.name,
            node_id=node.node_id,
            expires_ms=command.certificate_expires_ms,
        ),
    )
    return node.node_id


def _put_secret_command(kv: Writer, command: commands.PutSecret) -> int:
    _put_secret(kv, command.name, command.blob)
    return 0


def _add_volume_key(kv: Writer, command: commands.AddVolumeKey) -> int:
    counters = get_counters(kv)
    if command.version != counters.key_version + 1:
        raise Retryable(f"the volume key in force has version {counters.key_version} by now")
    _put_secret(kv, volume_key_name(command.version), command.blob)
    _bump(kv, key_version=command.version)
    return command.version


def _rotate_authority(kv: Writer, command: commands.RotateAuthority) -> int:
    cluster = get(kv, ClusterRecord, records.CLUSTER_KEY)
    assert cluster is not None
    replaced = msgspec.structs.replace(cluster, ca_bundle=command.ca_bundle)
    kv.put(records.CLUSTER_KEY, encode(replaced))
    _put_secret(kv, records.SECRET_CA, command.blob)
    return 0


# --- tokens and certificates ---------------------------------------------------------------------


def _mint(kv: Writer, command: commands.MintToken) -> int:
    for token in records.get_all(kv, TokenRecord, records.TOKEN_PREFIX):
        if token.expires_ms < command.now_ms:
            kv.delete(records.TOKEN_PREFIX + token.token_id)
    key = records.TOKEN_PREFIX + command.token_id
    if kv.get(key) is not None:
        raise Refused("this token exists already")
    _put_token(
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
    _put_token(kv, msgspec.structs.replace(token, revoked=True))
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
    _put_token(kv, msgspec.structs.replace(token, used_by=command.key_digest, node_id=node_id))
    _put_certificate(
        kv,
        CertificateRecord(
            serial=command.serial,
            role=command.role,
            name=command.name,
            node_id=node_id,
            expires_ms=command.expires_ms,
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
    _put_node(kv, NodeRecord(node=node, resting=resting))
    _bump(kv, placed=True, next_node=max(counters.next_node, node_id + 1))
    return node_id


def _issue(kv: Writer, command: commands.IssueCertificate) -> int:
    for certificate in records.get_all(kv, CertificateRecord, records.CERTIFICATE_PREFIX):
        if certificate.expires_ms < command.now_ms:
            kv.delete(long_key(records.CERTIFICATE_PREFIX, certificate.serial))
    _put_certificate(
        kv,
        CertificateRecord(
            serial=command.serial,
            role=command.role,
            name=command.name,
            node_id=command.node_id,
            expires_ms=command.expires_ms,
        ),
    )
    known = get(kv, NodeRecord, number_key(records.NODE_PREFIX, command.node_id))
    if known is not None:
        node = msgspec.structs.replace(known.node, serial=command.serial)
        _put_node(kv, msgspec.structs.replace(known, node=node))
        _bump(kv)
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
        _put_certificate(kv, msgspec.structs.replace(certificate, revoked=True))
    if count:
        _bump(kv)
    return count


# --- nodes and placement -------------------------------------------------------------------------


def _set_states(kv: Writer, command: commands.SetStates) -> int:
    changed: list[NodeRecord] = []
    for change in command.changes:
        known = get(kv, NodeRecord, number_key(records.NODE_PREFIX, change.node_id))
        if known is None:
            raise NotFound(f"there is no node {change.node_id}")
        if known.node.state != change.old:
            raise Retryable(f"node {known.node.name} is {known.node.state}, not {change.old}")
        try:
            new = NodeState(change.new)
        except ValueError as error:
            raise Malformed(f"{change.new!r} is not a state of a node") from error
        node = msgspec.structs.replace(known.node, state=new)
        resting = known.resting if new == NodeState.DOWN else new
        changed.append(NodeRecord(node=node, resting=resting))
    for record in changed:
        _put_node(kv, record)
    if changed:
        _bump(kv, placed=True)
    return len(changed)


def _set_node(kv: Writer, command: commands.SetNode) -> int:
    known = get(kv, NodeRecord, number_key(records.NODE_PREFIX, command.node_id))
    if known is None:
        raise NotFound(f"there is no node {command.node_id}")
    fields: dict[str, Any] = {
        name: value
        for name in ("host", "port", "domain", "weight")
        if (value := getattr(command, name)) is not None
    }
    node = msgspec.structs.replace(known.node, **fields)
    if node != known.node:
        _put_node(kv, msgspec.structs.replace(known, node=node))
        _bump(kv, placed=True)
    return command.node_id


def _place(kv: Writer, command: commands.Place) -> int:
    counters = _check_plan(kv, command.placement_epoch)
    cluster = get(kv, ClusterRecord, records.CLUSTER_KEY)
    assert cluster is not None
    known = {r.node.node_id: r.node for r in records.get_all(kv, NodeRecord, records.NODE_PREFIX)}
    for number, members in command.lists:
        before = get(kv, PlacementRecord, number_key(records.PLACEMENT_PREFIX, number))
        if before is None:
            raise NotFound(f"there is no placement group {number}")
        if counters.next_session > 1 and members[: len(before.members)] != before.members:
            raise Refused(f"placement group {number} may hold data: it can only grow")
        if len(members) > cluster.profile.total:
            raise Malformed(f"placement group {number} would have {len(members)} members")
        nodes = [known.get(m) for m in members]
        if any(n is None or n.role != Role.STORAGE for n in nodes):
            raise NotFound(f"placement group {number} would hold an unknown storage node")
        if len({n.domain for n in nodes if n is not None}) != len(members):
            raise Malformed(f"placement group {number} would have two members in one domain")
    for number, members in command.lists:
        _put_list(kv, number, members)
    if command.lists:
        _bump(kv, placed=True)
    return len(command.lists)


def _place_groups(kv: Writer, command: commands.PlaceGroups) -> int:
    _check_plan(kv, command.placement_epoch)
    known = {r.node.node_id: r.node for r in records.get_all(kv, NodeRecord, records.NODE_PREFIX)}
    for group in command.groups:
        if get(kv, ShardPlacement, number_key(records.GROUP_PREFIX, group.group)) is None:
            raise NotFound(f"there is no Raft group {group.group}")
        members = group.voters + group.learners
        if not group.voters or len(set(members)) != len(members):
            raise Malformed(f"Raft group {group.group} would have no voter, or one twice")
        if any((n := known.get(m)) is None or n.role != Role.META for m in members):
            raise NotFound(f"Raft group {group.group} would be held by an unknown meta node")
    for group in command.groups:
        _put_group(kv, group)
    if command.groups:
        _bump(kv, placed=True)
    return len(command.groups)


def _check_plan(kv: Reader, placement_epoch: int) -> Counters:
    counters = get_counters(kv)
    if counters.placement_epoch != placement_epoch:
        raise Retryable(
            f"nodes or placement changed at epoch {counters.placement_epoch}: plan anew"
        )
    return counters


def _issue_sessions(kv: Writer, command: commands.IssueSessions) -> int:
    if not 0 < command.count <= commands.SESSION_COUNT_MAX:
        raise Malformed(f"{command.count} sessions at once")
    counters = get_counters(kv)
    first = counters.next_session
    _put_counters(kv, msgspec.structs.replace(counters, next_session=first + command.count))
    return first


# --- writing -------------------------------------------------------------------------------------


def _bump(kv: Writer, *, placed: bool = False, **fields: Any) -> None:
    counters = get_counters(kv)
    epoch = counters.epoch + 1
    if placed:
        fields["placement_epoch"] = epoch
    _put_counters(kv, msgspec.structs.replace(counters, epoch=epoch, **fields))


def _put_counters(kv: Writer, counters: Counters) -> None:
    kv.put(records.COUNTERS_KEY, encode(counters))


def _put_node(kv: Writer, record: NodeRecord) -> None:
    kv.put(number_key(records.NODE_PREFIX, record.node.node_id), encode(record))


def _put_group(kv: Writer, group: ShardPlacement) -> None:
    kv.put(number_key(records.GROUP_PREFIX, group.group), encode(group))


def _put_list(kv: Writer, number: int, members: tuple[int, ...]) -> None:
    key = number_key(records.PLACEMENT_PREFIX, number)
    kv.put(key, encode(PlacementRecord(members=members)))


def _put_secret(kv: Writer, name: str, blob: bytes) -> None:
    kv.put(records.SECRET_PREFIX + name.encode(), encode(SecretRecord(blob=blob)))


def _put_token(kv: Writer, token: TokenRecord) -> None:
    kv.put(records.TOKEN_PREFIX + token.token_id, encode(token))


def _put_certificate(kv: Writer, certificate: CertificateRecord) -> None:
    kv.put(long_key(records.CERTIFICATE_PREFIX, certificate.serial), encode(certificate))


_APPLY: dict[type, Any] = {
    commands.CreateCluster: _create,
    commands.MintToken: _mint,
    commands.RevokeToken: _revoke_token,
    commands.Admit: _admit,
    commands.IssueCertificate: _issue,
    commands.RevokeCertificates: _revoke,
    commands.SetStates: _set_states,
    commands.SetNode: _set_node,
    commands.Place: _place,
    commands.PlaceGroups: _place_groups,
    commands.IssueSessions: _issue_sessions,
    commands.PutSecret: _put_secret_command,
    commands.AddVolumeKey: _add_volume_key,
    commands.RotateAuthority: _rotate_authority,
    commands.OpenRound: rounds.open_round,
    commands.AdvanceRound: rounds.advance,
    commands.RoundDeleted: rounds.deleted,
    commands.CloseRound: rounds.close,
}
