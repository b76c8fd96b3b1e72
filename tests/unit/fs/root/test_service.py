"""The root service of one node: making the cluster, tokens, enrolment, sessions, keys, status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cfs.core.api import meta, root
from cfs.core.api.cluster import NodeState, Profile
from cfs.core.api.store import DiskStat, StoreStat
from cfs.core.errors import CfsError, Malformed, NotLeader, Refused, Unavailable
from cfs.core.root import commands
from cfs.core.root.records import SettingsRecord
from cfs.fs.root import bootstrap
from cfs.fs.root.admin import AdminCommands
from cfs.fs.root.bootstrap import Plan, create_cluster
from cfs.fs.root.detector import Detector
from cfs.fs.root.directory import NodeDirectory
from cfs.fs.root.heartbeat import HeartbeatSender, rss_anon_bytes
from cfs.fs.root.leader import RootLeader
from cfs.fs.root.placer import Placer
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.service import RootService
from cfs.fs.root.status import StatusBuilder, watermarks
from cfs.fs.root.vault import Vault
from cfs.fs.root.view import ClusterView
from cfs.fs.root.workers import Worker
from cfs.net.certificates import make_request, new_key, subject_of
from cfs.net.token import decode_token
from tests.unit.fs.root.fakes import (
    FakeCalls,
    FakeHost,
    FixedClock,
    InlineThreads,
    SeededEntropy,
    peer,
)

PLAN = Plan(
    cluster="test", node="m1", host="127.0.0.1", port=7001, profile=Profile(2, 1), shard_count=2,
    placement_count=8,
)  # fmt: skip


class FakeShards:
    async def call(self, group: int, method: str, request: Any, *, timeout_s: float) -> Any:
        del request, timeout_s
        assert method == "meta.statfs"
        if group == 2:
            raise Unavailable("no leader")
        return meta.StatFsReply(inodes=3, logical_bytes=10, inline_bytes=1)


class Cluster:
    """Everything the first meta node wires for the root group."""

    def __init__(self, path: Path) -> None:
        self.clock, self.entropy = FixedClock(), SeededEntropy()
        self.member = create_cluster(path, PLAN, clock=self.clock, entropy=self.entropy)
        self.home = NodeDirectory(path)
        known = self.home.load_map()
        assert known is not None
        self.host = FakeHost(1)
        bootstrap.start_groups(self.host, self.home)
        self.view = ClusterView(known, node_id=1)
        self.replica = RootReplica(self.host, self.view)
        self.detector = Detector()
        self.vault = Vault(self.home.master_key(), self.entropy)
        self.calls = FakeCalls()
        self.view.attach(self.calls)
        self.collected = 0
        self.worker = Worker("placement", "m1")
        self.placer = Placer(self.replica, self.worker, InlineThreads())
        status = StatusBuilder(
            node_id=1, replica=self.replica, view=self.view, detector=self.detector,
            shards=FakeShards(), workers=lambda: [self.worker.status()],
        )  # fmt: skip
        admin = AdminCommands(
            replica=self.replica, vault=self.vault, clock=self.clock, entropy=self.entropy,
            collect=lambda: None,
        )  # fmt: skip
        self.service = RootService(
            replica=self.replica, view=self.view, vault=self.vault, detector=self.detector,
            status=status, admin=admin, clock=self.clock,
        )  # fmt: skip
        self.calls.handlers[1] = self.service.handlers

    async def make(self) -> None:
        genesis = self.home.genesis()
        assert genesis is not None
        await self.replica.propose(commands.decode(genesis))
        self.home.remove_genesis()
        self.detector.begin(trio.current_time())

    async def ask(self, method: str, request: Any, as_: Any = None) -> Any:
        self.calls.caller = as_ or peer("admin", "admin")
        reply, _ = await self.calls.call(1, method, request, timeout_s=1)
        return reply

    async def admin(self, command: str, **arguments: Any) -> dict[str, Any]:
        reply = await self.ask("root.admin", root.Admin(command=command, arguments=arguments))
        value: dict[str, Any] = reply.value
        return value

    async def enrol(self, text: str, key: bytes, name: str, **fields: Any) -> root.EnrolReply:
        token = decode_token(text)
        subject = token.identity.subject
        request = root.Enrol(
            token_id=token.token_id, role=fields.pop("role", token.role), name=name,
            csr=make_request(key), **fields,
        )  # fmt: skip
        caller = peer("enrol", subject.name, subject.serial)
        reply: root.EnrolReply = await self.ask("root.enrol", request, caller)
        return reply

    async def add_storage(self, name: str) -> int:
        made = await self.admin("token_create", role="storage")
        reply = await self.enrol(made["token"], new_key(), name, host="127.0.0.1", port=7100)
        return reply.node_id

    async def beat(self, node_id: int, name: str, role: str = "storage", **fields: Any) -> None:
        request = root.Heartbeat(node_id=node_id, epoch=1, started_ms=1, **fields)
        await self.ask("root.heartbeat", request, peer(role, name))

    async def settle(self) -> None:
        """What `LedRoot` does twice a second."""
        now = trio.current_time()
        for change in self.detector.look(now, self.replica.nodes(), 3):
            await self.replica.propose(commands.SetStates(changes=(change,)))
        for _ in range(3):
            await self.placer.look()


def run(tmp_path: Path, story: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path / "m1")
        await cluster.make()
        await story(cluster)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def refused(error: type[CfsError], answer: Awaitable[Any]) -> None:
    with pytest.raises(error):
        await answer


def test_a_cluster_is_made_once(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        with pytest.raises(Refused):
            create_cluster(c.home.path, PLAN, clock=c.clock, entropy=c.entropy)
        assert c.home.genesis() is None
        reply = await c.ask("root.map", root.GetMap())
        assert reply.map.name == "test"
        assert [n.name for n in reply.map.nodes] == ["m1"]
        assert reply.root_leader == 1
        assert (await c.ask("root.map", root.GetMap(have_epoch=99))).map is None
        admin = NodeDirectory(c.home.path / "admin")
        assert admin.identity().subject.role == "admin"
        serials = [x["serial"] for x in (await c.admin("certificate_list"))["certificates"]]
        assert f"{admin.identity().subject.serial:x}" in serials

    run(tmp_path, story)


def test_sessions_and_keys(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        given = [(await c.ask("root.session", root.NewSession(client="c"))).session
                 for _ in range(3)]  # fmt: skip
        assert given == [1, 2, 3]
        keys = (await c.ask("root.keys", root.GetVolumeKeys())).keys
        assert [len(k) for k in keys.values()] == [32]
        assert (await c.admin("key_rotate"))["version"] == 2
        after = (await c.ask("root.keys", root.GetVolumeKeys())).keys
        assert after[1] == keys[1]
        assert after[2] != keys[1]
        assert c.view.map.key_version == 2

    run(tmp_path, story)


def test_enrolment(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        text = (await c.admin("token_create", role="meta"))["token"]
        key = new_key()
        await refused(Refused, c.enrol(text, key, "m2", role="storage"))
        reply = await c.enrol(text, key, "m2", host="127.0.0.1", port=7002)
        assert reply.node_id == 2
        assert reply.secrets == {"master_key": c.vault.master_key}
        subject = subject_of(reply.certificate)
        assert (subject.role, subject.name) == ("meta", "m2")
        assert c.view.resolve(2) == ("127.0.0.1", 7002)
        again = await c.enrol(text, key, "m2", host="127.0.0.1", port=7002)
        assert again.node_id == 2
        await refused(Refused, c.enrol(text, new_key(), "m3"))
        client = (await c.admin("token_create", role="client"))["token"]
        joined = await c.enrol(client, new_key(), "laptop")
        assert (joined.node_id, joined.secrets) == (0, {})
        # The token of another enrolment does not help.
        other = decode_token((await c.admin("token_create", role="client"))["token"])
        request = root.Enrol(token_id=other.token_id, role="client", name="x",
                             csr=make_request(new_key()))  # fmt: skip
        await refused(Refused, c.ask("root.enrol", request, peer("enrol", "y", 12345)))

    run(tmp_path, story)


def test_renewal_and_revocation(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        await c.add_storage("s1")
        request = root.RenewCertificate(csr=make_request(new_key()))
        reply = await c.ask("root.renew", request, peer("storage", "s1"))
        assert reply.node_id == 2
        serial = subject_of(reply.certificate).serial
        node = c.view.node(2)
        assert node is not None
        assert node.serial == serial
        assert (await c.admin("revoke", node="s1"))["revoked"] == 2
        assert c.view.refused(serial)
        await refused(Malformed, c.admin("revoke", node="s1", why="x"))
        await refused(Malformed, c.admin("explode"))

    run(tmp_path, story)


def test_authority_changes_in_three_steps(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        async def renew() -> None:
            request = root.RenewCertificate(csr=make_request(new_key()))
            await c.ask("root.renew", request, peer("meta", "m1"))

        def trusted() -> int:
            return c.replica.cluster().ca_bundle.count(b"BEGIN CERTIFICATE")

        issuer = c.vault.authority(c.replica.state).certificate
        await c.admin("ca_rotate")
        assert trusted() == 2
        assert c.vault.authority(c.replica.state).certificate == issuer
        await refused(Refused, c.admin("ca_switch"))
        await renew()
        await c.admin("ca_switch")
        assert trusted() == 2
        assert c.vault.authority(c.replica.state).certificate != issuer
        await refused(Refused, c.admin("ca_retire"))
        await renew()
        assert (await c.admin("ca_retire"))["version"] == 3
        assert trusted() == 1

    run(tmp_path, story)


def test_storage_comes_in_and_placement_follows(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        for number in (1, 2, 3):
            node = await c.add_storage(f"s{number}")
            await c.beat(node, f"s{number}")
            await c.settle()
            assert all(len(m) == number for m in c.view.map.placement)
        await refused(Refused, c.beat(2, "s3"))
        # A packer's session is no sign of data: the next node still gets its share.
        await c.ask("root.session", root.NewSession(client="packer"), peer("meta", "m1"))
        node = await c.add_storage("s4")
        await c.beat(node, "s4")
        await c.settle()
        assert sum(node in m for m in c.view.map.placement) == 6
        await c.ask("root.session", root.NewSession(client="c"))
        before = c.view.map.placement
        node = await c.add_storage("s5")
        await c.beat(node, "s5")
        await c.settle()
        added = c.view.node(node)
        assert added is not None
        assert added.state == NodeState.IN
        assert c.view.map.placement == before

    run(tmp_path, story)


def test_status_names_what_is_wrong(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        for number in (1, 2, 3):
            await c.add_storage(f"s{number}")
        await c.beat(2, "s1", store=StoreStat(capacity=9, free=0, full=True, corrupt_reads=4))
        await c.beat(3, "s2")
        await c.beat(1, "m1", "meta", rss_anon=rss_anon_bytes())
        await c.settle()
        status: root.Status = await c.ask("root.status", root.GetStatus())
        text = "\n".join(status.problems)
        assert "shard 1 has no leader" in text
        assert "storage node s1 is full" in text
        assert "refused 4 reads" in text
        assert "2 storage domains are in" in text
        assert "1 metadata nodes: metadata survives" in text
        assert "storage node s3 has joined and was not heard of yet" in text
        assert "3 metadata replicas are being built" in text
        assert status.health == "down"
        assert (status.inodes, status.logical_bytes, status.leader) == (3, 10, 1)
        assert status.nodes[0].heartbeat is not None
        assert status.nodes[0].heartbeat.rss_anon > 1 << 20
        assert [w.name for w in status.workers] == ["placement"]

    run(tmp_path, story)


def test_node_commands(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        for number in (1, 2, 3):
            node = await c.add_storage(f"s{number}")
            await c.beat(node, f"s{number}")
        await c.settle()
        await c.admin("node_set", node="s1", port=9, weight=2)
        assert c.view.resolve(2) == ("127.0.0.1", 9)
        await refused(Refused, c.admin("node_set", node="s1", domain="elsewhere"))
        await c.admin("node_state", node=3, state="draining")
        states = {n["name"]: n["state"] for n in (await c.admin("node_list"))["nodes"]}
        assert states == {"m1": "in", "s1": "in", "s2": "draining", "s3": "in"}
        await refused(Malformed, c.admin("node_state", node=3, state="down"))

    run(tmp_path, story)


def test_others_point_to_the_leader(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        group = c.host.groups[0]
        group.is_leader, group.leader = False, 3
        for method, request in (
            ("root.session", root.NewSession(client="c")),
            ("root.status", root.GetStatus()),
            ("root.heartbeat", root.Heartbeat(node_id=1, epoch=1, started_ms=1)),
        ):
            with pytest.raises(NotLeader) as caught:
                await c.ask(method, request, peer("meta", "m1"))
            assert caught.value.leader == 3
        assert (await c.ask("root.map", root.GetMap())).map is not None

    run(tmp_path, story)


def test_root_calls_follow_the_leader_and_the_sender_beats(tmp_path: Path) -> None:
    async def story(c: Cluster) -> None:
        await c.add_storage("s1")
        client = ClusterView(c.view.map)
        client.attach(c.calls)
        client.root_leader = 77  # long gone
        leader = RootLeader(c.calls, client)
        reply = await leader.ask("root.session", root.NewSession(client="x"))
        assert reply.session == 1
        assert client.root_leader == 1
        c.calls.caller = peer("storage", "s1")
        sender = HeartbeatSender(
            node_id=2, view=client, leader=leader, started_ms=1, version="t",
            store_stat=lambda: StoreStat(capacity=7),
        )  # fmt: skip
        with trio.move_on_after(1.2):
            await sender.run()
        heartbeat = c.detector.beats[2].heartbeat
        assert heartbeat.store is not None
        assert heartbeat.store.capacity == 7

    run(tmp_path, story)


def test_disks_above_a_watermark_are_named_the_fullest_first() -> None:
    def node(name: str, free: int) -> root.NodeStatus:
        disk = DiskStat(
            name="d", disk_id=b"i", device="x", size=110, free=free, reserve=10, usable=True
        )
        beat = root.Heartbeat(node_id=1, epoch=1, started_ms=1, store=StoreStat(disks=(disk,)))
        return root.NodeStatus(
            node_id=1, name=name, role="storage", address="a", state="in", seen_ms_ago=1,
            heartbeat=beat,
        )  # fmt: skip

    said = watermarks([node("a", 50), node("b", 19), node("c", 3)], SettingsRecord())
    assert [text.split(":")[0] for text in said] == [
        "disk d of c is 97 % full", "disk d of b is 81 % full",
    ]  # fmt: skip
    assert "NOW" in said[0]
    assert "NOW" not in said[1]
