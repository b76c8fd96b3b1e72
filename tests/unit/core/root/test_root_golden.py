"""The bytes of root records and commands: what is stored today must be read for ever."""

from __future__ import annotations

import pytest

from cfs.core.api.cluster import Node, NodeState, Profile, Role, ShardPlacement
from cfs.core.api.snapshots import Snapshot
from cfs.core.errors import Corrupt
from cfs.core.root import commands, records

NODE = Node(
    node_id=1, name="m", role=Role.META, host="h", port=2, domain="d", state=NodeState.IN, serial=9
)
GOLDEN = [
    (
        records.ClusterRecord(
            cluster_id=b"C", name="n", site=0, shard_count=1, placement_count=2,
            profile=Profile(2, 1), ca_bundle=b"p", created_ms=3,
        ),
        "0199c40143a16e000102920201c401700300",
    ),
    (records.Counters(), "019b010101010101c201010000"),
    (
        records.NodeRecord(node=NODE, resting=NodeState.IN),
        "01949901a16da46d657461a16802a164a2696ecb3ff000000000000009a2696ec290",
    ),
    (ShardPlacement(group=1, voters=(1, 2)), "01930192010290"),
    (records.PlacementRecord(members=(1, 2)), "019392010200c0"),
    (
        records.PlacementRecord(
            members=(1, 2), epoch=3,
            move=records.MoveRecord(position=1, source=2, target=4, switched=True),
        ),
        "01939201020394010204c3",
    ),
    (
        records.SettingsRecord(),
        ("0196cb4082c00000000000cb3fd5c28f5c28f5c3ce06400000ce03200000cb3fe999999999999acb3fed70a3d7"
        "0a3d71"),
    ),
    (
        records.TokenRecord(token_id=b"t", role="meta", expires_ms=1, serial=2),
        "0197c40174a46d6574610102c40000c2",
    ),
    (
        records.CertificateRecord(serial=1, role="meta", name="m", node_id=1, expires_ms=2),
        "019701a46d657461a16d0102c200",
    ),
    (
        records.SnapshotRecord(
            snapshot=Snapshot(epoch=5, name="n", scope=1, path="/", created_ms=6, schedule="s"),
            phase=records.SnapshotPhase.READY,
        ),
        "01929605a16e01a12f06a17301",
    ),
    (records.ScheduleRecord(scope=1, path="/", keep={"daily": 2}), "019301a12f81a56461696c7902"),
    (records.SecretRecord(blob=b"b"), "0191c40162"),
    (
        records.RoundRecord(
            number=1, phase=records.Phase.OWED, segments=(b"s",), pending=(3,)
        ),
        "0194010391c401739103",
    ),
    (
        records.JobRecord(
            number=1, kind="k", spec={"a": 1}, key="", state=records.JobState.PAUSED,
            started_by="m", started_ms=2, updated_ms=3, rate=4, done=5, total=6, cursor=b"c",
            findings=7, message="x", last_error="y", result={"b": 2},
        ),
        "01dc001101a16b81a16101a0a6706175736564a16d020304a562797465730506c4016307a178a17981a16202",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "stored"), GOLDEN, ids=lambda v: type(v).__name__)
def test_records(record: object, stored: str) -> None:
    assert records.encode(record).hex() == stored
    assert records.decode(type(record), bytes.fromhex(stored)) == record
    with pytest.raises(Corrupt):
        records.decode(type(record), b"\x7f" + bytes.fromhex(stored)[1:])


OLDER = [
    (records.Counters(), "0197010101010101c2"),
    (records.Counters(), "0199010101010101c20101"),
    (records.PlacementRecord(members=(1, 2)), "0191920102"),
    (GOLDEN[2][0], "01929901a16da46d657461a16802a164a2696ecb3ff000000000000009a2696e"),
]
"""What earlier versions stored."""


@pytest.mark.parametrize(("record", "stored"), OLDER, ids=lambda v: type(v).__name__)
def test_what_earlier_versions_stored_can_be_read(record: object, stored: str) -> None:
    assert records.decode(type(record), bytes.fromhex(stored)) == record


def test_commands() -> None:
    command = commands.Place(placement_epoch=4, lists=((0, (1, 2)),))
    assert commands.encode(command).hex() == "0194a5706c6163650491920092010200"
    before = bytes.fromhex("0193a5706c61636504919200920102")  # when it did not say when
    assert commands.decode(before) == command
    assert commands.decode(commands.encode(command)) == command
