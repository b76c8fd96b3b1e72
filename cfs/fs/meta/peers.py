"""How a host's messages reach the other metadata nodes: the `Sender` port, and it over the pool.

One turn's messages to a node leave as one one-way `raft.messages`. Nothing waits: when the link
is down or its queue is full the batch is dropped, which Raft tolerates by design (it asks again);
a node that does not answer costs a bounded connection queue and nothing else. Snapshot pieces are
calls with an answer, one at a time.
"""

from __future__ import annotations

from typing import Any, Protocol

from cfs.core.api.methods import RaftMessages, SnapshotChunk
from cfs.core.errors import CfsError

SNAPSHOT_PIECE_S_MAX = 30.0
"""A receiver stages a piece in one LMDB transaction; the last one includes the switch."""
MESSAGE_BYTES_MAX = 4 << 20
"""A batch is split above it, so that one frame never holds up a heartbeat for long."""


class Sender(Protocol):
    """What a host needs of the network."""

    def send(self, node: int, messages: list[bytes]) -> None:
        """Send without waiting; may lose them. Encoded by `cfs.core.raft.message`."""
        ...

    async def send_snapshot(self, node: int, chunk: SnapshotChunk, payload: bytes) -> None:
        """Deliver a piece. Raises Retryable, DeadlineExceeded, or what the receiver raised."""
        ...


class Link(Protocol):
    """The part of `cfs.net.pool.Pool` that is used here."""

    def post(self, node: int, method: str, request: Any, payload: bytes = b"") -> None:
        """Send one way. Raises Unavailable."""
        ...

    async def call(
        self, node: int, method: str, request: Any, payload: bytes = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        """Call and give (reply, payload)."""
        ...


class PoolSender:
    """A `Sender` over a pool; `node` is the sender's own id."""

    def __init__(self, *, node: int, pool: Link) -> None:
        self._node = node
        self._pool = pool
        self.dropped = 0
        """Messages that found no link; for metrics."""

    def send(self, node: int, messages: list[bytes]) -> None:
        """See `Sender.send`."""
        for batch in _split(messages):
            try:
                self._pool.post(
                    node, "raft.messages", RaftMessages(sender=self._node, messages=tuple(batch))
                )
            except CfsError:
                self.dropped += len(batch)

    async def send_snapshot(self, node: int, chunk: SnapshotChunk, payload: bytes) -> None:
        """See `Sender.send_snapshot`."""
        await self._pool.call(node, "raft.snapshot", chunk, payload, timeout_s=SNAPSHOT_PIECE_S_MAX)


def _split(messages: list[bytes]) -> list[list[bytes]]:
    if sum(map(len, messages)) <= MESSAGE_BYTES_MAX:
        return [messages]
    batches: list[list[bytes]] = [[]]
    size = 0
    for message in messages:
        if batches[-1] and size + len(message) > MESSAGE_BYTES_MAX:
            batches.append([])
            size = 0
        batches[-1].append(message)
        size += len(message)
    return batches
