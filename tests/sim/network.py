"""The network: byte streams between hosts, with delay, loss of links, and what breaks.

A stream is what TCP gives: bytes arrive in order or not at all. A blocked direction holds bytes
back until it is open again; a broken connection delivers a part of what was under way and then ends
or is reset; a host without power says nothing. Loss, repetition and reordering of messages are
done where messages are one-way: `FaultySender` in `watch`. Sending and receiving are those of the
memory transport (`cfs.net.memory`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from cfs.core.errors import Refused, Unavailable
from cfs.net import memory

if TYPE_CHECKING:
    import random

    from tests.sim.trace import Trace

END, RESET = b"", None


class SimPipe(memory.Pipe):
    """One direction of a connection; what is put in is under way for a while."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        super().__init__()
        self.network = network
        self.source = source
        self.target = target
        self.flight: deque[tuple[float, bytes | None]] = deque()
        self.flight_bytes = 0
        self.dark = False
        """Nothing arrives any more."""
        self.last_due = 0.0

    @property
    def room(self) -> int:
        return memory.PIPE_BYTES - self.flight_bytes - len(self.data)

    def put(self, piece: Any) -> None:
        piece = bytes(piece)
        self.network.sent(self, piece)
        self._send(piece)

    def end(self) -> None:
        self._send(END)

    def _send(self, piece: bytes | None) -> None:
        if self.dark:
            return
        due = max(self.last_due, self.network.now() + self.network.delay(self.source, self.target))
        self.last_due = due
        self.flight.append((due, piece))
        self.flight_bytes += len(piece or b"")
        self.network.clock.at(due, self.arrive)

    def arrive(self) -> None:
        """Take in everything that is due, unless the way is blocked."""
        if self.network.is_blocked(self.source, self.target):
            self.network.held.setdefault((self.source, self.target), []).append(self)
            return
        now = self.network.now()
        while self.flight and self.flight[0][0] <= now and not self.dark:
            self.take(self.flight.popleft()[1])

    def take(self, piece: bytes | None) -> None:
        if piece is RESET:
            self.reset = True
        elif piece == END:
            self.ended = True
        else:
            self.flight_bytes -= len(piece)
            self.data += piece
        self.waiting.unpark_all()

    def darken(self) -> None:
        self.dark = True
        self.flight.clear()


class SimConnection(memory.MemoryConnection):
    """One end over two `SimPipe`s."""

    def __init__(self, peer: Any, inbound: SimPipe, outbound: SimPipe) -> None:
        super().__init__(peer.role, peer.name, peer.serial, inbound, outbound)

    def _refused(self) -> bool:
        return self._inbound.reset or self._outbound.reset

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outbound.end()
            self._inbound.waiting.unpark_all()
            self._outbound.waiting.unpark_all()
            self._inbound.network.connections.pop(self._inbound, None)


class SimListener(memory.MemoryListener):
    """Accepts what arrives; more than `memory.BACKLOG` at once are turned away."""

    def take_in(self, connection: SimConnection) -> None:
        try:
            self.arrive.send_nowait(connection)
        except trio.WouldBlock:
            connection.close()


class SimTransport:
    """The transport of one process; its holder has this role, name and serial."""

    def __init__(self, network: Network, process: Any) -> None:
        self.network = network
        self.process = process
        self.role = process.role
        self.name = process.name
        self.serial = process.serial

    def reload(self, identity: Any) -> None:
        del identity

    async def listen(self, host: str, port: int) -> SimListener:
        await trio.lowlevel.checkpoint()
        listener = SimListener(self.network, (host, port), self)
        self.network.listeners[host, port] = listener
        return listener

    async def connect(self, host: str, port: int) -> SimConnection:
        network, here = self.network, self.process.name
        await network.way(here, host)
        listener = network.listeners.get((host, port))
        if listener is None:
            if host in network.without_power:
                await trio.sleep_forever()
            raise Unavailable(f"{host}:{port}: connection refused")
        there = listener.owner
        if there.role not in ("meta", "storage"):
            raise Refused(f"{host}:{port} has role {there.role}, which serves nobody")
        out, back = SimPipe(network, here, host), SimPipe(network, host, here)
        ours = SimConnection(there, back, out)
        theirs = SimConnection(self, out, back)
        network.connections[out] = network.connections[back] = (out, back)
        due = network.now() + network.delay(here, host)
        network.clock.at(due, lambda: listener.take_in(theirs))
        await network.way(host, here)
        return ours


class Network:
    """Hosts are named by their process; every fault of links is here."""

    def __init__(self, clock: Any, chance: random.Random, trace: Trace) -> None:
        self.clock = clock
        self.chance = chance
        self.trace = trace
        self.listeners: dict[tuple[str, int], SimListener] = {}
        self.connections: dict[SimPipe, tuple[SimPipe, SimPipe]] = {}
        self.blocked: dict[tuple[str, str], int] = {}
        self.held: dict[tuple[str, str], list[SimPipe]] = {}
        self.without_power: set[str] = set()
        self.opened = trio.lowlevel.ParkingLot()
        self.slow: dict[tuple[str, str], float] = {}
        """Seconds of more delay, by direction."""
        self.base_s = 0.0003
        self.jitter_s = 0.0005
        self.bytes = 0

    def now(self) -> float:
        return self.clock.now

    def delay(self, source: str, target: str) -> float:
        more = self.slow.get((source, target), 0.0)
        return self.base_s + self.jitter_s * self.chance.random() + more * self.chance.random()

    def sent(self, pipe: SimPipe, piece: bytes) -> None:
        self.bytes += len(piece)
        self.trace.bytes(pipe.source, pipe.target, piece)

    async def way(self, source: str, target: str) -> None:
        """Wait as long as one small packet takes from here to there."""
        await trio.sleep(self.delay(source, target))
        while self.is_blocked(source, target):
            await self.opened.park()

    # --- faults

    def is_blocked(self, source: str, target: str) -> bool:
        return (source, target) in self.blocked

    def block(self, source: str, target: str) -> None:
        """Hold back what goes one way; as often as it is blocked it must be opened."""
        way = (source, target)
        self.blocked[way] = self.blocked.get(way, 0) + 1

    def unblock(self, source: str, target: str) -> None:
        way = (source, target)
        self.blocked[way] -= 1
        if not self.blocked[way]:
            del self.blocked[way]
            for pipe in self.held.pop(way, []):
                pipe.arrive()
            self.opened.unpark_all()

    def break_connections(self, host: str, *, reset: bool, part: bool) -> int:
        """End the connections of a host: `part` of what is under way still arrives."""
        pairs = {id(p): p for p in self.connections.values() if host in (p[0].source, p[0].target)}
        for out, back in pairs.values():
            self.break_pair(out, back, reset=reset, part=part)
        return len(pairs)

    def break_pair(self, out: SimPipe, back: SimPipe, *, reset: bool, part: bool) -> None:
        """End one connection: mid-frame, if something was under way."""
        for pipe in (out, back):
            pieces = [piece for _, piece in pipe.flight if piece]
            pipe.flight.clear()
            arrives = pieces[: self.chance.randrange(len(pieces) + 1)] if part else []
            if arrives:  # a stream: only the last that arrives can be cut
                arrives[-1] = arrives[-1][: self.chance.randrange(1, len(arrives[-1]) + 1)]
            for piece in arrives:
                pipe.take(piece)
            pipe.dark = True
            pipe.take(RESET if reset else END)
            self.connections.pop(pipe, None)

    def silence(self, host: str) -> None:
        """Cut the power of a host: its peers hear nothing."""
        self.without_power.add(host)
        for out, back in list(self.connections.values()):
            if host in (out.source, out.target):
                out.darken()
                back.darken()
        self.forget(host)

    def forget(self, host: str) -> None:
        """Drop what a host listened at."""
        for address in [a for a in self.listeners if a[0] == host]:
            del self.listeners[address]

    def power_on(self, host: str) -> None:
        """Have a host answer again: what is left of old connections is reset."""
        if host in self.without_power:
            self.without_power.discard(host)
            for pipe, (out, back) in list(self.connections.items()):
                if pipe in self.connections and host in (out.source, out.target):
                    self.break_pair(out, back, reset=True, part=False)
