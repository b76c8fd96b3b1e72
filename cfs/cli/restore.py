"""`cfs admin restore` and `cfs node recover-meta`: when a majority of metadata nodes is lost.

*Restore* makes a metadata node of a backup: it takes the place of one of the lost ones (name, id
and address), so storage nodes and clients find it where they look. It is the only voter of every
group; the other metadata nodes are forgotten, new ones join as usual. Numbers that must never be
given twice (sessions, nodes, rounds, inodes) go on far beyond the backup's; so does its epoch.

*Recover* makes a surviving node the only voter of its groups, from what it has. Both may lose what
came later, and say so.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cfs.cli import processes
from cfs.cli.backup import read_manifest, read_records
from cfs.cli.cluster import write_configuration
from cfs.cli.configuration import Configuration, LogSection, NodeSection
from cfs.core.api.cluster import Node, NodeState, Role, ShardPlacement
from cfs.core.errors import Corrupt, NotFound, Refused
from cfs.core.ids import ROOT_GROUP
from cfs.core.kv import MemoryStore
from cfs.core.meta import keys
from cfs.core.meta.records import STATE, since_of
from cfs.core.raft.membership import encode_config
from cfs.core.raft.message import Config, EntryKind, HardState, SnapshotMeta
from cfs.core.root import records
from cfs.core.root.map import read_map
from cfs.core.root.records import CertificateRecord, NodeRecord
from cfs.fs.disk.real import RealDirectory
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.meta.group_record import (
    GroupRecord,
    encode_group,
    meta_key,
    pack_slot,
    record_hash,
)
from cfs.fs.meta.state import GroupState, State
from cfs.fs.meta.wal import Wal
from cfs.fs.meta.wal_format import Kind, Record
from cfs.fs.root.directory import Membership, NodeDirectory
from cfs.fs.root.vault import Vault
from cfs.net.certificates import make_request, new_key
from cfs.net.identity import Identity
from cfs.net.system import SystemEntropy

LEAP = 1 << 20
"""How far numbers go on beyond the backup's: more than a cluster gives between two backups."""
NODES_LEAP = 1000
_MASK = (1 << 128) - 1


def restore(
    source: Annotated[Path, typer.Argument(help="The directory of the backups.")],
    directory: Annotated[Path, typer.Option("--dir", help="The new metadata node's directory.")],
    key: Annotated[
        Path | None, typer.Option("--master-key", help="Else SOURCE/master.key, if it is there.")
    ] = None,
    name: Annotated[str, typer.Option("--backup", help="Which one; else the newest.")] = "",
    node: Annotated[str, typer.Option(help="Whose place to take; else the first's.")] = "",
    log_file: Annotated[str, typer.Option(help="Log file; empty: standard error.")] = "",
) -> None:
    """Make a metadata node of a backup, after all of them were lost."""
    home = NodeDirectory(directory)
    home.require_empty()
    manifest = read_manifest(source, name)
    master = (key or source / "master.key").read_bytes()
    root_state = _root_state(source, manifest)
    chosen = _chosen(root_state, node)
    identity = _identity(root_state, master, chosen)
    _rewrite(root_state, chosen, identity)
    config = Config(voters=(chosen.node_id,))
    store = LmdbStore(directory / "state")
    log = Wal(RealDirectory(directory / "wal"))
    try:
        for number, group in sorted(manifest["groups"].items(), key=lambda g: int(g[0])):
            _group(store, log, int(number), source, group, config, root_state)
            typer.echo(f"group {number}: {group['records']} records", err=True)
    finally:
        log.close()
        store.close()
    _keep(home, root_state, chosen, identity, master)
    write_configuration(
        directory,
        Configuration(
            node=NodeSection(name=chosen.name, role="meta", host=chosen.host, port=chosen.port,
                             domain=chosen.domain),
            log=LogSection(file=log_file),
        ),
    )  # fmt: skip
    age_min = (time.time() - manifest["made_ms"] / 1000) / 60
    typer.echo(
        f"{chosen.name} is restored as of {age_min:.0f} minutes ago; what was changed since is "
        "missing, and files whose data was deleted since cannot be read\n"
        f"next: cfs serve meta --dir {directory}; join other metadata nodes; mount again;\n"
        "      cfs admin fsck and cfs admin scrub --deep say what is missing"
    )


def recover_meta(
    directory: Annotated[Path, typer.Option("--dir", help="The surviving node's directory.")],
    confirmed: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--accept-loss", help="Yes: what only the lost nodes had is given up.")
    ] = False,
) -> None:
    """Make a surviving metadata node, stopped, the only voter of its groups.

    For when a majority is lost for good, and only then: what they acknowledged and this node does
    not have is lost.
    """
    home = NodeDirectory(directory)
    member = home.membership()
    if processes.running(directory) is not None:
        raise Refused(f"{member.name} runs: stop it first")
    log = Wal(RealDirectory(directory / "wal"))
    store = LmdbStore(directory / "state")
    try:
        state = State(store)
        typer.echo(f"{member.name} has {len(log.replayed)} groups:")
        for number, replayed in sorted(log.replayed.items()):
            last = replayed.entries[-1].index if replayed.entries else replayed.snapshot.index
            typer.echo(f"  group {number}: up to entry {last} of term {replayed.state.term}")
        if not confirmed:
            raise Refused(
                "nothing was changed. What other nodes acknowledged beyond these entries will be "
                "missing; run again with --accept-loss if they are lost for good"
            )
        _only_voter(log, store, state, member.node_id)
    finally:
        log.close()
        store.close()
    typer.echo(
        f"{member.name} is the only voter of its groups\nnext: cfs serve meta --dir {directory}; "
        "the lost nodes are forgotten and shut out, join new ones; then cfs admin fsck"
    )


def _only_voter(log: Wal, store: LmdbStore, state: State, node_id: int) -> None:
    config = Config(voters=(node_id,))
    writes: list[tuple[bytes, bytes | None]] = []
    for number, replayed in log.replayed.items():
        entries = tuple(
            msgspec.structs.replace(e, data=encode_config(config))
            if e.kind is EntryKind.CONFIG
            else e
            for e in replayed.entries
        )
        snapshot = msgspec.structs.replace(replayed.snapshot, config=config)
        batch = [Record(Kind.RESET, number, snapshot), Record(Kind.STATE, number, replayed.state)]
        if entries:
            batch.append(Record(Kind.ENTRIES, number, entries))
        log.write([*batch, Record(Kind.DOUBT, number, False)])
        held = state.groups.get(number)
        if held is not None:
            kept = msgspec.structs.replace(held.record(), config=config)
            if number == ROOT_GROUP:
                kept = _alone(held, kept, node_id, writes)
            writes.append((meta_key(number), encode_group(kept)))
    store.write(writes, sync=True)


def _alone(
    held: GroupState, kept: GroupRecord, node_id: int, writes: list[tuple[bytes, bytes | None]]
) -> GroupRecord:
    """Have the root group know this metadata node only; give its record with the new digest."""
    before = dict(held.scan(b"\0", b"\xff"))
    after = MemoryStore()
    after.write(before.items(), sync=False)
    known = records.get(after, NodeRecord, records.number_key(records.NODE_PREFIX, node_id))
    if known is None:
        return kept  # nothing of the root group was flushed yet: its log says it all
    _rewrite(after, known.node, None)
    total = int.from_bytes(kept.digest, "little")
    for key in [k for k in before if after.get(k) is None]:
        total -= record_hash(key, before[key])
        writes.append((pack_slot(held.slot) + key, None))
    for key, value in after.scan(b"\0", b"\xff"):
        old = before.get(key)
        if old != value:
            total += record_hash(key, value) - (0 if old is None else record_hash(key, old))
            writes.append((pack_slot(held.slot) + key, value))
    return msgspec.structs.replace(kept, digest=(total & _MASK).to_bytes(16, "little"))


def _root_state(source: Path, manifest: dict[str, Any]) -> MemoryStore:
    state = MemoryStore()
    for page in read_records(source, manifest["groups"]["0"]["pieces"]):
        state.write(page, sync=False)
    return state


def _chosen(state: MemoryStore, name: str) -> Node:
    nodes = [r.node for r in records.get_all(state, NodeRecord, records.NODE_PREFIX)]
    metas = [n for n in nodes if n.role == Role.META and (n.name == name if name else True)]
    if not metas:
        raise NotFound(f"the backup knows no metadata node {name}")
    return metas[0]


def _identity(state: MemoryStore, master: bytes, node: Node) -> Identity:
    authority = Vault(master, SystemEntropy()).authority(state)
    key = new_key()
    certificate = authority.issue(
        make_request(key), role=Role.META.value, name=node.name, now_s=int(time.time())
    )
    return Identity(key, certificate, authority.bundle)


def _rewrite(state: MemoryStore, chosen: Node, identity: Identity | None) -> None:
    """Have the root group know one metadata node, and numbers beyond those it had."""
    subject = None if identity is None else identity.subject
    for record in records.get_all(state, NodeRecord, records.NODE_PREFIX):
        node = record.node
        if node.node_id == chosen.node_id:
            serial = node.serial if subject is None else subject.serial
            node = msgspec.structs.replace(node, state=NodeState.IN, serial=serial)
        elif node.role == Role.META:
            state.delete(records.number_key(records.NODE_PREFIX, node.node_id))
            continue
        resting = record.resting if node.role != Role.META else node.state
        records.put_node(state, msgspec.structs.replace(record, node=node, resting=resting))
    kept = chosen.serial if subject is None else subject.serial
    for certificate in records.get_all(state, CertificateRecord, records.CERTIFICATE_PREFIX):
        if certificate.role == Role.META and certificate.serial != kept:
            revoked = msgspec.structs.replace(certificate, revoked=True)
            records.put_certificate(state, revoked)
    for group in records.get_all(state, ShardPlacement, records.GROUP_PREFIX):
        records.put_group(state, ShardPlacement(group=group.group, voters=(chosen.node_id,)))
    cluster = records.get(state, records.ClusterRecord, records.CLUSTER_KEY)
    assert cluster is not None
    if subject is not None:
        records.put_certificate(
            state,
            CertificateRecord(
                serial=subject.serial, role=Role.META.value, name=chosen.name,
                node_id=chosen.node_id, expires_ms=subject.not_after_s * 1000,
                authority=cluster.authority,
            ),
        )  # fmt: skip
    counters = records.get_counters(state)
    epoch = counters.epoch + LEAP
    records.put_counters(
        state,
        msgspec.structs.replace(
            counters,
            epoch=epoch,
            placement_epoch=epoch,
            next_node=counters.next_node + NODES_LEAP,
            next_session=counters.next_session + LEAP,
            next_round=counters.next_round + LEAP,
            next_job=counters.next_job + NODES_LEAP,
        ),
    )


def _group(
    store: LmdbStore, log: Wal, number: int, source: Path, group: dict[str, Any], config: Config,
    root_state: MemoryStore,
) -> None:  # fmt: skip
    prefix = pack_slot(number)
    total = arrived = 0
    for page in read_records(source, group["pieces"]):
        arrived += sum(record_hash(key, value) for key, value in page)
        kept = page if number else []
        total += _write(store, prefix, [(k, _leapt(k, v)) for k, v in kept])
    if (arrived & _MASK).to_bytes(16, "little").hex() != group["digest"]:
        raise Corrupt(f"group {number}: the pieces do not give the digest of the backup")
    if not number:
        total = _write(store, prefix, list(root_state.scan(b"\0", b"\xff")))
    digest = (total & _MASK).to_bytes(16, "little")
    record = GroupRecord(1, number, group["index"], group["term"], config, digest)
    store.write([(meta_key(number), encode_group(record))], sync=True)
    meta = SnapshotMeta(index=group["index"], term=group["term"], config=config)
    hard = HardState(term=group["term"], vote=0, commit=group["index"])
    log.write([Record(Kind.RESET, number, meta), Record(Kind.STATE, number, hard)])


def _write(store: LmdbStore, prefix: bytes, page: list[tuple[bytes, bytes]]) -> int:
    store.write([(prefix + key, value) for key, value in page], sync=False)
    return sum(record_hash(key, value) for key, value in page)


def _leapt(key: bytes, value: bytes) -> bytes:
    """Have a shard give inode numbers and stamps beyond those of the backup."""
    if key != keys.STATE:
        return value
    state = STATE.decode(value)
    state.serial += LEAP
    state.hlc = max(state.hlc, time.time_ns())
    return STATE.encode(state, since_of(value))


def _keep(
    home: NodeDirectory, state: MemoryStore, chosen: Node, identity: Identity, master: bytes
) -> None:
    known = read_map(state)
    cluster = records.get(state, records.ClusterRecord, records.CLUSTER_KEY)
    assert known is not None
    assert cluster is not None
    home.write_master_key(master)
    home.save_map(known)
    member = Membership(
        node_id=chosen.node_id, name=chosen.name, role=Role.META, cluster_id=cluster.cluster_id,
        host=chosen.host, port=chosen.port, domain=chosen.domain,
    )  # fmt: skip
    home.write_identity(member, identity)
