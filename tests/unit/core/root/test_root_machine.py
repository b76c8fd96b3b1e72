"""The root machine: numbers given once, tokens used once, placement that only grows under data."""

from __future__ import annotations

import pytest

from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role, ShardPlacement
from cfs.core.errors import CfsError, Malformed, NotFound, Refused, Retryable
from cfs.core.kv import MemoryStore
from cfs.core.root import commands as c
from cfs.core.root import records
from cfs.core.root.machine import RootMachine, read_secret, read_volume_keys
from cfs.core.root.map import read_map
from cfs.core.root.records import Phase
from cfs.core.root.rounds import OPEN_ROUNDS_MAX, read_rounds

NODE = Node(
    node_id=1,
    name="m1",
    role=Role.META,
    host="h",
    port=1,
    domain="d1",
    state=NodeState.IN,
    serial=7,
)
CREATE = c.CreateCluster(
    cluster_id=b"C" * 16,
    name="test",
    site=0,
    shard_count=2,
    placement_count=4,
    profile=Profile(2, 1),
    ca_bundle=b"pem",
    created_ms=5,
    node=NODE,
    certificate_expires_ms=1000,
    secrets={records.SECRET_CA: b"wrapped"},
    volume_key=b"key1",
)


class Root:
    def __init__(self) -> None:
        self.kv = MemoryStore()
        self.machine = RootMachine()
        self.index = 0

    def apply(self, command: c.AnyCommand) -> c.Result:
        self.index += 1
        return self.machine.apply(self.kv, self.index, c.encode(command))

    def do(self, command: c.AnyCommand) -> int:
        return self.apply(command).unwrap()

    def refuses(self, command: c.AnyCommand, error: type[CfsError]) -> None:
        before = list(self.kv.scan(b"\0", b"\xff"))
        with pytest.raises(error):
            self.do(command)
        assert list(self.kv.scan(b"\0", b"\xff")) == before

    @property
    def map(self) -> ClusterMap:
        found = read_map(self.kv)
        assert found is not None
        return found

    @property
    def placement_epoch(self) -> int:
        return records.get_counters(self.kv).placement_epoch


def made() -> Root:
    root = Root()
    root.do(CREATE)
    return root


def admit(root: Root, number: int, role: str = "storage", **fields: object) -> c.Admit:
    token_id = b"t%d" % number
    root.do(
        c.MintToken(token_id=token_id, role=role, expires_ms=100, serial=100 + number, now_ms=0)
    )
    values: dict[str, object] = {
        "token_id": token_id, "key_digest": b"k%d" % number, "now_ms": 50, "role": role,
        "name": f"n{number}", "host": "h", "port": number, "domain": f"d{number}", "weight": 1.0,
        "serial": 200 + number, "expires_ms": 1000,
    }  # fmt: skip
    return c.Admit(**(values | fields))  # type: ignore[arg-type]


def test_nothing_works_before_the_cluster_is_made() -> None:
    root = Root()
    assert read_map(root.kv) is None
    root.refuses(c.IssueSessions(), Refused)


def test_creation_happens_once() -> None:
    root = made()
    assert root.do(CREATE) == 1
    assert root.map.groups == tuple(ShardPlacement(group=g, voters=(1,)) for g in range(3))
    assert root.map.placement == ((),) * 4
    assert read_volume_keys(root.kv) == {1: b"key1"}
    other = c.CreateCluster(**({f: getattr(CREATE, f) for f in CREATE.__struct_fields__}
                               | {"cluster_id": b"D" * 16}))  # fmt: skip
    root.refuses(other, Refused)


def test_garbage_is_refused_not_raised() -> None:
    root = made()
    for data in (b"", b"\xff", b"\x01", b"\x01\x93\x01", b"\x01\x92\xa5admit\x01"):
        assert isinstance(root.machine.apply(root.kv, 9, data).error, Malformed)


def test_sessions_are_never_given_twice() -> None:
    root = made()
    epoch = root.map.epoch
    given = [root.do(c.IssueSessions()), root.do(c.IssueSessions(count=10)),
             root.do(c.IssueSessions())]  # fmt: skip
    assert given == [1, 2, 12]
    assert root.map.epoch == epoch
    root.refuses(c.IssueSessions(count=0), Malformed)


def test_token_enrols_one_key_for_its_role_in_time() -> None:
    root = made()
    command = admit(root, 1)
    late = {f: getattr(command, f) for f in command.__struct_fields__}
    root.refuses(c.Admit(**(late | {"now_ms": 101})), Refused)
    root.refuses(c.Admit(**(late | {"role": "meta"})), Refused)
    root.refuses(c.Admit(**(late | {"token_id": b"unknown"})), Refused)
    epoch = root.map.epoch
    assert root.do(command) == 2
    assert root.map.epoch == epoch + 1
    # The reply was lost: the same key asks again.
    assert root.do(command) == 2
    root.refuses(c.Admit(**(late | {"key_digest": b"other"})), Refused)
    node = root.map.node(2)
    assert node is not None
    assert (node.state, node.domain, node.serial) == (NodeState.JOINING, "d1", 201)
    # A second node of that name is refused; its token is not used up by it.
    root.refuses(admit(root, 2, name="n1"), Refused)


def test_clients_get_no_node() -> None:
    root = made()
    assert root.do(admit(root, 1, "client")) == 0
    assert len(root.map.nodes) == 1


def test_revoked_token_is_useless() -> None:
    root = made()
    command = admit(root, 1)
    root.do(c.RevokeToken(token_id=b"t1"))
    root.refuses(command, Refused)
    root.refuses(c.RevokeToken(token_id=b"none"), NotFound)


def test_revoked_certificates_show_in_the_map() -> None:
    root = made()
    root.do(admit(root, 1, "client"))
    assert root.do(c.RevokeCertificates(serials=(201,))) == 1
    assert root.do(c.RevokeCertificates(serials=(201,))) == 0
    assert root.map.revoked == (201,)
    root.refuses(c.RevokeCertificates(serials=(7, 999)), NotFound)
    # Forgotten once it has expired anyway.
    root.do(c.IssueCertificate(serial=300, role="client", name="n1", node_id=0, expires_ms=5000,
                               now_ms=2000))  # fmt: skip
    assert root.map.revoked == ()


def test_states_change_by_comparison_and_down_remembers() -> None:
    root = made()
    root.do(admit(root, 1))
    root.do(c.SetStates(changes=(c.StateChange(2, "joining", "in"),)))
    root.refuses(c.SetStates(changes=(c.StateChange(2, "joining", "in"),)), Retryable)
    root.refuses(c.SetStates(changes=(c.StateChange(2, "in", "asleep"),)), Malformed)
    root.do(c.SetStates(changes=(c.StateChange(2, "in", "draining"),)))
    root.do(c.SetStates(changes=(c.StateChange(2, "draining", "down", False),)))
    record = records.get(root.kv, records.NodeRecord, records.number_key(b"n", 2))
    assert record is not None
    assert record.resting == NodeState.DRAINING


def test_placement_is_free_until_a_session_then_only_grows() -> None:
    root = made()
    for number in (1, 2, 3, 4):
        root.do(admit(root, number))
    place = lambda members: c.Place(  # noqa: E731
        placement_epoch=root.placement_epoch, lists=((0, members),)
    )
    root.do(place((2, 3)))
    root.do(place((4, 5)))
    root.do(c.IssueSessions(internal=True))
    root.do(place((5, 4)))
    root.do(place((4, 5)))
    root.do(c.IssueSessions())
    root.refuses(place((2, 3, 4)), Refused)
    root.refuses(place((4,)), Refused)
    root.refuses(place((4, 5, 1)), NotFound)
    root.refuses(place((4, 5, 5)), Malformed)
    root.do(place((4, 5, 2)))
    root.refuses(place((4, 5, 3)), Refused)
    root.refuses(place((4, 5, 2, 3)), Malformed)
    root.refuses(c.Place(placement_epoch=1, lists=()), Retryable)
    assert root.map.placement[0] == (4, 5, 2)


def test_groups_are_held_by_meta_nodes() -> None:
    root = made()
    root.do(admit(root, 1, "meta"))
    root.do(admit(root, 2))
    plan = lambda *voters: c.PlaceGroups(  # noqa: E731
        placement_epoch=root.placement_epoch, groups=(ShardPlacement(group=1, voters=voters),)
    )
    root.do(plan(2, 1))
    assert root.map.groups[1].voters == (2, 1)
    root.refuses(plan(1, 3), NotFound)
    root.refuses(plan(1, 1), Malformed)
    root.refuses(plan(), Malformed)


def test_keys_count_up() -> None:
    root = made()
    root.refuses(c.AddVolumeKey(version=3, blob=b"x"), Retryable)
    root.do(c.AddVolumeKey(version=2, blob=b"key2"))
    assert root.map.key_version == 2
    assert read_volume_keys(root.kv) == {1: b"key1", 2: b"key2"}
    with pytest.raises(NotFound):
        read_secret(root.kv, "none")


def test_the_authority_changes_only_when_every_node_follows() -> None:
    root = made()
    root.do(admit(root, 1))
    step = c.RotateAuthority(version=0, blob=b"old", ca_bundle=b"both", next_blob=b"new")
    assert root.do(step) == 1
    assert root.map.authority == 1
    assert read_secret(root.kv, records.SECRET_CA_NEXT) == b"new"
    root.refuses(step, Retryable)
    step = c.RotateAuthority(version=1, blob=b"new", ca_bundle=b"both")
    root.refuses(step, Refused)
    for node, name, serial in ((1, "m1", 500), (2, "n1", 501)):
        root.refuses(step, Refused)
        root.do(c.IssueCertificate(serial=serial, role="meta", name=name, node_id=node,
                                   expires_ms=9000, now_ms=0))  # fmt: skip
    assert root.do(step) == 2
    assert read_secret(root.kv, records.SECRET_CA) == b"new"
    with pytest.raises(NotFound):
        read_secret(root.kv, records.SECRET_CA_NEXT)


SEGMENT = b"s" * 16


def test_round_moves_only_forward() -> None:
    root = made()
    first = root.do(c.OpenRound(segments=(SEGMENT,)))
    root.refuses(c.CloseRound(number=first), Refused)
    root.refuses(c.RoundDeleted(number=first, nodes=(2,)), Refused)
    root.do(c.AdvanceRound(number=first, phase=Phase.DELETING, pending=(2, 3)))
    root.do(c.AdvanceRound(number=first, phase=Phase.DELETING, pending=(9,)))
    root.refuses(c.AdvanceRound(number=first, phase=Phase.WITHDRAWING), Refused)
    assert root.do(c.RoundDeleted(number=first, nodes=(2, 7))) == 1
    root.do(c.AdvanceRound(number=first, phase=Phase.OWED))
    root.refuses(c.CloseRound(number=first), Refused)
    assert root.do(c.RoundDeleted(number=first, nodes=(3,))) == 0
    root.do(c.CloseRound(number=first))
    root.do(c.CloseRound(number=first))
    second = root.do(c.OpenRound(segments=(SEGMENT,)))
    assert second == first + 1
    root.do(c.AdvanceRound(number=second, phase=Phase.WITHDRAWING))
    root.refuses(c.AdvanceRound(number=second, phase=Phase.DELETING), Refused)
    root.do(c.CloseRound(number=second))
    assert read_rounds(root.kv) == []


def test_rounds_are_bounded() -> None:
    root = made()
    root.refuses(c.OpenRound(segments=()), Malformed)
    root.refuses(c.OpenRound(segments=(b"short",)), Malformed)
    for _ in range(OPEN_ROUNDS_MAX):
        root.do(c.OpenRound(segments=(SEGMENT,)))
    root.refuses(c.OpenRound(segments=(SEGMENT,)), Refused)


def test_unknown_record_version_is_corrupt() -> None:
    root = made()
    root.kv.put(records.COUNTERS_KEY, b"\x09")
    result = root.apply(c.IssueSessions())
    assert result.error is not None
