"""The server side of RPC: takes a listener's connections and runs a `Peer` on each.

`Peer`, `Context` and `Handler` are re-exported: this is the module roles import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from cfs.core.errors import CfsError
from cfs.net.counters import Counters
from cfs.net.frame import Buffer, Received
from cfs.net.handlers import Context, Handler, Service
from cfs.net.peer import Peer
from cfs.net.ports import Connection, Listener

__all__ = ["Buffer", "Context", "Counters", "Handler", "Peer", "Received", "Server"]


class Server:
    """Answers calls on every connection the listener accepts."""

    def __init__(
        self,
        *,
        listener: Listener,
        handlers: Mapping[str, Handler],
        epoch: Callable[[], int],
        on_epoch: Callable[[int], None],
        refused: Callable[[int], bool],
        counters: Counters | None = None,
        on_connect: Callable[[Peer], None] | None = None,
        on_disconnect: Callable[[Peer], None] | None = None,
    ) -> None:
        self.counters = counters or Counters()
        self.peers: set[Peer] = set()
        self._listener = listener
        self._refused = refused
        self._service = Service(handlers=handlers, epoch=epoch, on_epoch=on_epoch, refused=refused)
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect

    @property
    def port(self) -> int:
        """The port bound."""
        return self._listener.port

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every connection is closed."""
        task_status.started()
        try:
            await self._listener.serve(self._serve)
        finally:
            for peer in list(self.peers):
                peer.close("the server stops")

    def close_refused(self) -> None:
        """Close connections whose certificate is refused by now; call after a map change."""
        for peer in list(self.peers):
            if self._refused(peer.serial):
                peer.shut_out()

    async def _serve(self, connection: Connection) -> None:
        peer = Peer(connection, self._service, self.counters)
        if self._refused(connection.peer_serial):
            peer.shut_out()
            return
        try:
            await peer.greet()
        except CfsError:
            return  # counted by the peer; nothing was spent on it
        self.peers.add(peer)
        try:
            if self._on_connect is not None:
                self._on_connect(peer)
            await peer.run()
        finally:
            self.peers.discard(peer)
            if self._on_disconnect is not None:
                self._on_disconnect(peer)
