"""Ports: what a role may ask of the outside world. The simulator supplies its own.

Monotonic time and sleeping are trio's (`trio.current_time`, `trio.sleep`): the simulator replaces
trio's clock. Everything else comes through here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class WallClock(Protocol):
    """Wall time."""

    def time_ns(self) -> int:
        """Nanoseconds since the epoch; may jump."""
        ...


class Entropy(Protocol):
    """Chance."""

    def random_bytes(self, count: int) -> bytes:
        """Give `count` unpredictable bytes."""
        ...


class Threads(Protocol):
    """Where blocking calls and native code that releases the GIL run; bounded."""

    async def run(self, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        """Run `function(*args)` off the event loop; cancellation waits for it."""
        ...


class Connection(Protocol):
    """An authenticated byte stream.

    `peer_role`, `peer_name` and `peer_serial` come from the peer's certificate.
    """

    peer_role: str
    peer_name: str
    peer_serial: int

    async def send(self, parts: list[bytes | bytearray | memoryview]) -> None:
        """Send every byte of `parts`. Raises Unavailable when the peer is gone."""
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """Read at least one byte into `buffer`; 0 at the end. Raises Unavailable."""
        ...

    def close(self) -> None:
        """Close at once; pending calls raise Unavailable."""
        ...


class Listener(Protocol):
    """Accepts connections."""

    @property
    def port(self) -> int:
        """The port bound."""
        ...

    async def serve(self, handler: Callable[[Connection], object]) -> None:
        """Accept for ever.

        `handler` is an async function, run in a task of its own per connection.
        """
        ...


class Transport(Protocol):
    """Makes connections."""

    async def connect(self, host: str, port: int) -> Connection:
        """Connect and authenticate both ways. Raises Unavailable or Refused."""
        ...

    async def listen(self, host: str, port: int) -> Listener:
        """Bind. Raises Unavailable naming the address and the cause when the port is in use."""
        ...
