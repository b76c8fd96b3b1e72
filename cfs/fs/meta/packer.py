"""The packer: small files move from the metadata store into deduplicated segments.

A worker of each led shard. What was written inline is sealed already, so moving it needs no key:
chunks that have been inline for `after_s` are looked up in the dedupe index, the new ones packed
into a segment, and the file's extents switched to it in the log if they still are what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog
import trio

from cfs.core.api.store import ChunkRef
from cfs.core.data.pipeline import Sealed
from cfs.core.errors import CfsError
from cfs.core.ids import ChunkId
from cfs.core.meta import commands, read, results
from cfs.fs.meta.led import LedShard
from cfs.net.ports import WallClock

_LOG = structlog.get_logger()

BATCH_CHUNKS = 1024
BATCH_BYTES = 3 << 20
"""Sealed bytes of one round: they fit one segment."""
PAUSE_S = 2.0
COMMANDS_MAX = 256
"""Files switched in one log entry."""


class Packs(Protocol):
    """What is needed of `cfs.fs.data.uploader.Uploader`."""

    async def pack(self, sealed: Sequence[Sealed]) -> list[ChunkRef]:
        """Store sealed chunks; give where each is, once durable."""
        ...


class Packer:
    """Packs what is inline in the shards led here."""

    def __init__(self, *, uploader: Packs, clock: WallClock, after_s: float) -> None:
        self._uploader = uploader
        self._clock = clock
        self._after_ns = int(after_s * 1e9)
        self.packed_chunks = 0
        self.last_error = ""
        self._turn = trio.Lock()
        """One shard packs at a time: memory stays bounded, segments get full."""

    async def run(self, led: LedShard) -> None:
        """Pack for as long as the shard is led here."""
        while True:
            await trio.sleep(PAUSE_S)
            try:
                async with self._turn:
                    while await self._round(led):
                        pass
                self.last_error = ""
            except CfsError as error:
                self.last_error = str(error)
                _LOG.info("pack_failed", shard=led.shard, error=str(error))
                await trio.sleep(PAUSE_S)

    async def _round(self, led: LedShard) -> bool:
        """Pack one batch; give whether there may be more."""
        horizon = self._clock.time_ns() - self._after_ns
        found = read.inline_candidates(led.group.state, horizon, BATCH_CHUNKS)
        batch: list[read.InlineCandidate] = []
        size = 0
        for candidate in found:
            size += len(candidate.sealed)
            if batch and size > BATCH_BYTES:
                break
            batch.append(candidate)
        if not batch:
            return False
        sealed = [
            Sealed(
                chunk_id=ChunkId(c.chunk_id), key_version=c.key_version, raw=c.raw, blob=c.sealed
            )
            for c in batch
        ]
        refs = await self._uploader.pack(sealed)
        by_ino: dict[int, list[tuple[int, ChunkRef]]] = {}
        for candidate, ref in zip(batch, refs, strict=True):
            by_ino.setdefault(candidate.ino, []).append((candidate.inline_id, ref))
        packs = [commands.Pack(ino=i, replacements=tuple(r)) for i, r in by_ino.items()]
        replaced = 0
        for start in range(0, len(packs), COMMANDS_MAX):
            _, done = await led.propose(*packs[start : start + COMMANDS_MAX])
            replaced += sum(r.replaced for r in done if isinstance(r, results.Packed))
        self.packed_chunks += replaced
        return replaced > 0
