"""What goes wrong, and when: a schedule drawn from the seed, executed while the clients work.

A schedule is a list of values, so that a failing one can be made shorter. Each fault carries its
own chance and undoes itself when its time is over. Swarm: a seed first draws which kinds it has.
What a schedule keeps to is what the promises allow: at most one storage node's bytes are damaged or
lost. What an operator does (`operator`) is in the schedule too, and happens among the faults.
"""

from __future__ import annotations

import dataclasses
import errno
import random
from typing import Any

import trio

from tests.sim.changes import Changes
from tests.sim.history import History
from tests.sim.machine import RESTART_S
from tests.sim.operator import Operator

KINDS = (
    "slow_link", "split", "one_way", "bridge", "break", "break_all", "mischief",
    "kill", "power", "power_in_call", "power_metas", "power_all", "freeze",
    "client_kill", "client_freeze", "client_cut",
    "stall", "slow_disk", "io_error", "flip", "full",
    "clock_jump", "hand_over", "collect", "power_lagging", "votes",
    "join", "leave", "disk_lost", "rebalance", "snapshot",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of a schedule."""

    at: float
    """Seconds after the clients began."""
    kind: str
    length: float
    seed: int

    def __str__(self) -> str:
        return f"{self.at:.2f}s {self.kind} {self.length:.2f}s"


def draw(
    chance: random.Random, work_s: float, focus: tuple[str, ...] = (), length_s: float = 0.0
) -> list[Fault]:
    """Draw a seed's kinds and schedule; `focus`: of these kinds alone, `length_s`: so long each."""
    if chance.random() < 0.06 and not focus:
        return []
    kinds = focus or chance.sample(KINDS, chance.randrange(1, 8))
    count = chance.randrange(1, 9)
    found = []
    for _ in range(count):
        length = chance.choice((0.2, 0.5, 1.0, 2.0, 4.0)) * (0.5 + chance.random())
        at = work_s * 0.85 * chance.random()
        length = length_s or length
        found.append(Fault(at, chance.choice(kinds), length, chance.getrandbits(32)))
    return sorted(found, key=lambda fault: (fault.at, fault.seed))


class Nemesis(Changes):
    """Executes a schedule on a cluster."""

    def __init__(self, cluster: Any, history: History) -> None:
        self.cluster = cluster
        self.history = history
        self.network = cluster.network
        self.counts = cluster.trace.counts
        self.damaged: str | None = None
        self.operator = Operator(cluster)
        self._joined = 0
        self._leaving = trio.Lock()

    async def run(self, schedule: list[Fault]) -> None:
        """Execute all of it; everything is undone on return, whatever happens."""
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for fault in schedule:
                await trio.sleep_until(began + fault.at)
                self.cluster.trace.line(f"fault {fault}")
                self.counts[f"fault {fault.kind}"] += 1
                nursery.start_soon(self._one, fault)

    async def _one(self, fault: Fault) -> None:
        await getattr(self, "_" + fault.kind)(random.Random(fault.seed), fault.length)

    # --- choosing

    def _nodes(self) -> list[Any]:
        return [*self.cluster.metas(), *self.cluster.storages()]

    def _names(self) -> list[str]:
        return list(self.cluster.machines)

    def _leader(self, chance: random.Random) -> Any:
        """Choose a metadata machine, rather one that leads something."""
        metas = [m for m in self.cluster.metas() if m.up]
        leading = [m for m in metas if m.node is not None
                   and any(g.is_leader for g in m.node.host.groups.values())]  # fmt: skip
        return chance.choice(leading if leading and chance.random() < 0.7 else metas or
                             self.cluster.metas())  # fmt: skip

    def _any(self, chance: random.Random) -> Any:
        if chance.random() < 0.6:
            return self._leader(chance)
        return chance.choice(self.cluster.storages())

    # --- links

    async def _slow_link(self, chance: random.Random, length: float) -> None:
        names = self._names()
        ways = [(a, b) for a in names for b in names if a != b and chance.random() < 0.3]
        more = chance.choice((0.005, 0.05, 0.3))
        for way in ways:
            self.network.slow[way] = more
        await trio.sleep(length)
        for way in ways:
            self.network.slow.pop(way, None)

    async def _blocked(self, ways: list[tuple[str, str]], length: float) -> None:
        for way in ways:
            self.network.block(*way)
        await trio.sleep(length)
        for way in ways:
            self.network.unblock(*way)

    async def _split(self, chance: random.Random, length: float) -> None:
        names = self._names()
        if chance.random() < 0.5:
            side = {self._leader(chance).name}
        else:
            side = {name for name in names if chance.random() < 0.4}
        ways = [(a, b) for a in names for b in names if (a in side) != (b in side)]
        await self._blocked(ways, length)

    async def _one_way(self, chance: random.Random, length: float) -> None:
        one = self._any(chance).name
        others = [name for name in self._names() if name != one and chance.random() < 0.7]
        ways = [(one, o) if chance.random() < 0.5 else (o, one) for o in others]
        if chance.random() < 0.5:
            ways = [(one, o) for o in others]
        await self._blocked(ways, length)

    async def _bridge(self, chance: random.Random, length: float) -> None:
        names = self._names()
        chance.shuffle(names)
        bridge = names[0]
        half = set(names[1 : 1 + len(names) // 2])
        ways = [(a, b) for a in names for b in names
                if a != b and bridge not in (a, b) and (a in half) != (b in half)]  # fmt: skip
        await self._blocked(ways, length)

    async def _break(self, chance: random.Random, length: float) -> None:
        for _ in range(chance.randrange(1, 6)):
            pairs = list(dict.fromkeys(self.network.connections.values()))
            if pairs:
                out, back = chance.choice(pairs)
                self.network.break_pair(out, back, reset=chance.random() < 0.5, part=True)
            await trio.sleep(length * chance.random() / 4)

    async def _break_all(self, chance: random.Random, length: float) -> None:
        del length
        name = chance.choice(self._names())
        self.network.break_connections(name, reset=chance.random() < 0.5, part=True)

    async def _mischief(self, chance: random.Random, length: float) -> None:
        mischief = self.cluster.mischief
        for kind in ("drop", "repeat", "reorder"):
            mischief[kind] = chance.choice((0.0, 0.05, 0.3))
        await trio.sleep(length)
        mischief.clear()

    # --- processes and machines

    async def _down(self, machines: list[Any], length: float) -> None:
        """Keep machines that were ended down for a while."""
        names = {m.name for m in machines} - self.cluster.held_down
        self.cluster.held_down |= names
        await trio.sleep(length)
        self.cluster.held_down -= names

    async def _kill(self, chance: random.Random, length: float) -> None:
        machine = self._any(chance)
        machine.kill()
        await self._down([machine], length)

    async def _just_synced(self, chance: random.Random) -> Any:
        """Wait, often, until a client was told that something is durable; give its machine."""
        if chance.random() < 0.3:
            return None
        before = self.counts["changes made durable"]
        with trio.move_on_after(1.5):
            while self.counts["changes made durable"] == before:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.001)
            return self.cluster.machines.get(self.cluster.trace.synced_by.partition(".")[0])
        return None

    async def _power(self, chance: random.Random, length: float) -> None:
        await self._just_synced(chance)
        machine = self._any(chance)
        machine.cut_power(chance)
        await self._down([machine], length)

    async def _power_in_call(self, chance: random.Random, length: float) -> None:
        machine = self._any(chance)
        calls = chance.choice((1, 2, 3, 5, 10, 30))
        machine.disk.cut_power_in(calls, lambda: machine.cut_power(chance))
        await trio.sleep(length)
        machine.disk.power_cut = None

    async def _power_metas(self, chance: random.Random, length: float) -> None:
        machines = self.cluster.metas()
        await self._just_synced(chance)
        for machine in machines:
            machine.cut_power(chance if chance.random() < 0.7 else None)
        await self._down(machines, min(length, 2.0))

    async def _power_all(self, chance: random.Random, length: float) -> None:
        machines = self._nodes()
        await self._just_synced(chance)
        for machine in machines:
            machine.cut_power(chance if chance.random() < 0.7 else None)
        await self._down(machines, min(length, 2.0))

    async def _votes(self, chance: random.Random, length: float) -> None:
        """Cut the metadata nodes off from each other but for one, which dies after each vote."""
        metas = self.cluster.metas()
        chance.shuffle(metas)
        voter, others = metas[0], metas[1:]
        ways = [(a.name, b.name) for a in others for b in others if a is not b]
        for way in ways:
            self.network.block(*way)
        voter.kill()
        voter.restart_s = 0.02
        until, seen = trio.current_time() + length, None
        while trio.current_time() < until:
            if voter.node is not None:
                groups = voter.node.host.groups.values()
                votes = [(g.group, g.term, g.machine._replica.vote) for g in groups]
                if seen is not None and votes != seen and chance.random() < 0.5:
                    await trio.sleep(0.004 * chance.random())
                    voter.kill()
                    votes = None
                seen = votes
            await trio.sleep(0.002)
        voter.restart_s = RESTART_S
        for way in ways:
            self.network.unblock(*way)

    async def _freeze(self, chance: random.Random, length: float) -> None:
        machine = self._any(chance)
        await self._frozen(machine, length)

    async def _frozen(self, machine: Any, length: float) -> None:
        if machine.up and not machine.frozen:
            machine.freeze()
            await trio.sleep(length)
            machine.thaw()

    async def _client_kill(self, chance: random.Random, length: float) -> None:
        del length
        machine = await self._just_synced(chance) or chance.choice(self.cluster.clients())
        if chance.random() < 0.5:
            machine.kill()
        else:
            machine.cut_power(None)

    async def _client_freeze(self, chance: random.Random, length: float) -> None:
        await self._frozen(chance.choice(self.cluster.clients()), length)

    async def _client_cut(self, chance: random.Random, length: float) -> None:
        client = chance.choice(self.cluster.clients()).name
        metas = [m.name for m in self.cluster.metas()]
        if chance.random() < 0.5:
            metas = [chance.choice(metas)]
        both = chance.random() < 0.7
        ways = [(client, m) for m in metas] + ([(m, client) for m in metas] if both else [])
        await self._blocked(ways, length)

    # --- disks

    async def _stall(self, chance: random.Random, length: float) -> None:
        machine = self._any(chance)
        machine.stalled = True
        await trio.sleep(length)
        machine.stalled = False

    async def _slow_disk(self, chance: random.Random, length: float) -> None:
        machine = self._any(chance)
        machine.slow = chance.choice((10, 50))
        await trio.sleep(length)
        machine.slow = 1.0

    async def _io_error(self, chance: random.Random, length: float) -> None:
        machine = self._any(chance)
        machine.disk.fail(chance.randrange(1, 20), errno.EIO, for_ever=chance.random() < 0.3)
        await trio.sleep(length)
        machine.disk.heal()
        if machine.role == "storage":  # a fenced disk is tried again when the node restarts
            machine.kill()

    async def _flip(self, chance: random.Random, length: float) -> None:
        del length
        stores = [m for m in self.cluster.storages() if self.damaged in (None, m.name)]
        machine = chance.choice(stores)
        self.damaged = machine.name
        for name in [n for n in machine.disk._names if n.endswith(".volume")]:
            size = len(machine.disk._names[name].now)
            for _ in range(chance.randrange(1, 4) if size else 0):
                machine.disk.flip(name, chance.randrange(size), 1 << chance.randrange(8))
                self.counts["bits flipped"] += 1

    async def _full(self, chance: random.Random, length: float) -> None:
        machine = chance.choice(self.cluster.storages())
        before = machine.disk.capacity
        machine.disk.capacity = machine.disk._used() + chance.choice((0, 1 << 14, 3 << 20))
        await trio.sleep(length)
        machine.disk.capacity = before

    async def _power_lagging(self, chance: random.Random, length: float) -> None:
        """Cut the power of all metadata nodes while some are late with what they save."""
        machines = self.cluster.metas()
        lagging = [m for m in machines if chance.random() < 0.8]
        for machine in lagging:
            machine.slow = chance.choice((20, 50, 100))
        await trio.sleep(0.1)
        before = self.counts["changes made durable"]
        with trio.move_on_after(3.0):
            while self.counts["changes made durable"] == before:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.0005)
        for machine in machines:
            machine.slow = 1.0
            machine.cut_power(None)
        first_back = [m for m in machines if m not in lagging] or machines[:1]
        await self._down([m for m in machines if m not in first_back], min(length, 1.0))
        await self._down(first_back, 1.0)

    # --- the rest

    async def _clock_jump(self, chance: random.Random, length: float) -> None:
        del length
        names = self._names()
        machine = self.cluster.machines[chance.choice(names)]
        if chance.random() < 0.4:
            machine = self._leader(chance)
        machine.wall.offset_ns += chance.choice((-1, 1)) * chance.choice((10**8, 10**10, 10**13))

    async def _hand_over(self, chance: random.Random, length: float) -> None:
        machine = self._leader(chance)
        if machine.node is None:
            return
        groups = [g for g in machine.node.host.groups.values() if g.is_leader]
        if groups:
            group = chance.choice(groups)
            others = [v for v in group.config.voters if v != machine.node.host.node]
            if others:
                group._push(_transfer(chance.choice(others)))
        await trio.sleep(length / 10)

    async def _collect(self, chance: random.Random, length: float) -> None:
        until = trio.current_time() + length
        while trio.current_time() < until:
            for machine in self.cluster.metas():
                if machine.node is not None:
                    machine.node.office.collector.wake()
            await trio.sleep(0.3 * chance.random())


def _transfer(peer: int) -> Any:
    from cfs.core.raft.message import Transfer  # noqa: PLC0415 - one use

    return Transfer(peer=peer)
