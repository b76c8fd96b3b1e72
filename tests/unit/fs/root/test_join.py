"""Real meta nodes over mutual TLS: made, joined, grown to three replicas, led evenly, renewed."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from cfs.core.api import root
from cfs.core.api.cluster import NodeState, Profile
from cfs.core.errors import Malformed, NotFound, Refused, Unavailable
from cfs.core.raft.settings import Settings
from cfs.core.root.machine import RootMachine
from cfs.fs.disk.memory import MemoryDirectory
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.meta.host import Host
from cfs.fs.meta.peers import PoolSender
from cfs.fs.meta.state import State
from cfs.fs.meta.wal import Wal
from cfs.fs.root import bootstrap, members, renewal
from cfs.fs.root.bootstrap import Plan, create_cluster
from cfs.fs.root.detector import Limits
from cfs.fs.root.directory import NodeDirectory
from cfs.fs.root.heartbeat import HeartbeatSender
from cfs.fs.root.join import join
from cfs.fs.root.leader import RootLeader
from cfs.fs.root.office import RootOffice
from cfs.fs.root.renewal import Renewal
from cfs.fs.root.view import ClusterView
from cfs.net.pool import Pool
from cfs.net.rpc import Server
from cfs.net.system import SystemClock, SystemEntropy, TrioThreads
from cfs.net.tls import TlsTransport

FAST = Settings(
    heartbeat_ms=60, election_ms_min=250, election_ms_max=500, lease_margin_ms=60,
    log_bytes_max=64 << 10,
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class NoShards:
    async def call(self, *_args: Any, **_kwargs: Any) -> Any:
        raise Unavailable("no shards are served here")

    command = call


class Process:
    """What `cfs serve meta` or `cfs serve storage` wires for the root group."""

    def __init__(self, path: Path, *, meta: bool) -> None:
        self.home = NodeDirectory(path)
        self.member = self.home.membership()
        known = self.home.load_map()
        assert known is not None
        transport = TlsTransport(self.home.identity())
        threads = TrioThreads()
        self.view = ClusterView(
            known, node_id=self.member.node_id, save=self.home.save_map, threads=threads
        )
        self.pool = Pool(
            transport=transport, resolve=self.view.resolve, epoch=lambda: self.view.epoch,
            on_epoch=self.view.on_epoch, name_of=self.view.name_of, refused=self.view.refused,
        )  # fmt: skip
        self.view.attach(self.pool)
        self.leader = RootLeader(self.pool, self.view)
        self.transport = transport
        self.host: Host | None = None
        self.office: RootOffice | None = None
        self.handlers: dict[str, Any] = {}
        if meta:
            self.store = LmdbStore(path / "state")
            self.host = Host(
                node=self.member.node_id, log=Wal(MemoryDirectory()), state=State(self.store),
                machines=lambda _group: RootMachine(), threads=threads, seed=1, settings=FAST,
                send=PoolSender(node=self.member.node_id, pool=self.pool),
            )  # fmt: skip
            self.office = RootOffice(
                home=self.home, member=self.member, host=self.host, view=self.view,
                calls=self.pool, shards=NoShards(), clock=SystemClock(),
                entropy=SystemEntropy(), threads=threads, limits=Limits(silence_s=1.0),
            )  # fmt: skip
            self.handlers = {
                **self.office.handlers,
                "raft.messages": self.host.on_raft_messages,
                "raft.snapshot": self.host.on_snapshot_chunk,
            }
        self.scope = trio.CancelScope()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.pool.run)
                await nursery.start(self.view.run)
                keeper = Renewal(
                    home=self.home, view=self.view, leader=self.leader,
                    reload=self.transport.reload, clock=SystemClock(), threads=TrioThreads(),
                )  # fmt: skip
                await nursery.start(keeper.run)
                if self.host is not None:
                    bootstrap.start_groups(self.host, self.home)
                    await nursery.start(self.host.run)
                if self.member.port:
                    listener = await self.transport.listen(self.member.host, self.member.port)
                    server = Server(
                        listener=listener, handlers=self.handlers,
                        epoch=lambda: self.view.epoch, on_epoch=self.view.on_epoch,
                        refused=self.view.refused,
                    )  # fmt: skip
                    await nursery.start(server.run)
                    sender = HeartbeatSender(
                        node_id=self.member.node_id, view=self.view, leader=self.leader,
                        started_ms=0, version="test", host=self.host,
                    )  # fmt: skip
                    await nursery.start(sender.run)
                if self.office is not None:
                    await nursery.start(self.office.run)
                task_status.started()

    async def admin(self, command: str, **arguments: Any) -> dict[str, Any]:
        reply = await self.leader.ask(
            "root.admin", root.Admin(command=command, arguments=arguments), timeout_s=10
        )
        value: dict[str, Any] = reply.value
        return value


def make_first(path: Path) -> None:
    plan = Plan(
        cluster="t", node="m1", host="127.0.0.1", port=free_port(), profile=Profile(2, 1),
        shard_count=2, placement_count=16,
    )  # fmt: skip
    create_cluster(path, plan, clock=SystemClock(), entropy=SystemEntropy())


@asynccontextmanager
async def first_node(tmp_path: Path) -> AsyncIterator[tuple[trio.Nursery, Process, Process]]:
    make_first(tmp_path / "m1")
    with trio.fail_after(25):
        async with trio.open_nursery() as nursery:
            first = Process(tmp_path / "m1", meta=True)
            await nursery.start(first.run)
            admin = Process(tmp_path / "m1" / "admin", meta=False)
            await nursery.start(admin.run)
            yield nursery, admin, first
            nursery.cancel_scope.cancel()


async def until(what: Any) -> None:
    while not what():  # noqa: ASYNC110
        await trio.sleep(0.05)


def test_three_meta_nodes_and_storage_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "HANDOVER_PAUSE_S", 0.2)

    async def main() -> None:
        async with first_node(tmp_path) as (nursery, admin, first):
            metas: list[Process] = []
            for name in ("m2", "m3"):
                token = (await admin.admin("token_create", role="meta"))["token"]
                await join(token, tmp_path / name, name=name, host="127.0.0.1", port=free_port())
                metas.append(Process(tmp_path / name, meta=True))
                await nursery.start(metas[-1].run)
            for name in ("s1", "s2", "s3"):
                token = (await admin.admin("token_create", role="storage"))["token"]
                await join(token, tmp_path / name, name=name, host="127.0.0.1", port=free_port(),
                           disks=(tmp_path / f"{name}-disk",))  # fmt: skip
                await nursery.start(Process(tmp_path / name, meta=False).run)
            assert NodeDirectory(tmp_path / "s1").disks() == [tmp_path / "s1-disk"]

            view = metas[1].view
            await until(lambda: all(n.state == NodeState.IN for n in view.map.nodes)
                        and len(view.map.nodes) == 6)  # fmt: skip
            await until(lambda: all(len(m) == 3 for m in view.map.placement))
            await until(lambda: all(len(g.voters) == 3 for g in view.map.groups))
            host = metas[1].host
            assert host is not None
            await until(lambda: set(host.groups) == {0, 1, 2})
            await until(lambda: all(g.config.voters == (1, 2, 3) for g in host.groups.values()))
            wanted = {g.group: g.voters[0] for g in view.map.groups}
            assert sorted(wanted.values()) == [1, 2, 3]
            await until(lambda: {n: g.leader for n, g in host.groups.items()} == wanted)

            status = await admin.leader.ask("root.status", root.GetStatus(), timeout_s=10)
            assert {n.name for n in status.nodes if n.heartbeat} == {
                "m1", "m2", "m3", "s1", "s2", "s3",
            }  # fmt: skip
            await _lose_the_root_leader(admin, [first, *metas])

    trio.run(main)


async def _lose_the_root_leader(admin: Process, metas: list[Process]) -> None:
    """Stop it: another leads, calls it down, hands out sessions never given, and hands back."""
    before = (await admin.leader.ask("root.session", root.NewSession(client="a"))).session
    (lost,) = [p for p in metas if p.office is not None and p.office.replica.leads]
    others = [p for p in metas if p is not lost]
    lost.scope.cancel()
    after = (await admin.leader.ask("root.session", root.NewSession(client="a"))).session
    assert after > before
    me = lost.member.node_id

    def state(process: Process) -> NodeState | None:
        node = process.view.node(me)
        return None if node is None else node.state

    for process in others:
        await until(lambda p=process: state(p) == NodeState.DOWN)
    status = await admin.leader.ask("root.status", root.GetStatus(), timeout_s=10)
    assert any(f"node {lost.member.name} " in text for text in status.problems)


def test_the_authority_is_changed_while_everybody_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "LOOK_S", 0.05)

    async def main() -> None:
        async with first_node(tmp_path) as (nursery, admin, _first):
            token = (await admin.admin("token_create", role="storage"))["token"]
            await join(token, tmp_path / "s1", name="s1", host="127.0.0.1", port=free_port())
            storage = Process(tmp_path / "s1", meta=False)
            await nursery.start(storage.run)
            before = storage.transport.identity
            for command in ("ca_rotate", "ca_switch", "ca_retire"):
                while True:
                    try:
                        version = (await admin.admin(command))["version"]
                        break
                    except Refused:
                        await trio.sleep(0.05)
            for process in (storage, admin):
                await until(lambda p=process: p.home.membership().authority == version)
                await until(lambda p=process: p.transport.identity == p.home.identity())
            after = storage.transport.identity
            assert after.ca_bundle.count(b"BEGIN") == 1
            assert after.ca_bundle not in before.ca_bundle
            # A new connection, with nothing of the old authority.
            admin.pool.disconnect(1, "test")
            await trio.sleep(0.2)
            assert len((await admin.admin("node_list"))["nodes"]) == 2

    trio.run(main)


def test_joining_needs_a_good_token_and_an_empty_directory(tmp_path: Path) -> None:
    async def main() -> None:
        async with first_node(tmp_path) as (_nursery, admin, _first):
            token = (await admin.admin("token_create", role="client"))["token"]
            for wrong, error in ((token[:-9], Malformed), ("nonsense", Malformed)):
                with pytest.raises(error):
                    await join(wrong, tmp_path / "c", name="c")
            with pytest.raises(Refused):
                await join(token, tmp_path / "c", name="c", role="meta")
            member = await join(token, tmp_path / "c", name="c", role="client")
            assert (member.node_id, member.role) == (0, "client")
            with pytest.raises(Refused):
                await join(token, tmp_path / "c", name="c")
            with pytest.raises(Refused):  # used up
                await join(token, tmp_path / "d", name="d")
            client = Process(tmp_path / "c", meta=False)
            async with trio.open_nursery() as nursery:
                await nursery.start(client.run)
                reply = await client.leader.ask("root.session", root.NewSession(client="c"))
                assert reply.session == 1
                with pytest.raises(Refused):
                    await client.admin("node_list")
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_an_interrupted_enrolment_continues_with_its_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with first_node(tmp_path) as (_nursery, admin, _first):
            token = (await admin.admin("token_create", role="client"))["token"]
            await join(token, tmp_path / "c", name="c")
            home = NodeDirectory(tmp_path / "c")
            # As if the machine had died after the answer, before the identity was written.
            key = home.identity().key
            (home.identity_path / "member").unlink()
            home.write_pending_key(key)
            await join(token, tmp_path / "c", name="c")
            assert home.identity().subject.name == "c"
            assert home.pending_key() is None

    trio.run(main)


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    home = NodeDirectory(tmp_path)
    with pytest.raises(NotFound):
        home.membership()
    with pytest.raises(NotFound):
        home.master_key()
    assert home.load_map() is None
    assert home.disks() == []
