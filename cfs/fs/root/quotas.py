"""Shares quotas out among shards, watches soft limits: a worker of the root leader.

A limit comes into force while every shard is held still (as for a snapshot): then no client holds
bytes back, and whoever begins to write again hears of the limit with its lease. From then on each
shard has its *cap*, and what it may use is decided there alone; a shard that wants more asks here
(`make_room`), and caps move: lowered first, then raised, so that together they never pass the
limit. What is in flight of an earlier root leader is refused by its term.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog
import trio

from cfs.core.api.methods import Internal
from cfs.core.api.quota import UNLIMITED, Domain, MakeRoom, Want
from cfs.core.errors import CfsError, Refused, Retryable, Unavailable
from cfs.core.ids import ShardId, group_of
from cfs.core.meta import commands as shard_commands
from cfs.core.meta import queries, totals
from cfs.core.meta.quota_commands import Cap
from cfs.core.meta.results import Capped, CappedRow
from cfs.core.root import quotas
from cfs.core.root.quotas import PutQuota, QuotaPhase, QuotaRecord
from cfs.core.root.records import get_counters
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.sweep import Shards
from cfs.fs.root.view import ClusterView
from cfs.fs.root.workers import Worker
from cfs.net.ports import WallClock
from cfs.net.tasks import run_all

_LOG = structlog.get_logger()

LOOK_S = 1.0
ASK_S = 8.0
SHARDS_AT_ONCE = 64
STILL_BASE = 1 << 40
"""Above every snapshot's epoch: what shards are held still for is told apart by that number."""

HoldStill = Callable[[int, Callable[[], Awaitable[None]]], Awaitable[None]]


class Quotas:
    """The quotas' worker."""

    def __init__(
        self, *, replica: RootReplica, view: ClusterView, shards: Shards, clock: WallClock,
        hold_still: HoldStill, worker: Worker,
    ) -> None:  # fmt: skip
        self._replica = replica
        self._view = view
        self._shards = shards
        self._clock = clock
        self._hold_still = hold_still
        self._worker = worker
        self._sharing = trio.Lock()
        self._in_force: dict[Domain, tuple[int, int]] = {}

    # --- records

    async def put(self, record: QuotaRecord, **changes: Any) -> QuotaRecord:
        """Change a record (`version` 0: make it); give it as it is then."""
        record = msgspec.structs.replace(record, **changes)
        await self._replica.propose(PutQuota(record=record, was=record.version))
        return quotas.require(self._replica.state, record.domain)

    # --- in and out of force

    async def enforce(self, record: QuotaRecord) -> QuotaRecord:
        """Bring a quota that is being limited into force. Raises Retryable."""
        version = get_counters(self._replica.state).quota_version
        epoch = STILL_BASE + version
        limits = quotas.limits(record, self._now_ms())

        async def set_caps() -> None:
            async with self._sharing:
                rows = await self._set(record.domain, [Cap(domain=record.domain)] * self._count)
                caps = _caps(record.domain, limits, rows)
                await self._set(record.domain, caps, version=version, epoch=epoch)

        try:
            await self._hold_still(epoch, set_caps)
        except Refused as error:
            raise Unavailable(str(error)) from error
        return await self.put(record, phase=QuotaPhase.ACTIVE)

    async def lift(self, domain: Domain) -> None:
        """Take a domain's caps away."""
        async with self._sharing:
            version = get_counters(self._replica.state).quota_version
            cap = Cap(domain=domain, bytes=UNLIMITED, inodes=UNLIMITED)
            await self._set(domain, [cap] * self._count, version=version)

    async def make_room(self, request: MakeRoom) -> bool:
        """Move caps to a shard that wants more; tell whether it has all of it."""
        made = True
        for want in request.wants:
            async with self._sharing:
                record = quotas.find(self._replica.state, want.domain)
                if record is None or record.phase in {QuotaPhase.MARKING, QuotaPhase.CLEARING}:
                    continue
                if record.phase == QuotaPhase.LIMITING:
                    raise Unavailable(f"the quota of {record.name} is just being set")
                if not await self._has_room(record, want):
                    made = False  # seen without an entry in any log: who is refused may ask often
                    continue
                rows = await self._share(record, request.shard, want)
                made = made and _suffices(rows[request.shard], want)
        return made

    async def _has_room(self, record: QuotaRecord, want: Want) -> bool:
        taken = inodes = 0
        query = totals.UsageOf(domains=(record.domain,))
        for answer in await self._ask(query, totals.UsageRows):
            taken += answer.rows[0].bytes + answer.rows[0].held
            inodes += answer.rows[0].inodes
        limits = quotas.limits(record, self._now_ms())
        return (limits[0] == UNLIMITED or not want.bytes or taken + want.bytes <= limits[0]) and (
            limits[1] == UNLIMITED or not want.inodes or inodes + want.inodes <= limits[1]
        )

    async def renew(self, record: QuotaRecord) -> None:
        """Share a quota out anew, as after a change of its limits."""
        async with self._sharing:
            await self._share(record, -1, None)

    async def _share(
        self, record: QuotaRecord, shard: int, want: Want | None
    ) -> Sequence[CappedRow]:
        domain = record.domain
        limits = quotas.limits(record, self._now_ms())
        keep = [Cap(domain=domain)] * self._count
        rows = await self._set(domain, keep)
        wanted = _caps(domain, limits, rows, shard, want)
        lowered = [
            Cap(
                domain=domain,
                bytes=_lower(row.cap_bytes, cap.bytes),
                inodes=_lower(row.cap_inodes, cap.inodes),
            )
            for row, cap in zip(rows, wanted, strict=True)
        ]
        rows = await self._set(domain, lowered, known=rows)
        by_bytes = quotas.raised(limits[0], [r.cap_bytes for r in rows], [c.bytes for c in wanted])
        by_inodes = quotas.raised(
            limits[1], [r.cap_inodes for r in rows], [c.inodes for c in wanted]
        )
        caps = [
            Cap(domain=domain, bytes=b, inodes=i) for b, i in zip(by_bytes, by_inodes, strict=True)
        ]
        rows = await self._set(domain, caps, known=rows)
        self._in_force[domain] = limits  # only now: what failed half-way is shared out again
        return rows

    # --- what is used

    async def used(self, domains: Sequence[Domain]) -> dict[Domain, tuple[int, int]]:
        """Give bytes and inodes that domains use in all shards."""
        found = dict.fromkeys(domains, (0, 0))
        query = totals.UsageOf(domains=tuple(domains))
        for answer in await self._ask(query, totals.UsageRows):
            for row in answer.rows:
                count, inodes = found[row.domain]
                found[row.domain] = count + row.bytes, inodes + row.inodes
        return found

    # --- the worker

    async def run(self) -> None:
        """Watch soft limits until cancelled."""
        self._in_force.clear()
        while True:
            try:
                await self._look()
                self._worker.last_error = ""
            except CfsError as error:
                self._worker.last_error = str(error)
                if not isinstance(error, Retryable):
                    _LOG.warning("quotas_failed", error=str(error))
            await trio.sleep(LOOK_S)

    async def _look(self) -> None:
        active = [r for r in quotas.read_all(self._replica.state) if r.phase == QuotaPhase.ACTIVE]
        self._worker.state = "watching" if active else "idle"
        soft = [r for r in active if (r.bytes_soft, r.inodes_soft) != (UNLIMITED, UNLIMITED)]
        if not soft:
            return
        used = await self.used([r.domain for r in soft])
        now_ms = self._now_ms()
        for record in soft:
            after = quotas.noted(record, used[record.domain], now_ms)
            if after != record:
                after = await self.put(after)
                _LOG.info("quota_soft", of=record.name, over=bool(after.bytes_over_ms))
            if quotas.limits(after, now_ms) != self._in_force.get(record.domain):
                await self.renew(after)

    # --- asking shards

    @property
    def _count(self) -> int:
        return self._view.map.shard_count

    async def _set(
        self, domain: Domain, caps: Sequence[Cap], *, version: int = 0, epoch: int = 0,
        known: Sequence[CappedRow] = (),
    ) -> Sequence[CappedRow]:  # fmt: skip
        """Set one domain's caps in all shards; give what is so then, by shard.

        Shards where they are as they shall be by what is `known` are not asked.
        """
        rows = {n: row for n, row in enumerate(known) if _as_wanted(row, caps[n])}
        base = get_counters(self._replica.state).quota_base
        term = base + self._replica.require().term

        async def one(shard: int) -> None:
            if shard in rows:
                return
            command = shard_commands.SetCaps(
                term=term, caps=(caps[shard],), version=version, epoch=epoch
            )
            group = group_of(ShardId(shard))
            try:
                result = await self._shards.command(group, command, timeout_s=ASK_S)
            except Refused as error:
                await self._outdo(error, term - base)
                raise
            assert isinstance(result, Capped)
            assert result.rows[0].domain == domain
            rows[shard] = result.rows[0]

        await self._everywhere(one)
        return [rows[shard] for shard in range(self._count)]

    async def _outdo(self, error: Refused, term: int) -> None:
        """After a restore shards may remember a later term than this leader's: go beyond it.

        That this can be proposed proves that there is no later leader.
        """
        later = error.detail.get("quota_term")
        if later is not None:
            await self._replica.propose(quotas.RaiseTerm(base=later + 1 - term))
            raise Unavailable("shards knew a later leader; try again") from error

    async def _ask(self, query: queries.Query, kind: type[Any]) -> list[Any]:
        answers: dict[int, Any] = {}

        async def one(shard: int) -> None:
            answers[shard] = await self.ask(shard, query, kind)

        await self._everywhere(one)
        return [answers[shard] for shard in range(self._count)]

    async def ask(self, shard: int, query: queries.Query, kind: type[Any]) -> Any:
        """Have a shard answer a question."""
        group = group_of(ShardId(shard))
        request = Internal(group=group, command=queries.encode(query), read=True)
        reply = await self._shards.call(group, "meta.internal", request, timeout_s=ASK_S)
        return msgspec.msgpack.decode(reply.result, type=kind)

    async def _everywhere(self, ask: Callable[[int], Awaitable[None]]) -> None:
        await run_all(ask, range(self._count), at_once=SHARDS_AT_ONCE)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _caps(
    domain: Domain, limits: tuple[int, int], rows: Sequence[CappedRow], shard: int = -1,
    want: Want | None = None,
) -> list[Cap]:  # fmt: skip
    need = (0, 0) if want is None else (want.bytes, want.inodes)
    by_bytes = quotas.share(limits[0], [r.bytes + r.held for r in rows], shard, need[0])
    by_inodes = quotas.share(limits[1], [r.inodes + r.promised for r in rows], shard, need[1])
    return [Cap(domain=domain, bytes=b, inodes=i) for b, i in zip(by_bytes, by_inodes, strict=True)]


def _as_wanted(row: CappedRow, cap: Cap) -> bool:
    return (row.cap_bytes, row.cap_inodes) == (cap.bytes, cap.inodes)


def _lower(before: int, wanted: int) -> int:
    """Give a cap that is not above what is in force."""
    if UNLIMITED in {before, wanted}:
        return wanted if before == UNLIMITED else before
    return min(before, wanted)


def _suffices(row: CappedRow, want: Want) -> bool:
    bytes_left = row.cap_bytes - row.bytes - row.held
    inodes_left = row.cap_inodes - row.inodes - row.promised
    return (row.cap_bytes == UNLIMITED or bytes_left >= want.bytes) and (
        row.cap_inodes == UNLIMITED or inodes_left >= want.inodes
    )
