"""The storage nodes as whoever repairs sees them: whole fragments, and what belongs where.

Owns nothing. Own fragments are asked for like any other's, without a connection.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import trio

from cfs.core.api.cluster import ClusterMap, NodeState, Profile, Role
from cfs.core.api.scrub import ForgetEntries
from cfs.core.api.store import GetFragment, PutFragment
from cfs.core.code import erasure
from cfs.core.errors import CfsError, Corrupt, DeadlineExceeded, NotFound, Unavailable
from cfs.core.ids import SegmentId
from cfs.core.place.group import placement_group_of
from cfs.net.handlers import Handler

PATIENCE_S = 10.0
_SERVING = (NodeState.IN, NodeState.DRAINING)

Buffer = bytes | bytearray | memoryview


class Calls(Protocol):
    """The connection pool."""

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        """Call a node; give (reply, payload). Raises the error tree."""
        ...


class Peers:
    """Fragments of all storage nodes, this one included."""

    def __init__(
        self,
        *,
        node_id: int,
        calls: Calls,
        cluster_map: Callable[[], ClusterMap],
        handlers: Mapping[str, Handler],
    ) -> None:
        self.node_id = node_id
        self._calls = calls
        self._map = cluster_map
        self._handlers = handlers

    def name_of(self, node: int) -> str:
        """Name a node as people do."""
        known = self._map().node(node)
        return known.name if known is not None else f"node {node}"

    def members(self, segment: bytes) -> tuple[int, ...]:
        """Give where the fragments of a segment belong, in fragment order."""
        placement = self._map().placement
        if not placement:
            return ()
        return placement[placement_group_of(SegmentId(segment), len(placement))]

    def serving(self) -> list[int]:
        """Give every storage node that should answer."""
        return [
            n.node_id for n in self._map().nodes if n.role == Role.STORAGE and n.state in _SERVING
        ]

    async def get(self, node: int, segment: bytes, index: int) -> bytes:
        """Read a whole fragment (`index` -1: whichever). Raises NotFound, Corrupt, Unavailable."""
        request = GetFragment(segment=segment, index=index)
        _, payload = await self._ask(node, "store.get", request)
        return bytes(payload)

    async def put(self, node: int, request: PutFragment, payload: Buffer) -> None:
        """Store a fragment; durable on return."""
        await self._ask(node, "store.put", request, payload)

    async def forget_entries(self, segment: bytes) -> None:
        """Have every node drop its dedupe entries of a segment; who does not answer keeps them."""
        for node in self.serving():
            try:
                await self._ask(node, "store.forget", ForgetEntries(segments=(segment,)))
            except CfsError:
                continue

    async def rebuild(
        self, segment: bytes, index: int, profile: Profile, segment_length: int
    ) -> bytes:
        """Make a fragment from those of the other nodes.

        Raises Unavailable (nodes did not answer), NotFound or Corrupt (too few good ones are left).
        """
        length = erasure.fragment_length(segment_length, profile)
        failed: list[CfsError] = []
        found: dict[int, Buffer] = {}
        others = [n for n in self.serving() if n != self.node_id]
        wanted = [-1] if profile.data == 1 else [i for i in range(profile.total) if i != index]
        for other in wanted:
            for node in self._likely(segment, other, others):
                try:
                    got = await self.get(node, segment, other)
                except CfsError as error:
                    failed.append(error)
                    continue
                if len(got) == length:
                    found[other] = got
                    break
            if len(found) >= profile.data:
                break
        if profile.data == 1 and found:
            return bytes(found[-1])
        if len(found) < profile.data:
            raise worst(failed, f"{len(found)} of the {profile.data} fragments needed are good")
        return erasure.reconstruct(index, found, profile)

    def _likely(self, segment: bytes, index: int, others: Iterable[int]) -> list[int]:
        """Give the nodes that may hold a fragment, the likeliest first."""
        members = self.members(segment)
        first = members[index] if 0 <= index < len(members) else 0
        return sorted(others, key=lambda n: (n != first, n not in members, n))

    async def _ask(
        self, node: int, method: str, request: Any, payload: Buffer = b""
    ) -> tuple[Any, Any]:
        if node != self.node_id:
            return await self._calls.call(node, method, request, payload, timeout_s=PATIENCE_S)
        with trio.move_on_after(PATIENCE_S):
            answer = self._handlers[method](None, request, payload)  # type: ignore[arg-type]
            if inspect.isawaitable(answer):
                answer = await answer
            return answer if isinstance(answer, tuple) else (answer, b"")
        raise DeadlineExceeded(f"{method}: this node's own disks did not answer in time")


def worst(failed: Iterable[CfsError], said: str) -> CfsError:
    """Choose the error that says why: what may pass comes first."""
    failed = list(failed)
    for error in failed:
        if not isinstance(error, Corrupt | NotFound):
            return Unavailable(f"{said}, and others could not be asked: {error}")
    for error in failed:
        if isinstance(error, Corrupt):
            return Corrupt(f"{said}: {error}")
    return NotFound(said)
