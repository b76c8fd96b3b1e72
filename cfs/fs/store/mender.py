"""Writes a damaged fragment anew: with its own bytes when only its header suffered, or the others'.

What is written must match the checksums the index keeps of the fragment: those are checked
themselves at every read of the index, so bytes rebuilt from a wrong peer are never taken over.
"""

from __future__ import annotations

from collections.abc import Callable

from cfs.core.api.cluster import Profile
from cfs.core.api.scrub import Finding
from cfs.core.errors import CfsError, Corrupt, NotFound
from cfs.core.ids import SegmentId
from cfs.core.segment.record import checksum_blocks
from cfs.fs.store.committer import Committer
from cfs.fs.store.index import Entry
from cfs.fs.store.jobs import Put
from cfs.fs.store.peers import Peers
from cfs.net.ports import Threads


class Mender:
    """Mends the fragments of one node."""

    def __init__(self, *, peers: Peers, threads: Threads, counted: Callable[[], None]) -> None:
        self._peers = peers
        self._threads = threads
        self._counted = counted

    async def mend(
        self, committer: Committer, segment: bytes, index: int, entry: Entry, said: str,
        *, repair: bool,
    ) -> Finding:  # fmt: skip
        """Repair what `said` is wrong with a fragment; give the finding, whatever came of it."""
        disk = committer.disk
        repaired = False
        if repair:
            try:
                payload = await self._good_bytes(committer, segment, index, entry)
                await committer.carry_out(
                    Put(
                        segment=SegmentId(segment),
                        index=index,
                        data=entry.data,
                        parity=entry.parity,
                        segment_length=entry.segment_length,
                        raw_bytes=entry.raw_bytes,
                        sealed_bytes=entry.sealed_bytes,
                        repair=True,
                        payload=payload,
                        replace=True,
                    )
                )
                _, still = await self._threads.run(disk.damage_of, segment, index)
                repaired = not still
                said += "; written anew" if repaired else f"; written anew, and again {still}"
                self._counted()
            except CfsError as error:
                said += f"; cannot be repaired now: {error}"
        return Finding(
            kind="fragment",
            key=f"fragment {segment.hex()}.{index} {self._peers.node_id}",
            where=f"{self._peers.name_of(self._peers.node_id)} {disk.name}",
            detail=said,
            repaired=repaired,
            segment=segment,
            index=index,
        )

    async def _good_bytes(
        self, committer: Committer, segment: bytes, index: int, entry: Entry
    ) -> bytes:
        try:
            length = entry.payload_length
            _, own = await self._threads.run(committer.disk.read, segment, index, 0, length)
            return bytes(own)
        except (Corrupt, NotFound):
            pass
        profile = Profile(entry.data, entry.parity)
        rebuilt = await self._peers.rebuild(segment, index, profile, entry.segment_length)
        if checksum_blocks(rebuilt) != entry.block_crcs:
            raise Corrupt(
                "what the other fragments give is not what was stored here: "
                "run cfs admin scrub --deep"
            )
        return rebuilt
