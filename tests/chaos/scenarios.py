"""What goes wrong, by name. Each runs until its time is over and then undoes what it did."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chaos.cluster import Cluster
from tests.chaos.machines import Server

SCENARIOS: dict[str, Callable[[Nemesis], None]] = {}
CLIENT_FAULTS = frozenset({"client-cut", "client-stop"})
"""Scenarios in which a client may lose its locks while it lives: without the bank."""


def scenario(function: Callable[[Nemesis], None]) -> Callable[[Nemesis], None]:
    """Enter a scenario under its name."""
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


class Nemesis:
    """What scenarios use: the cluster, chance, the time that is left, and counts of faults."""

    def __init__(self, cluster: Cluster, chance: random.Random, seconds: float) -> None:
        self.cluster = cluster
        self.wires = cluster.wires
        self.chance = chance
        self.until = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self._stop = threading.Event()

    def rounds(self, *, rest_s: float = 3.0) -> Iterator[None]:
        """Give a turn, again and again, with rests between, until the time is over."""
        while time.monotonic() < self.until:
            yield
            self.sleep(rest_s * (0.5 + self.chance.random()))

    def sleep(self, seconds: float) -> None:
        """Let the fault, or the rest after it, last; not beyond the end."""
        self._stop.wait(max(0.0, min(seconds, self.until - time.monotonic())))

    def length(self, low: float = 1.0, high: float = 8.0) -> float:
        return low + (high - low) * self.chance.random()

    def server(self) -> Server:
        """Choose a server, rather the one that leads most."""
        if self.chance.random() < 0.5:
            return self.cluster.leader()
        return self.chance.choice(self.cluster.servers)

    @contextmanager
    def down(self, server: Server) -> Iterator[None]:
        """Keep a server's processes down meanwhile."""
        self.cluster.held.add(server.name)
        try:
            yield
        finally:
            self.cluster.held.discard(server.name)


# --- links


@scenario
def partition(nemesis: Nemesis) -> None:
    """One server's cable is pulled."""
    for _ in nemesis.rounds():
        server = nemesis.server()
        nemesis.counts["links down"] += 1
        nemesis.wires.link(server.name, up=False)
        nemesis.sleep(nemesis.length())
        nemesis.wires.link(server.name, up=True)


@scenario
def one_way(nemesis: Nemesis) -> None:
    """A server hears nothing of some machines, which still hear it."""
    for _ in nemesis.rounds():
        server = nemesis.server()
        others = [n for n in nemesis.wires.names if n != server.name]
        for other in nemesis.chance.sample(others, nemesis.chance.randrange(1, len(others))):
            nemesis.counts["one-way cuts"] += 1
            nemesis.wires.deaf(server.name, other)
        nemesis.sleep(nemesis.length())
        nemesis.wires.hears_all(server.name)


@scenario
def bridge(nemesis: Nemesis) -> None:
    """Two servers do not hear each other; the third hears both."""
    for _ in nemesis.rounds():
        one, other = (s.name for s in nemesis.chance.sample(nemesis.cluster.servers, 2))
        nemesis.counts["bridging cuts"] += 1
        nemesis.wires.deaf(one, other)
        nemesis.wires.deaf(other, one)
        nemesis.sleep(nemesis.length())
        nemesis.wires.hears_all(one)
        nemesis.wires.hears_all(other)


@scenario
def client_cut(nemesis: Nemesis) -> None:
    """A client's cable is pulled, often longer than its leases last."""
    for _ in nemesis.rounds():
        client = nemesis.chance.choice(nemesis.cluster.clients)
        nemesis.counts["client links down"] += 1
        nemesis.wires.link(client.name, up=False)
        nemesis.sleep(nemesis.length())
        nemesis.wires.link(client.name, up=True)


def _relayed(nemesis: Nemesis, what: str, **settings: float) -> None:
    for name in nemesis.wires.names:
        nemesis.cluster.relay(name)
    for _ in nemesis.rounds(rest_s=1.0):
        name = nemesis.chance.choice(nemesis.wires.names)
        nemesis.counts[what] += 1
        nemesis.cluster.relay(name).tell(**settings)
        nemesis.sleep(nemesis.length(3.0))
        nemesis.cluster.relay(name).tell()


@scenario
def delay(nemesis: Nemesis) -> None:
    """What a machine sends and gets back is late, unevenly."""
    _relayed(nemesis, "delays", delay_ms=40, jitter_ms=150)


@scenario
def throttle(nemesis: Nemesis) -> None:
    """A machine's connections carry 64 KiB a second."""
    _relayed(nemesis, "throttles", rate=65536)


@scenario
def broken(nemesis: Nemesis) -> None:
    """A machine's connections are reset in the middle of what is under way."""
    _relayed(nemesis, "breaking spells", break_every_s=0.5)


@scenario
def rate(nemesis: Nemesis) -> None:
    """A server sends no more than 400 kbit a second (tbf)."""
    for _ in nemesis.rounds():
        server = nemesis.server()
        nemesis.counts["rates bound"] += 1
        nemesis.wires.rate(server.name, "400kbit")
        nemesis.sleep(nemesis.length(3.0))
        nemesis.wires.rate(server.name, None)


# --- processes and machines


@scenario
def kill(nemesis: Nemesis) -> None:
    """A server's processes get SIGKILL."""
    for _ in nemesis.rounds():
        server = nemesis.server()
        nemesis.counts["servers killed"] += 1
        with nemesis.down(server):
            server.kill()
            nemesis.sleep(nemesis.length(0.1, 5.0))


@scenario
def stop(nemesis: Nemesis) -> None:
    """A server's processes get SIGSTOP, and SIGCONT later."""
    for _ in nemesis.rounds():
        server = nemesis.server()
        nemesis.counts["servers stopped"] += 1
        server.signal(signal.SIGSTOP)
        nemesis.sleep(nemesis.length())
        server.signal(signal.SIGCONT)


@scenario
def power(nemesis: Nemesis) -> None:
    """One server loses power, or all at once: FS_IOC_SHUTDOWN, no log flush."""
    for _ in nemesis.rounds():
        everyone = nemesis.chance.random() < 0.4
        servers = nemesis.cluster.servers if everyone else [nemesis.server()]
        nemesis.counts["all servers without power" if everyone else "servers without power"] += 1
        nemesis.cluster.held.update(s.name for s in servers)
        for server in servers:
            server.cut_power()
        nemesis.sleep(nemesis.length(0.1, 3.0))
        nemesis.cluster.held.clear()


@scenario
def full(nemesis: Nemesis) -> None:
    """A server's file system fills up."""
    for _ in nemesis.rounds():
        server = nemesis.server()
        nemesis.counts["disks full"] += 1
        server.fill(leave=nemesis.chance.choice((0, 1 << 20, 70 << 20)))
        nemesis.sleep(nemesis.length(3.0))
        server.unfill()


@scenario
def client_kill(nemesis: Nemesis) -> None:
    """A mount's daemon gets SIGKILL; it is mounted again."""
    for _ in nemesis.rounds():
        client = nemesis.chance.choice(nemesis.cluster.clients)
        nemesis.counts["clients killed"] += 1
        client.kill()
        nemesis.sleep(nemesis.length(0.1, 2.0))
        client.start()


@scenario
def client_stop(nemesis: Nemesis) -> None:
    """A mount's daemon gets SIGSTOP, often longer than its leases last."""
    for _ in nemesis.rounds():
        client = nemesis.chance.choice(nemesis.cluster.clients)
        nemesis.counts["clients stopped"] += 1
        client.process.signal(signal.SIGSTOP)
        nemesis.sleep(nemesis.length())
        client.process.signal(signal.SIGCONT)


@scenario
def mixed(nemesis: Nemesis) -> None:
    """One of each of the short ones, in turn: what CI runs."""
    turns = [_cut_once, _kill_once, _stop_once, _power_once, _client_once]
    nemesis.chance.shuffle(turns)
    for number, _ in enumerate(nemesis.rounds(rest_s=0.8)):
        turns[number % len(turns)](nemesis)


def _cut_once(nemesis: Nemesis) -> None:
    server = nemesis.cluster.leader()
    nemesis.counts["links down"] += 1
    nemesis.wires.link(server.name, up=False)
    nemesis.sleep(nemesis.length(1.5, 3.5))
    nemesis.wires.link(server.name, up=True)


def _kill_once(nemesis: Nemesis) -> None:
    nemesis.counts["servers killed"] += 1
    nemesis.chance.choice(nemesis.cluster.servers).kill()
    nemesis.sleep(1.0)


def _stop_once(nemesis: Nemesis) -> None:
    server = nemesis.chance.choice(nemesis.cluster.servers)
    nemesis.counts["servers stopped"] += 1
    server.signal(signal.SIGSTOP)
    nemesis.sleep(nemesis.length(1.0, 3.0))
    server.signal(signal.SIGCONT)


def _power_once(nemesis: Nemesis) -> None:
    server = nemesis.chance.choice(nemesis.cluster.servers)
    nemesis.counts["servers without power"] += 1
    with nemesis.down(server):
        server.cut_power()


def _client_once(nemesis: Nemesis) -> None:
    client = nemesis.chance.choice(nemesis.cluster.clients)
    nemesis.counts["clients killed"] += 1
    client.kill()
    client.start()
