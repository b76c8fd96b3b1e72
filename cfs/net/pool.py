"""The pool: one shared connection a node, made on demand, and a second one for bulk.

Decides when to connect and when to fail fast: after a failed attempt a node is known dead for a
back-off of 50 ms, doubled up to 1 s, during which calls raise Unavailable at once. Bulk methods
(fragments, snapshots) use a connection of their own, so that a small call never waits behind
megabytes. Calls are not repeated here: whether that is safe is the caller's to know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import trio

from cfs.core.errors import CfsError, DeadlineExceeded, Refused, Unavailable
from cfs.net.counters import Counters
from cfs.net.frame import Buffer, Received
from cfs.net.handlers import Handler, Service
from cfs.net.peer import Peer
from cfs.net.ports import Transport

BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 1.0
CONNECT_LIMIT_S = 2.0
"""Connect, TLS and hello; a cut link is noticed in this time."""
GRACE_S = 0.1
"""How long calls wait for another attempt at a node whose last one failed: a cut link must not hold
callers who could ask another node, and a node that is back answers within this."""
BULK_METHODS = frozenset({"store.put", "store.get", "raft.snapshot"})
POSTS_MAX = 256
"""One-way messages kept per node while its connection is being made."""
_SERVING = ("meta", "storage")


class _Link:
    """One connection to a node: there, being made, or known dead until `retry_at`."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.connecting = False
        self.changed = trio.Event()
        self.error = "the connection was lost"
        self.refused = False
        self.failed = False
        self.retry_at = 0.0
        self.backoff_s = BACKOFF_S_MIN
        self.address: tuple[str, int] | None = None
        self.posts: list[tuple[str, Any, Buffer]] = []

    def unavailable(self, node: int) -> Unavailable:
        """Say why there is no connection. A refusal is final for this node, not for its peers."""
        return Unavailable(f"node {node}: {self.error}", node=node, refused=self.refused)


class Pool:
    """Connections to nodes by their id."""

    def __init__(
        self,
        *,
        transport: Transport,
        resolve: Callable[[int], tuple[str, int] | None],
        epoch: Callable[[], int],
        on_epoch: Callable[[int], None],
        handlers: Mapping[str, Handler] | None = None,
        on_connect: Callable[[int, Peer], None] | None = None,
        on_disconnect: Callable[[int, Peer], None] | None = None,
        name_of: Callable[[int], str | None] | None = None,
        refused: Callable[[int], bool] = lambda _serial: False,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
        self._transport = transport
        self._resolve = resolve
        self._name_of = name_of
        self._service = Service(
            handlers=handlers or {}, epoch=epoch, on_epoch=on_epoch, refused=refused
        )
        self._refused = refused
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._links: dict[tuple[int, bool], _Link] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the connections' tasks until cancelled; then close every connection."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for link in self._links.values():
                if link.peer is not None:
                    link.peer.close("the pool ends")

    async def call(
        self, node: int, method: str, request: Any, payload: Buffer = b"", *, timeout_s: float
    ) -> tuple[Any, Received]:
        """Call a node, connecting on demand.

        Raises what `Peer.call` raises, and Unavailable at once while the node is known dead;
        `detail["refused"]` tells that it would not have us (or we it).
        """
        link = self._links.get((node, method in BULK_METHODS))
        if link is not None and link.peer is not None and link.peer.alive:
            return await link.peer.call(method, request, payload, timeout_s=timeout_s)
        started = trio.current_time()
        peer = await self._connected(node, method in BULK_METHODS, timeout_s)
        left_s = timeout_s - (trio.current_time() - started)
        return await peer.call(method, request, payload, timeout_s=left_s)

    def post(self, node: int, method: str, request: Any, payload: Buffer = b"") -> None:
        """Send one way without waiting; the first ones make the connection.

        Raises Unavailable when the node is known dead or too much is queued already.
        """
        link = self._link(node, method in BULK_METHODS)
        if link.peer is not None and link.peer.alive:
            link.peer.post(method, request, payload)
            return
        self._start(node, method in BULK_METHODS, link)
        if len(link.posts) >= POSTS_MAX:
            raise Unavailable(f"node {node}: too much waits for its connection", node=node)
        link.posts.append((method, request, payload))

    async def call_address(
        self, host: str, port: int, method: str, request: Any, payload: Buffer = b"",
        *, timeout_s: float,
    ) -> tuple[Any, Received]:  # fmt: skip
        """Call whoever serves at an address, on a connection of its own: for bootstrap."""
        try:
            with trio.fail_after(timeout_s):
                peer = await self._open(host, port, None)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.run)
                    try:
                        answer = await _outcome(peer, method, request, payload, timeout_s)
                    finally:
                        peer.close("the call ended")
        except trio.TooSlowError:
            raise DeadlineExceeded(f"{method} to {host}:{port} took too long") from None
        if isinstance(answer, CfsError):
            raise answer
        return answer

    def peer(self, node: int) -> Peer | None:
        """Give the live connection to a node, if there is one."""
        link = self._links.get((node, False))
        if link is None or link.peer is None or not link.peer.alive:
            return None
        return link.peer

    def disconnect(self, node: int, reason: str) -> None:
        """Close the connections to a node: it is gone, or its certificate is revoked."""
        for bulk in (False, True):
            link = self._links.get((node, bulk))
            if link is not None and link.peer is not None:
                link.peer.close(reason)

    # --- connecting ------------------------------------------------------------------------------

    def _link(self, node: int, bulk: bool) -> _Link:  # noqa: FBT001 - private
        key = (node, bulk)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = _Link()
        return link

    async def _connected(self, node: int, bulk: bool, timeout_s: float) -> Peer:  # noqa: FBT001
        link = self._link(node, bulk)
        with trio.move_on_after(min(timeout_s, GRACE_S) if link.failed else timeout_s):
            self._start(node, bulk, link)
            while link.connecting:
                await link.changed.wait()
            if link.peer is not None and link.peer.alive:
                return link.peer
            raise link.unavailable(node)
        if link.failed:
            raise link.unavailable(node)
        raise DeadlineExceeded(f"node {node}: no connection in time")

    def _start(self, node: int, bulk: bool, link: _Link) -> None:  # noqa: FBT001
        """Begin to connect unless someone does. Raises Unavailable while the node is dead."""
        if link.connecting or (link.peer is not None and link.peer.alive):
            return
        if self._nursery is None:
            raise Unavailable("the pool is not running")
        address = self._resolve(node)
        if address is None:
            raise Unavailable(f"node {node} is not in the cluster map", node=node)
        if address != link.address:
            link.address, link.retry_at, link.backoff_s = address, 0.0, BACKOFF_S_MIN
        if trio.current_time() < link.retry_at:
            raise link.unavailable(node)
        link.connecting = True
        link.changed = trio.Event()
        self._nursery.start_soon(self._keep, node, bulk, link, address)

    async def _keep(self, node: int, bulk: bool, link: _Link, address: tuple[str, int]) -> None:  # noqa: FBT001
        """Make the connection, then run it until it ends."""
        peer = None
        try:
            peer = await self._open(*address, node)
            link.backoff_s = BACKOFF_S_MIN
            link.failed = False
        except CfsError as error:
            link.error = str(error)
            link.refused = isinstance(error, Refused)
            link.failed = True
            link.retry_at = trio.current_time() + link.backoff_s
            link.backoff_s = min(2 * link.backoff_s, BACKOFF_S_MAX)
            link.posts.clear()
            return
        finally:
            link.peer = peer
            link.connecting = False
            link.changed.set()
        try:
            posts, link.posts = link.posts, []
            with contextlib.suppress(Unavailable):  # one way: what cannot leave is lost
                for method, request, payload in posts:
                    peer.post(method, request, payload)
            if self._on_connect is not None and not bulk:
                self._on_connect(node, peer)
            await peer.run()
        finally:
            if link.peer is peer:  # else another one was made while handlers ended
                link.peer = None
            if self._on_disconnect is not None and not bulk:
                self._on_disconnect(node, peer)

    async def _open(self, host: str, port: int, node: int | None) -> Peer:
        """Connect, authenticate and greet. Raises Unavailable, Refused, Malformed."""
        try:
            with trio.fail_after(CONNECT_LIMIT_S):
                connection = await self._transport.connect(host, port)
                peer = Peer(connection, self._service, self.counters)
                self._check(peer, host, port, node)
                await peer.greet()
        except trio.TooSlowError:
            raise Unavailable(f"{host}:{port} did not answer in {CONNECT_LIMIT_S} s") from None
        return peer

    def _check(self, peer: Peer, host: str, port: int, node: int | None) -> None:
        """Refuse a peer that is not the one looked for."""
        name = self._name_of(node) if self._name_of is not None and node is not None else None
        fault = ""
        if peer.role not in _SERVING:
            fault = f"has role {peer.role}, which serves nobody"
        elif name is not None and peer.name != name:
            fault = f"is {peer.name}, not {name}"
        elif self._refused(peer.serial):
            fault = f"shows the revoked certificate {peer.serial:x}"
        if fault:
            peer.close(fault)
            raise Refused(f"{host}:{port} {fault}")


async def _outcome(
    peer: Peer, method: str, request: Any, payload: Buffer, timeout_s: float
) -> tuple[Any, Received] | CfsError:
    """Give the answer, or the error as a value: it must not pass through a nursery."""
    try:
        return await peer.call(method, request, payload, timeout_s=timeout_s)
    except CfsError as error:
        return error
