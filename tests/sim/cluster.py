"""A whole cluster on simulated machines: made, grown, and kept running as systemd would.

The first metadata node makes the cluster (genesis); the others are admitted by the root leader's
state machine, without certificates: TLS is the transport port's affair. A process that ends by
itself is started again after a pause; why it ended is kept and judged by `checks`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from cfs.cli.client_node import ClientNode
from cfs.cli.meta_node import MetaNode
from cfs.cli.storage_node import StorageNode
from cfs.core.api.cluster import Node, NodeState, Profile, Role
from cfs.core.errors import CfsError
from cfs.core.root import commands, records
from cfs.fs.root.bootstrap import map_after
from cfs.fs.root.directory import Membership
from cfs.fs.root.vault import Vault
from tests.sim.homes import SimHome
from tests.sim.machine import EPOCH_NS, Life, Machine, SimPorts
from tests.sim.network import Network
from tests.sim.trace import Trace
from tests.sim.watch import FaultySender, Watch

PORT = 7000
CLUSTER_ID = bytes(range(16))
PROFILE = Profile(2, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a cluster is."""

    metas: int = 3
    storages: int = 3
    clients: int = 2
    shards: int = 2
    groups: int = 8
    profile: Profile = PROFILE
    capacity: int = 1 << 30

    @staticmethod
    def draw(chance: random.Random) -> Shape:
        storages = chance.choice((3, 3, 4, 4, 5, 6, 8))
        return Shape(
            metas=chance.choice((3, 3, 3, 5)),
            storages=storages,
            clients=chance.choice((2, 2, 3, 4)),
            shards=chance.choice((1, 2, 2, 3, 4)),
            groups=chance.choice((4, 8, 16)),
            profile=Profile(4, 2) if storages >= 6 else Profile(2, 1),
        )


class Cluster:
    """Machines and the network between them."""

    def __init__(self, *, seed: str, shape: Shape, clock: Any, trace: Trace) -> None:
        self.seed = seed
        self.shape = shape
        self.clock = clock
        self.trace = trace
        self.network = Network(clock, random.Random(f"{seed}/network"), trace)
        self.machines: dict[str, Machine] = {}
        self.watch = Watch(self)
        self.nursery: trio.Nursery
        self.sender_chance = random.Random(f"{seed}/sender")
        self.mischief: dict[str, float] = {}
        """Chance of `drop`, `repeat`, `reorder` of one-way Raft batches."""
        self.held_down: set[str] = set()
        self.waits_for = ""
        self._serial = 0
        self._chance = random.Random(f"{seed}/cluster")

    # --- making

    def machine(self, role: str, name: str) -> Machine:
        self._serial += 1
        made = Machine(
            name=name, role=role, serial=self._serial, seed=self.seed, network=self.network,
            trace=self.trace, capacity=self.shape.capacity,
        )  # fmt: skip
        self.machines[name] = made
        return made

    async def make(self, nursery: trio.Nursery) -> None:
        """Make the cluster and wait until it is whole."""
        self.nursery = nursery
        shape = self.shape
        first = self.machine("meta", "meta1")
        self.master_key = first.entropy.random_bytes(32)
        vault = Vault(self.master_key, first.entropy)
        genesis = commands.CreateCluster(
            cluster_id=CLUSTER_ID, name="sim", site=0, shard_count=shape.shards,
            placement_count=shape.groups, profile=shape.profile, ca_bundle=b"",
            created_ms=EPOCH_NS // 1_000_000,
            node=Node(
                node_id=1, name="meta1", role=Role.META, host="meta1", port=PORT, domain="meta1",
                state=NodeState.IN, serial=first.serial,
            ),
            certificate_expires_ms=EPOCH_NS // 1_000_000 + 10**11,
            secrets={records.SECRET_CA: b""}, volume_key=vault.new_volume_key(1),
        )  # fmt: skip
        self.first_map = map_after(genesis)
        first.home = self._home("meta", "meta1", 1, genesis=commands.encode(genesis))
        await self.start("meta1")
        nursery.start_soon(self._keep, first)
        for number in range(2, shape.metas + 1):
            await self.admit("meta", f"meta{number}")
        for number in range(1, shape.storages + 1):
            await self.admit("storage", f"storage{number}")
        await self.whole(120)
        nursery.start_soon(self.watch.run)

    def _home(self, role: str, name: str, node_id: int, **kept: Any) -> Any:
        member = Membership(
            node_id=node_id, name=name, role=role, cluster_id=CLUSTER_ID, host=name, port=PORT,
            domain=name,
        )  # fmt: skip
        return SimHome(member, self.first_map, master_key=self.master_key, **kept)

    async def admit(self, role: str, name: str) -> None:
        """Let a new node join, and start it."""
        machine = self.machine(role, name)
        token = self._chance.randbytes(16)
        now_ms = EPOCH_NS // 1_000_000 + int(self.clock.now * 1000)
        mint = commands.MintToken(
            token_id=token, role=role, expires_ms=now_ms + 10**8, serial=machine.serial,
            now_ms=now_ms,
        )  # fmt: skip
        admit = commands.Admit(
            token_id=token, key_digest=token, now_ms=now_ms, role=role, name=name, host=name,
            port=PORT, domain=name, weight=1.0, serial=machine.serial, expires_ms=now_ms + 10**11,
        )  # fmt: skip
        await self.operate(mint, lambda: self._minted(token))
        node_id = await self.operate(admit, lambda: self._node_id(name))
        machine.home = self._home(role, name, node_id)
        await self.start(name)
        self.nursery.start_soon(self._keep, machine)

    def take_away(self, machine: Machine) -> None:
        """End a node for good, after it was removed."""
        del self.machines[machine.name]
        machine.kill()

    def new_client(self, name: str) -> Machine:
        """Make a client's machine, not started."""
        machine = self.machine("client", name)
        machine.home = self._home("client", name, 0)
        return machine

    def _minted(self, token: bytes) -> int | None:
        state = self.root().state
        known = records.get_all(state, records.TokenRecord, records.TOKEN_PREFIX)
        return 0 if any(t.token_id == token for t in known) else None

    def _node_id(self, name: str) -> int | None:
        known = self.root().nodes()
        return next((r.node.node_id for r in known if r.node.name == name), None)

    async def operate(self, command: Any, found: Callable[[], int | None] = lambda: None) -> int:
        """Propose to the root group, as an operator whose command is sent again until it works.

        `found` gives the result of a command whose answer was lost.
        """
        with trio.fail_after(60):
            while True:
                replica = self.root()
                if replica is not None:
                    if (result := found()) is not None:
                        return result
                    with contextlib.suppress(CfsError):
                        return await replica.propose(command)
                await trio.sleep(0.1)

    def root(self) -> Any:
        """Give the root leader's replica; None while there is none."""
        office = self.office()
        return office.replica if office is not None else None

    def office(self) -> Any:
        """Give the root leader's office; None while there is none."""
        for machine in self.metas():
            if machine.node is not None and machine.node.office.replica.leads:
                return machine.node.office
        return None

    # --- running

    async def start(self, name: str) -> None:
        machine = self.machines[name]
        makes = {"meta": self._meta, "storage": self._storage}
        await machine.start(self.nursery, makes[machine.role])

    async def _meta(self, machine: Machine, life: Life) -> None:
        node = MetaNode(Path(machine.name), ports=SimPorts(machine, life))
        node.host.sender = FaultySender(self, machine, node.host.sender)
        self.watch.adopt(machine, node)
        life.node = node
        async with trio.open_nursery() as nursery:
            await node.run(nursery)

    async def _storage(self, machine: Machine, life: Life) -> None:
        node = StorageNode(Path(machine.name), ports=SimPorts(machine, life))
        life.node = node
        async with trio.open_nursery() as nursery:
            await node.run(nursery)

    async def client(self, machine: Machine, work: Any) -> None:
        """Run a client's life: `work(files)` in the client's process."""

        async def main(_machine: Machine, life: Life) -> None:
            node = ClientNode(Path(machine.name), ports=SimPorts(machine, life))
            async with trio.open_nursery() as nursery:
                files = await node.start(nursery)
                life.node = node
                await work(files, life)
                nursery.cancel_scope.cancel()

        life = await machine.start(self.nursery, main)
        await life.ended.wait()

    async def _keep(self, machine: Machine) -> None:
        """Start a node again whenever it ended."""
        while True:
            assert machine.life is not None
            await machine.life.ended.wait()
            if machine.name not in self.machines:
                return
            if machine.failures and not machine.honest:
                raise AssertionError(f"{machine.name} ended by itself: {machine.failures[-1]}")
            await trio.sleep(machine.restart_s)
            while machine.name in self.held_down:  # noqa: ASYNC110 - a set of others
                await trio.sleep(0.2)
            if machine.name not in self.machines:
                return
            await self.start(machine.name)

    # --- looking

    def metas(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.role == "meta"]

    def storages(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.role == "storage"]

    def clients(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.role == "client"]

    async def whole(self, limit_s: float) -> None:
        """Wait until every node is in, every group has all its voters and a leader."""
        with trio.fail_after(limit_s):
            while (why := self.lacks()) is not None:
                self.waits_for = why
                await trio.sleep(0.2)

    def lacks(self) -> str | None:
        """Say what the cluster lacks to be whole; None when it is."""
        shape = self.shape
        root = self.root()
        if root is None:
            return "a root leader"
        known = root._view.map
        states = {n.name: n.state for n in known.nodes}
        for machine in self.metas() + self.storages():
            if not machine.up:
                return f"{machine.name} to be started"
            if states.get(machine.name) != NodeState.IN:
                return f"{machine.name} is {states.get(machine.name)}"
        if any(len(p) < shape.profile.total for p in known.placement):
            return "placement"
        if (why := self._lacks_data()) is not None:
            return why
        wanted = min(shape.metas, 5)
        for number in range(shape.shards + 1):
            if len(next(g for g in known.groups if g.group == number).voters) < min(wanted, 3):
                return f"voters of group {number} in the map"
            replicas = [
                (m.node.host.node, m.node.host.groups[number])
                for m in self.metas()
                if m.node is not None and number in m.node.host.groups
            ]
            leaders = [g for _, g in replicas if g.is_leader and g.ready]
            if not leaders:
                return f"a leader of group {number}"
            leader = max(leaders, key=lambda g: g.term)
            placed = next(g for g in known.groups if g.group == number)
            if set(leader.config.voters) != set(placed.voters) or leader.config.learners:
                return f"members of group {number}"
            if not leader.machine.config_settled:
                return f"a settled membership of group {number}"
            for node, group in replicas:
                if node in placed.voters and group.applied < leader.commit:
                    return f"node {node} to catch up in group {number}"
        return None

    def _lacks_data(self) -> str | None:
        """Say which disks are not filled again, and what moves."""
        office = self.office()
        keeper = office._led._keeper
        for record in office.replica.nodes():
            if record.node.role == Role.STORAGE and record.node.name in self.machines:
                if not record.disks or keeper.usable_disks(record.node.node_id) is None:
                    return f"the disks of {record.node.name}"
                if keeper.lost_disks(record):
                    return f"what {record.node.name} lost"
        running = [job["kind"] for job in office.jobs.describe() if job["state"] == "running"]
        return f"the end of {running}" if running else None
