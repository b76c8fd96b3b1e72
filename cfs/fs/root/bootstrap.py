"""Makes a cluster: its authority, keys and first meta node, in that node's directory.

Nothing runs yet. The directory gets everything the first start needs: an identity, the master key,
the first map, an administrator's identity below `admin/`, and *genesis*: the command that makes the
cluster. `start_groups` then creates every Raft group with this node as its sole voter, and the
first root leader (`led`) proposes genesis and removes the file: other nodes can join only after it
was applied, so while the file is there no other replica can exist.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role
from cfs.core.errors import Malformed
from cfs.core.ids import SHARD_COUNT_MAX
from cfs.core.kv import MemoryStore
from cfs.core.root import commands, records
from cfs.core.root.machine import RootMachine
from cfs.core.root.map import read_map
from cfs.fs.root.directory import Membership, NodeDirectory
from cfs.fs.root.ports import Host
from cfs.fs.root.vault import Vault
from cfs.net.certificates import Authority, make_request, new_key
from cfs.net.identity import Identity
from cfs.net.ports import Entropy, WallClock
from cfs.net.wrapping import MASTER_KEY_BYTES

CLUSTER_ID_BYTES = 16
PLACEMENT_COUNT = 1024
PLACEMENT_COUNT_MAX = 65536
SHARD_COUNT = 8
FIRST_NODE = 1


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides when a cluster is made."""

    cluster: str
    node: str
    host: str
    port: int
    domain: str = ""
    """Empty: the node's name."""
    profile: Profile = Profile(2, 1)
    shard_count: int = SHARD_COUNT
    placement_count: int = PLACEMENT_COUNT
    site: int = 0


def create_cluster(
    directory: Path, plan: Plan, *, clock: WallClock, entropy: Entropy
) -> Membership:
    """Make a cluster whose first meta node lives in `directory`; durable on return.

    Raises Refused when a node lives there already, Malformed when the plan cannot be.
    """
    _check(plan)
    home = NodeDirectory(directory)
    home.require_empty()
    now_ms = clock.time_ns() // 1_000_000
    cluster_id = entropy.random_bytes(CLUSTER_ID_BYTES)
    authority = Authority.create(cluster_id, now_s=now_ms // 1000)
    vault = Vault(entropy.random_bytes(MASTER_KEY_BYTES), entropy)
    identity = _identity(authority, Role.META, plan.node, now_ms)
    admin = _identity(authority, Role.ADMIN, "admin", now_ms)
    genesis = _genesis(plan, authority, vault, (identity, admin), now_ms)
    first_map = map_after(genesis)

    home.write_master_key(vault.master_key)
    home.write_genesis(commands.encode(genesis))
    home.save_map(first_map)
    admin_home = NodeDirectory(directory / "admin")
    admin_member = Membership(node_id=0, name="admin", role=Role.ADMIN, cluster_id=cluster_id)
    admin_home.write_identity(admin_member, admin)
    admin_home.save_map(first_map)
    member = Membership(
        node_id=FIRST_NODE,
        name=plan.node,
        role=Role.META,
        cluster_id=cluster_id,
        host=plan.host,
        port=plan.port,
        domain=genesis.node.domain,
    )
    home.write_identity(member, identity)
    return member


def map_after(genesis: commands.CreateCluster) -> ClusterMap:
    """Give the map that a cluster starts with."""
    store = MemoryStore()
    RootMachine().apply(store, 1, commands.encode(genesis)).unwrap()
    first = read_map(store)
    assert first is not None
    return first


def start_groups(host: Host, home: NodeDirectory) -> None:
    """Create the new cluster's groups that are not there yet, before the node serves.

    Does nothing on a node that did not make the cluster, or whose cluster is made.
    """
    data = home.genesis()
    if data is None:
        return
    genesis = commands.decode(data)
    assert isinstance(genesis, commands.CreateCluster)
    for group in range(genesis.shard_count + 1):
        if group not in host.groups:
            host.create(group, (genesis.node.node_id,))


def _check(plan: Plan) -> None:
    if not plan.cluster or not plan.node or not plan.host:
        raise Malformed("a cluster needs a name, its first node a name and an address")
    if not 0 < plan.shard_count <= SHARD_COUNT_MAX:
        raise Malformed(f"a cluster has 1 to {SHARD_COUNT_MAX} shards, not {plan.shard_count}")
    if not 0 < plan.placement_count <= PLACEMENT_COUNT_MAX:
        raise Malformed(f"a cluster has 1 to {PLACEMENT_COUNT_MAX} placement groups")
    if plan.profile.data < 1 or plan.profile.parity < 0 or plan.profile.total > 32:
        raise Malformed(f"{plan.profile.data}+{plan.profile.parity} is no erasure profile")


def _identity(authority: Authority, role: Role, name: str, now_ms: int) -> Identity:
    key = new_key()
    certificate = authority.issue(
        make_request(key), role=role.value, name=name, now_s=now_ms // 1000
    )
    return Identity(key, certificate, authority.bundle)


def _genesis(
    plan: Plan,
    authority: Authority,
    vault: Vault,
    identities: tuple[Identity, Identity],
    now_ms: int,
) -> commands.CreateCluster:
    subject, admin = (identity.subject for identity in identities)
    node = Node(
        node_id=FIRST_NODE,
        name=plan.node,
        role=Role.META,
        host=plan.host,
        port=plan.port,
        domain=plan.domain or plan.node,
        state=NodeState.IN,
        serial=subject.serial,
    )
    return commands.CreateCluster(
        cluster_id=authority.cluster_id,
        name=plan.cluster,
        site=plan.site,
        shard_count=plan.shard_count,
        placement_count=plan.placement_count,
        profile=plan.profile,
        ca_bundle=authority.bundle,
        created_ms=now_ms,
        node=node,
        certificate_expires_ms=subject.not_after_s * 1000,
        secrets={records.SECRET_CA: vault.wrap_authority(authority)},
        volume_key=vault.new_volume_key(1),
        others=(
            records.CertificateRecord(
                serial=admin.serial,
                role=admin.role,
                name=admin.name,
                node_id=0,
                expires_ms=admin.not_after_s * 1000,
            ),
        ),
    )
