"""The scrubber of a storage node: reads everything at rest, again and again, and mends.

Decides when and how fast. A pass goes through all fragments in order; passes begin half of
`period_days` apart, so that nothing lies unread for longer than that, and a pass takes no more of
the disks than it must to be in time (`BYTES_PER_S_MIN` at least). Its position is kept in the index
of the first disk, so a restart goes on; a rebuilt index begins a new pass.

What a read refused is looked at soon (`suspect`), without waiting for the pass. On demand the root
leader moves a cursor of its own through `store.verify`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
import trio

from cfs.core.api import scrub
from cfs.core.api.meta import Empty
from cfs.core.api.scrub import Chunk, Finding, SegmentEntries
from cfs.core.api.store import StoreStat
from cfs.core.errors import CfsError, Unavailable
from cfs.fs.store.committer import Committer
from cfs.fs.store.mender import Mender
from cfs.fs.store.peers import Peers
from cfs.fs.store.prover import Prover
from cfs.fs.store.reporter import Reporter
from cfs.net.handlers import Context, Handler
from cfs.net.ports import Threads, WallClock

_LOG = structlog.get_logger()

PERIOD_DAYS = 14.0
BYTES_PER_S_MIN = 1 << 20
STEP_BYTES = 4 << 20
STEP_BYTES_MAX = 256 << 20
"""Of one `store.verify`: a few seconds of a disk."""
PAGE = 128
FRESH_S = 3600
"""What was written since is left to the next pass: it was verified when it came, and reading it
from the disk would take it out of memory."""
STRIPES_MAX = 64
SUSPECTS_MAX = 1000
IDLE_S = 60.0
RETRY_S = 5.0
_DAY_MS = 86_400_000


class Note(msgspec.Struct, array_like=True, kw_only=True):
    """What is kept over restarts."""

    began_ms: int = 0
    """When the pass under way began; 0: none is."""
    segment: bytes = b""
    index: int = 0
    verified: int = 0
    passes: int = 0
    done_ms: int = 0
    """When the last whole pass began: everything older was verified since."""
    damaged: int = 0
    repaired: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Note).decode


class Scrubber:
    """See the module."""

    def __init__(
        self,
        *,
        committers: Callable[[], list[Committer]],
        peers: Peers,
        reporter: Reporter,
        threads: Threads,
        clock: WallClock,
        period_days: float = PERIOD_DAYS,
        bytes_per_s_max: int = 0,
    ) -> None:
        self._committers = committers
        self._reporter = reporter
        self._threads = threads
        self._clock = clock
        self._half_ms = max(1, int(period_days * _DAY_MS / 2))
        self._rate_max = bytes_per_s_max
        self._note = Note()
        self._mender = Mender(peers=peers, threads=threads, counted=self._count_mended)
        self._prover = Prover(peers=peers, threads=threads)
        self._suspects: deque[tuple[bytes, int]] = deque(maxlen=SUSPECTS_MAX)
        self._wake = trio.Event()
        self.handlers: Mapping[str, Handler] = {
            "store.verify": self._verify,
            "store.prove": self._prove,
            "store.entries": self._entries,
            "store.forget": self._forget,
        }

    def shown(self, stat: StoreStat) -> StoreStat:
        """Add what the scrubber counts to a node's figures."""
        note = self._note
        return msgspec.structs.replace(
            stat,
            scrub_done_ms=note.done_ms,
            scrub_bytes=note.verified,
            scrub_passes=note.passes,
            scrub_damaged=note.damaged,
            scrub_repaired=note.repaired,
        )

    def suspect(self, segment: bytes, index: int) -> None:
        """Have a fragment that a read refused looked at soon."""
        if (segment, index) not in self._suspects:
            self._suspects.append((segment, index))
            self._wake.set()

    async def run(self) -> None:
        """Scrub until cancelled."""
        self._load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reporter.run)
            nursery.start_soon(self._mend_suspects)
            await self._passes()

    async def verify(
        self, after: bytes, after_index: int, bytes_max: int, *, repair: bool, age_s: int = 0
    ) -> scrub.VerifyReply:
        """Check fragments in order until so many bytes were read. Raises Unavailable.

        Younger ones than `age_s` are passed over.
        """
        done = fragments = 0
        findings: list[Finding] = []
        while True:
            page, ended = await self._page(after, after_index, age_s)
            for committer, segment, index in page:
                found = await self._check(committer, segment, index, repair=repair)
                fragments += 1
                done += found[0]
                findings += found[1]
                after, after_index = segment, index
                if done >= bytes_max:
                    ended = False
                    break
            if ended or done >= bytes_max:
                self._reporter.add(findings)
                return scrub.VerifyReply(
                    last=after, last_index=after_index, end=ended, fragments=fragments,
                    bytes_read=done, findings=tuple(findings),
                )  # fmt: skip

    # --- handlers

    async def _verify(
        self, _context: Context, request: scrub.VerifyFragments, _payload: Any
    ) -> scrub.VerifyReply:
        return await self.verify(
            request.after,
            request.after_index,
            min(request.bytes_max, STEP_BYTES_MAX),
            repair=request.repair,
        )

    async def _prove(
        self, _context: Context, request: scrub.ProveStripes, _payload: Any
    ) -> scrub.ProveReply:
        bytes_read = 0
        findings: list[Finding] = []
        for stripe in request.stripes[:STRIPES_MAX]:
            proof = await self._prover.prove(stripe, repair=request.repair)
            bytes_read += proof.bytes_read
            findings += proof.findings
        for found in findings:
            self._count(found)
        return scrub.ProveReply(bytes_read=bytes_read, findings=tuple(findings))

    async def _entries(
        self, _context: Context, request: scrub.ListEntries, _payload: Any
    ) -> scrub.ListEntriesReply:
        limit = max(1, min(request.limit, 1000))
        found: dict[bytes, list[Chunk]] = {}
        for committer in self._committers():
            index = committer.disk.index
            for segment, refs in await self._threads.run(index.entries, request.after, limit):
                found.setdefault(segment, []).extend(
                    Chunk(chunk_id=r.chunk_id, at=r.at, stored=r.stored, raw=r.raw,
                          key_version=r.key_version)
                    for r in refs
                )  # fmt: skip
        chosen = sorted(found)[:limit]
        return scrub.ListEntriesReply(
            segments=tuple(SegmentEntries(segment=s, chunks=tuple(found[s])) for s in chosen),
            end=len(found) < limit,
        )

    def _forget(self, _context: Context, request: scrub.ForgetEntries, _payload: Any) -> Empty:
        for committer in self._committers():
            for segment in request.segments:
                committer.disk.index.forget(segment)
        return Empty()

    # --- the pass

    async def _passes(self) -> None:
        while True:
            now_ms = self._now_ms()
            if not self._note.began_ms:
                due_ms = self._note.done_ms + self._half_ms - now_ms
                if due_ms > 0:
                    await trio.sleep(min(due_ms / 1000, IDLE_S))
                    continue
                self._note.began_ms = now_ms
            try:
                await self._step()
            except CfsError as error:
                _LOG.info("scrub_waits", error=str(error))
                await trio.sleep(RETRY_S)

    async def _step(self) -> None:
        note = self._note
        began = trio.current_time()
        reply = await self.verify(note.segment, note.index, STEP_BYTES, repair=True, age_s=FRESH_S)
        note.segment, note.index = reply.last, reply.last_index
        note.verified += reply.bytes_read
        if reply.end:
            _LOG.info("scrub_passed", verified=note.verified, damaged=note.damaged)
            note.done_ms, note.began_ms = note.began_ms, 0
            note.segment, note.index, note.verified = b"", 0, 0
            note.passes += 1
        self._keep()
        rate = self._rate()
        await trio.sleep(max(0.0, reply.bytes_read / rate - (trio.current_time() - began)))

    def _rate(self) -> float:
        stored = sum(c.disk.counts().total.stored for c in self._committers())
        rate = max(BYTES_PER_S_MIN, stored / (self._half_ms / 1000))
        return min(rate, self._rate_max) if self._rate_max else rate

    async def _mend_suspects(self) -> None:
        while True:
            self._wake = trio.Event()
            while self._suspects:
                segment, index = self._suspects[0]
                try:
                    for committer in self._committers():
                        found = await self._check(committer, segment, index, repair=True)
                        self._reporter.add(found[1])
                except CfsError as error:
                    _LOG.info("scrub_waits", error=str(error))
                    await trio.sleep(RETRY_S)
                    continue
                self._suspects.popleft()
            await self._wake.wait()

    async def _page(
        self, after: bytes, after_index: int, age_s: int
    ) -> tuple[list[tuple[Committer, bytes, int]], bool]:
        """Give the next fragments over all disks; the flag says that none follow."""
        rows: list[tuple[bytes, int, Committer]] = []
        before_ns = self._clock.time_ns() - age_s * 1_000_000_000
        cut: tuple[bytes, int] | None = None
        for committer in self._committers():
            page = await self._threads.run(
                committer.disk.after, after, after_index, PAGE, before_ns
            )
            rows += [(segment, index, committer) for segment, index, _ in page]
            if len(page) >= PAGE:
                last = page[-1][0], page[-1][1]
                cut = last if cut is None else min(cut, last)
        rows.sort(key=lambda row: row[:2])
        if cut is not None:
            rows = [row for row in rows if row[:2] <= cut]
        return [(committer, segment, index) for segment, index, committer in rows], cut is None

    async def _check(
        self, committer: Committer, segment: bytes, index: int, *, repair: bool
    ) -> tuple[int, list[Finding]]:
        disk = committer.disk
        entry, said = await self._threads.run(disk.damage_of, segment, index)
        if entry is None:
            return 0, []
        if not said:
            return entry.span, []
        self._note.damaged += 1
        found = await self._mender.mend(committer, segment, index, entry, said, repair=repair)
        return entry.span, [found]

    # --- what is counted and kept

    def _count(self, found: Finding) -> None:
        if found.kind == "fragment":
            self._note.damaged += 1
            self._note.repaired += found.repaired
            self._keep()

    def _count_mended(self) -> None:
        self._note.repaired += 1
        self._keep()

    def _first(self) -> Committer:
        committers = self._committers()
        if not committers:
            raise Unavailable("no disk is open")
        return committers[0]

    def _load(self) -> None:
        try:
            note = self._first().disk.index.scrub_note()
            self._note = _decode(note) if note else Note()
        except (CfsError, msgspec.DecodeError) as error:
            _LOG.info("scrub_begins_anew", error=str(error))

    def _keep(self) -> None:
        self._first().disk.index.note_scrub(_encode(self._note))

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000
