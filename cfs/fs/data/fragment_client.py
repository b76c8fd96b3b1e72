"""The calls to storage nodes, typed. Owns nothing; errors are those of `cfs.core.errors`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cfs.core.api.store import (
    ChunkRef,
    FindChunks,
    FindChunksReply,
    GetFragment,
    PublishChunks,
    PutFragment,
)
from cfs.core.errors import Corrupt

Buffer = bytes | bytearray | memoryview


class Pool(Protocol):
    """What the data path needs of the connection pool."""

    async def call(
        self, node: int, method: str, request: Any, payload: Buffer = b"", *, timeout_s: float
    ) -> tuple[Any, Buffer]:
        """Ask a node, and give `(reply, payload)`. Raises the CfsError tree."""
        ...


class FragmentClient:
    """Fragments and the dedupe index of one storage node at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put(
        self, node: int, header: PutFragment, fragment: Buffer, *, timeout_s: float
    ) -> None:
        """Store a fragment; durable on return."""
        await self._pool.call(node, "store.put", header, fragment, timeout_s=timeout_s)

    async def get(
        self, node: int, segment: bytes, index: int, offset: int, length: int, *, timeout_s: float
    ) -> Buffer:
        """Read exactly `length` (more than 0) bytes of a fragment."""
        request = GetFragment(segment=segment, index=index, offset=offset, length=length)
        _, payload = await self._pool.call(node, "store.get", request, timeout_s=timeout_s)
        if len(payload) != length:
            raise Corrupt(
                f"fragment {index} of segment {segment.hex()} on node {node}: "
                f"{len(payload)} bytes at {offset}, not {length}"
            )
        return payload

    async def find(
        self, node: int, chunk_ids: Sequence[bytes], *, timeout_s: float
    ) -> Sequence[ChunkRef | None]:
        """Ask the node's part of the dedupe index; one answer a chunk, in order."""
        request = FindChunks(chunk_ids=tuple(chunk_ids))
        reply, _ = await self._pool.call(node, "store.find", request, timeout_s=timeout_s)
        assert isinstance(reply, FindChunksReply)
        return reply.refs

    async def publish(self, node: int, refs: Sequence[ChunkRef], *, timeout_s: float) -> None:
        """Tell the node's part of the dedupe index of durable chunks."""
        await self._pool.call(
            node, "store.publish", PublishChunks(refs=tuple(refs)), timeout_s=timeout_s
        )
