"""The memory twin of the TLS transport: connections inside one process, for tests.

A pipe holds at most `PIPE_BYTES`; a sender waits while it is full, as a socket would have it. The
simulator's network (`tests/sim/network.py`) derives from this: there bytes take time.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from cfs.core.errors import Refused, Unavailable
from cfs.net.ports import Connection, Listener

PIPE_BYTES = 256 << 10
BACKLOG = 64
"""Connections that wait to be accepted."""


class Pipe:
    """One direction: what was sent and not received yet."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.reset = False
        """It broke: what has not been received is gone."""
        self.waiting = trio.lowlevel.ParkingLot()

    @property
    def room(self) -> int:
        """Bytes that may be put in now."""
        return PIPE_BYTES - len(self.data)

    def put(self, piece: memoryview) -> None:
        """Take in a piece for which there is room."""
        self.data += piece
        self.waiting.unpark_all()

    def end(self) -> None:
        """Say that nothing comes any more."""
        self.ended = True
        self.waiting.unpark_all()


class MemoryConnection:
    """One end. `cut` loses everything from then on without a word, as a cut link would."""

    def __init__(self, role: str, name: str, serial: int, inbound: Pipe, outbound: Pipe) -> None:
        self.peer_role = role
        self.peer_name = name
        self.peer_serial = serial
        self._inbound = inbound
        self._outbound = outbound
        self._closed = False
        self.cut = False

    def send_now(self, part: bytes | bytearray | memoryview) -> int:
        """Send what the pipe takes at once; give how many bytes. Raises Unavailable."""
        if self._closed or self._refused():
            raise self._gone()
        if self.cut:
            return len(part)
        count = min(len(part), self._outbound.room)
        if count > 0:
            self._outbound.put(memoryview(part)[:count])
        return max(count, 0)

    def _refused(self) -> bool:
        """Tell whether the other end is known to take nothing any more."""
        return self._outbound.ended

    def _gone(self) -> Unavailable:
        return Unavailable(f"connection to {self.peer_role} {self.peer_name} is closed")

    async def send(self, parts: list[bytes | bytearray | memoryview]) -> None:
        """See `Connection.send`."""
        for part in parts:
            view = memoryview(part)
            while view:
                if sent := self.send_now(view):
                    view = view[sent:]
                else:
                    await self._outbound.waiting.park()

    async def receive_into(self, buffer: memoryview) -> int:
        """See `Connection.receive_into`."""
        inbound = self._inbound
        while not self._closed:
            if inbound.data and not self.cut:
                count = min(len(buffer), len(inbound.data))
                buffer[:count] = inbound.data[:count]
                del inbound.data[:count]
                inbound.waiting.unpark_all()
                return count
            if inbound.reset:
                break
            if inbound.ended and not self.cut:
                return 0
            await inbound.waiting.park()
        raise self._gone()

    def close(self) -> None:
        """See `Connection.close`."""
        if not self._closed:
            self._closed = True
            self._inbound.waiting.unpark_all()
            if not self.cut:
                self._outbound.end()
                self._inbound.end()


class MemoryListener:
    """Accepts what `MemoryTransport.connect` brings."""

    def __init__(
        self, network: MemoryNetwork, address: tuple[str, int], owner: MemoryTransport
    ) -> None:
        self._network = network
        self._address = address
        self.owner = owner
        self.arrive, self._arrivals = trio.open_memory_channel[MemoryConnection](BACKLOG)

    @property
    def port(self) -> int:
        """The port bound."""
        return self._address[1]

    async def serve(self, handler: Callable[[Connection], object]) -> None:
        """See `Listener.serve`."""
        try:
            async with trio.open_nursery() as nursery:
                async for connection in self._arrivals:
                    nursery.start_soon(self._one, handler, connection)
        finally:
            if self._network.listeners.get(self._address) is self:
                del self._network.listeners[self._address]

    @staticmethod
    async def _one(handler: Callable[[Connection], object], connection: MemoryConnection) -> None:
        try:
            await handler(connection)  # type: ignore[misc]  # the port says: an async function
        finally:
            connection.close()


class MemoryNetwork:
    """The addresses of one process."""

    def __init__(self) -> None:
        self.listeners: dict[tuple[str, int], MemoryListener] = {}
        self._port = 40_000

    def free_port(self) -> int:
        """Give a port that was never bound."""
        self._port += 1
        return self._port


class MemoryTransport:
    """A transport whose holder has this role, name and serial."""

    def __init__(self, network: MemoryNetwork, *, role: str, name: str, serial: int = 0) -> None:
        self._network = network
        self.role = role
        self.name = name
        self.serial = serial

    async def connect(self, host: str, port: int) -> MemoryConnection:
        """See `Transport.connect`."""
        listener = self._network.listeners.get((host, port))
        if listener is None:
            await trio.lowlevel.checkpoint()
            raise Unavailable(f"{host}:{port}: connection refused")
        there = listener.owner
        if there.role not in ("meta", "storage"):
            raise Refused(f"{host}:{port} has role {there.role}, which serves nobody")
        ours, theirs = Pipe(), Pipe()
        await listener.arrive.send(
            MemoryConnection(self.role, self.name, self.serial, inbound=ours, outbound=theirs)
        )
        return MemoryConnection(there.role, there.name, there.serial, inbound=theirs, outbound=ours)

    async def listen(self, host: str, port: int) -> Listener:
        """See `Transport.listen`."""
        await trio.lowlevel.checkpoint()
        address = (host, port or self._network.free_port())
        if address in self._network.listeners:
            raise Unavailable(f"{host}:{port}: the address is in use")
        listener = MemoryListener(self._network, address, self)
        self._network.listeners[address] = listener
        return listener
