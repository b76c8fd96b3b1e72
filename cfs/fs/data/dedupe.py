"""The dedupe index as a client sees it: asked before sealing, told after durability. Best effort.

Sharded by chunk id: the first live member of the placement group of its first 16 bytes owns it. A
call that fails or is slow is a miss, and its node is not asked again for a few seconds: a miss
costs space, never correctness. A hit is only as good as the next commit: when the shard answers
Condemned the caller names the segments to `forget`, and they are never offered again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

import trio

from cfs.core.api.store import ChunkRef
from cfs.core.errors import CfsError
from cfs.fs.data.fragment_client import FragmentClient
from cfs.fs.data.nodes import Nodes
from cfs.net.tasks import open_tasks

RECENT_MAX = 16384
"""References of this process's own chunks kept, about 6 MiB."""
RECENT_S = 2.0
"""How long they are used unasked: until they are published. Longer would hide from this process
that the index stopped offering a segment, as it does `collector.GRACE_S` before its round."""
FORGOTTEN_MAX = 65536
FIND_TIMEOUT_S = 0.25
PUBLISH_TIMEOUT_S = 2.0
MUTE_S = 5.0
_BATCH_MAX = 1024
_UNKNOWN: tuple[None, float] = None, 0.0


class Dedupe:
    """Finds, remembers and publishes chunk references."""

    def __init__(self, client: FragmentClient, nodes: Nodes) -> None:
        self._client = client
        self._nodes = nodes
        self._recent: OrderedDict[bytes, tuple[ChunkRef, float]] = OrderedDict()
        self._forgotten: OrderedDict[bytes, None] = OrderedDict()
        self._mute_until: dict[int, float] = {}
        self.asked = 0
        self.hits = 0
        self.failures = 0

    async def find(
        self, chunk_ids: Sequence[bytes], avoid: Collection[bytes] = ()
    ) -> dict[bytes, ChunkRef]:
        """Give the references that are known; segments in `avoid` do not count."""
        found: dict[bytes, ChunkRef] = {}
        questions: dict[int, list[bytes]] = {}
        self.asked += len(chunk_ids)
        oldest = trio.current_time() - RECENT_S
        while self._recent and next(iter(self._recent.values()))[1] < oldest:
            self._recent.popitem(last=False)
        for chunk_id in chunk_ids:
            ref, _ = self._recent.get(chunk_id, _UNKNOWN)
            if ref is not None and ref.segment not in avoid:
                found[chunk_id] = ref
                continue
            owner = self._owner(chunk_id)
            if owner is not None:
                questions.setdefault(owner, []).append(chunk_id)
        if len(questions) == 1:
            [(node, asked)] = questions.items()
            await self._ask(node, asked, avoid, found)
        elif questions:
            async with open_tasks() as nursery:
                for node, asked in questions.items():
                    nursery.start_soon(self._ask, node, asked, avoid, found)
        self.hits += len(found)
        return found

    def remember(self, refs: Iterable[ChunkRef]) -> None:
        """Keep references to chunks that are durable."""
        now = trio.current_time()
        for ref in refs:
            if ref.segment not in self._forgotten:
                self._recent[ref.chunk_id] = ref, now
                self._recent.move_to_end(ref.chunk_id)
        while len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    def forget(self, segments: Iterable[bytes]) -> None:
        """Never offer these segments again: they are condemned."""
        gone = set(segments)
        for segment in gone:
            self._forgotten[segment] = None
        while len(self._forgotten) > FORGOTTEN_MAX:
            self._forgotten.popitem(last=False)
        for chunk_id in [c for c, (ref, _) in self._recent.items() if ref.segment in gone]:
            del self._recent[chunk_id]

    async def publish(self, refs: Sequence[ChunkRef]) -> None:
        """Tell the owners of durable chunks; gives up quietly."""
        owners: dict[int, list[ChunkRef]] = {}
        for ref in refs:
            owner = self._owner(ref.chunk_id)
            if owner is not None:
                owners.setdefault(owner, []).append(ref)
        async with open_tasks() as nursery:
            for node, told in owners.items():
                nursery.start_soon(self._tell, node, told)

    async def _ask(
        self, node: int, asked: list[bytes], avoid: Collection[bytes], found: dict[bytes, ChunkRef]
    ) -> None:
        try:
            for start in range(0, len(asked), _BATCH_MAX):
                part = asked[start : start + _BATCH_MAX]
                refs = await self._client.find(node, part, timeout_s=FIND_TIMEOUT_S)
                found.update(
                    {
                        chunk_id: ref
                        for chunk_id, ref in zip(part, refs, strict=False)
                        if ref is not None
                        and ref.chunk_id == chunk_id
                        and ref.segment not in avoid
                        and ref.segment not in self._forgotten
                    }
                )
        except CfsError:
            self._mute(node)

    async def _tell(self, node: int, told: list[ChunkRef]) -> None:
        try:
            for start in range(0, len(told), _BATCH_MAX):
                await self._client.publish(
                    node, told[start : start + _BATCH_MAX], timeout_s=PUBLISH_TIMEOUT_S
                )
        except CfsError:
            self._mute(node)

    def _owner(self, chunk_id: bytes) -> int | None:
        for node in self._nodes.members(chunk_id[:16]):
            if self._nodes.live(node):
                until = self._mute_until.get(node)
                return None if until is not None and trio.current_time() < until else node
        return None

    def _mute(self, node: int) -> None:
        self.failures += 1
        self._mute_until[node] = trio.current_time() + MUTE_S
