"""Reads the root group's records back as the cluster map: the same records give the same map."""

from __future__ import annotations

from cfs.core.api.cluster import ClusterMap, Move, ShardPlacement
from cfs.core.kv import Reader
from cfs.core.root import records
from cfs.core.root.records import (
    CertificateRecord,
    ClusterRecord,
    NodeRecord,
    PlacementRecord,
)


def read_map(kv: Reader) -> ClusterMap | None:
    """Build the map at the records' epoch; None before the cluster is made."""
    cluster = records.get(kv, ClusterRecord, records.CLUSTER_KEY)
    if cluster is None:
        return None
    counters = records.get_counters(kv)
    nodes = records.get_all(kv, NodeRecord, records.NODE_PREFIX)
    placement = records.get_all(kv, PlacementRecord, records.PLACEMENT_PREFIX)
    certificates = records.get_all(kv, CertificateRecord, records.CERTIFICATE_PREFIX)
    return ClusterMap(
        epoch=counters.epoch,
        cluster_id=cluster.cluster_id,
        name=cluster.name,
        site=cluster.site,
        shard_count=cluster.shard_count,
        profile=cluster.profile,
        key_version=counters.key_version,
        nodes=tuple(record.node for record in nodes),
        groups=tuple(records.get_all(kv, ShardPlacement, records.GROUP_PREFIX)),
        placement=tuple(record.members for record in placement),
        moves=tuple(
            Move(
                group=number,
                position=record.move.position,
                source=record.move.source,
                target=record.move.target,
                switched=record.move.switched,
            )
            for number, record in enumerate(placement)
            if record.move is not None
        ),
        list_epochs=tuple(record.epoch for record in placement),
        revoked=tuple(c.serial for c in certificates if c.revoked),
        authority=cluster.authority,
    )
