"""An administrator's commands on quotas (`root.admin`): names, arguments, answers.

    quota_set      kind, id, name, bytes?, bytes_soft?, inodes?, inodes_soft?, grace_s?  -> job
    quota_remove   kind, id                                                              -> job
    quota_list     everybody?                                                            -> quotas
    quota_check                                                                          -> wrong

`kind` is 1 tree, 2 user, 3 group; `id` the inode of the tree's top, or the number. A limit left out
stays as it is; -1 is none. `job` is 0 when nothing has to be waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfs.core.api.quota import (
    NAMES,
    TREE,
    UNLIMITED,
    USER,
    Domain,
    GetQuota,
    GetQuotaReply,
    MakeRoom,
    MakeRoomReply,
)
from cfs.core.errors import CfsError, Malformed, Refused
from cfs.core.ids import ROOT_INO
from cfs.core.meta import totals
from cfs.core.root import quotas
from cfs.core.root.quotas import QuotaPhase, QuotaRecord
from cfs.fs.root.admin import Command
from cfs.fs.root.job_runner import Jobs
from cfs.fs.root.paths import Paths
from cfs.fs.root.quotas import Quotas
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.view import ClusterView
from cfs.net.handlers import Context, Handler

_Arguments = dict[str, Any]
_LIMITS = {
    "bytes": "bytes_hard",
    "bytes_soft": "bytes_soft",
    "inodes": "inodes_hard",
    "inodes_soft": "inodes_soft",
    "grace_s": "grace_s",
}
TRIES = 3
"""Counts of a shard that clients change meanwhile."""


class QuotaCommands:
    """Carries them out on the root leader."""

    def __init__(
        self, *, replica: RootReplica, view: ClusterView, jobs: Jobs, paths: Paths, worker: Quotas
    ) -> None:
        self._replica = replica
        self._view = view
        self._jobs = jobs
        self._paths = paths
        self._worker = worker
        self.table: Mapping[str, Command] = {
            "quota_set": Command(self._set, frozenset({"kind", "id", "name", *_LIMITS})),
            "quota_remove": Command(self._remove, frozenset({"kind", "id"})),
            "quota_list": Command(self._list, frozenset({"everybody"})),
            "quota_check": Command(self._check, frozenset()),
        }
        self.handlers: Mapping[str, Handler] = {
            "root.room": self._room,
            "root.quota": self._quota_of,
        }
        """Methods that shards' leaders and clients call."""

    async def _set(self, arguments: _Arguments, by: str) -> dict[str, Any]:
        domain = _domain(arguments)
        given = {_LIMITS[k]: v for k, v in arguments.items() if k in _LIMITS}
        if not all(isinstance(value, int) for value in given.values()):
            raise Malformed("limits are numbers")
        record = quotas.find(self._replica.state, domain)
        if record is None:
            name = arguments.get("name", "")
            first = QuotaPhase.MARKING if domain.kind == TREE else QuotaPhase.LIMITING
            record = QuotaRecord(domain=domain, name=name, phase=first)
            if domain.kind == TREE:
                await self._check_alone(domain.id)
        if record.phase == QuotaPhase.CLEARING:
            raise Refused(f"the quota of {record.name} is being removed; see cfs admin jobs")
        if not given and record.version == 0:
            raise Malformed("say what is limited: bytes, inodes, or soft limits")
        if record.phase == QuotaPhase.ACTIVE and not quotas.limits_something(record):
            given["phase"] = QuotaPhase.LIMITING  # clients do not know of it: as when it was new
        record = await self._worker.put(record, **given)
        if record.phase == QuotaPhase.ACTIVE:
            await self._worker.renew(record)
            return {"job": 0}
        return {"job": await self._job(domain, by)}

    async def _remove(self, arguments: _Arguments, by: str) -> dict[str, Any]:
        domain = _domain(arguments)
        record = quotas.require(self._replica.state, domain)
        for job in self._jobs.active("quota"):
            same = job.spec == {"kind": domain.kind, "id": domain.id}
            if same and record.phase != QuotaPhase.CLEARING:
                await self._jobs.control(job.number, state="cancelled")
        if record.phase != QuotaPhase.CLEARING:
            await self._worker.put(record, phase=QuotaPhase.CLEARING)
        return {"job": await self._job(domain, by)}

    async def _job(self, domain: Domain, by: str) -> int:
        for job in self._jobs.active("quota"):
            if job.spec == {"kind": domain.kind, "id": domain.id}:
                return job.number
        spec = {"kind": domain.kind, "id": domain.id}
        return await self._jobs.start("quota", spec, started_by=by)

    async def _check_alone(self, top: int) -> None:
        """Raise Refused when a tree would lie in another, or another in it."""
        mine = await self._above(top)
        for other in quotas.read_all(self._replica.state):
            if not quotas.is_tree(other):
                continue
            if other.domain.id in mine:
                raise Refused(f"{other.name} above it has a quota: quotas of trees do not nest")
            try:
                theirs = await self._above(other.domain.id)
            except CfsError:
                continue  # its top is gone
            if top in theirs:
                raise Refused(f"{other.name} in it has a quota: quotas of trees do not nest")

    async def _above(self, ino: int) -> set[int]:
        found = {ino}
        while ino != ROOT_INO:
            ino = (await self._paths.attributes(ino)).parent
            if ino in found or not ino:
                break
            found.add(ino)
        return found

    async def _list(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        records = {r.domain: r for r in quotas.read_all(self._replica.state)}
        used = await self._worker.used(list(records)) if records else {}
        if arguments.get("everybody"):
            used |= await self._everybody()
        rows = []
        for domain in sorted(used, key=lambda d: (d.kind, d.id)):
            record = records.get(domain)
            shown: dict[str, Any] = {}
            row = {"kind": NAMES[domain.kind], "id": domain.id, "bytes": used[domain][0],
                   "inodes": used[domain][1]}  # fmt: skip
            if record is not None:
                path, gone = record.name, False
                if domain.kind == TREE:
                    path = await self._paths.path_of(domain.id)
                    gone = not path.startswith("/")
                shown = {
                    "name": record.name if gone else path,
                    "gone": gone,
                    "state": record.phase.name.lower(),
                    "bytes_hard": record.bytes_hard,
                    "bytes_soft": record.bytes_soft,
                    "inodes_hard": record.inodes_hard,
                    "inodes_soft": record.inodes_soft,
                    "grace_s": record.grace_s,
                    "bytes_over_ms": record.bytes_over_ms,
                    "inodes_over_ms": record.inodes_over_ms,
                }
            rows.append(row | shown)
        return {"quotas": rows}

    async def _everybody(self) -> dict[Domain, tuple[int, int]]:
        found: dict[Domain, tuple[int, int]] = {}
        for shard in range(self._view.map.shard_count):
            for row in await self._counted(shard):
                before = found.get(row.domain, (0, 0))
                found[row.domain] = before[0] + row.bytes, before[1] + row.inodes
        return found

    async def _counted(self, shard: int) -> list[totals.UsageRow]:
        rows: list[totals.UsageRow] = []
        query = totals.UsagePage()
        while True:
            page: totals.UsageRows = await self._worker.ask(shard, query, totals.UsageRows)
            rows += page.rows
            if page.end:
                return rows
            query = totals.UsagePage(after=page.rows[-1].domain)

    # --- checking

    async def _check(self, _arguments: _Arguments, _by: str) -> dict[str, Any]:
        wrong: list[dict[str, Any]] = []
        inodes = 0
        for shard in range(self._view.map.shard_count):
            found, count = await self.check_shard(shard)
            wrong += found
            inodes += count
        return {"wrong": wrong, "inodes": inodes}

    async def check_shard(self, shard: int) -> tuple[list[dict[str, Any]], int]:
        """Count a shard's inodes afresh; give what its counters say otherwise, and how many.

        A shard that clients change is counted again; what is left of `TRIES` is said to be busy.
        """
        for _ in range(TRIES):
            first = await self._worker.ask(shard, totals.UsageOf(domains=()), totals.UsageRows)
            sums: dict[Domain, tuple[int, int]] = {}
            after, inodes, changes = 0, 0, first.changes
            while True:
                page = await self._worker.ask(
                    shard, totals.CountPage(after=after), totals.CountRows
                )
                for row in page.rows:
                    before = sums.get(row.domain, (0, 0))
                    sums[row.domain] = before[0] + row.bytes, before[1] + row.inodes
                    inodes += row.inodes if row.domain.kind == USER else 0
                after, changes = page.after, page.changes
                if not after:
                    break
            counted = {r.domain: (r.bytes, r.inodes) for r in await self._counted(shard)}
            last = await self._worker.ask(shard, totals.UsageOf(domains=()), totals.UsageRows)
            if not last.changes == changes == first.changes:
                continue
            return [
                _difference(shard, d, counted.get(d, (0, 0)), sums.get(d, (0, 0)))
                for d in sorted({*counted, *sums}, key=lambda d: (d.kind, d.id))
                if counted.get(d, (0, 0)) != sums.get(d, (0, 0))
            ], inodes
        return [{"shard": shard, "busy": True}], 0

    async def miscounted(self, shard: int) -> list[str]:
        """Say what a shard's counters say otherwise than its inodes."""
        wrong, _ = await self.check_shard(shard)
        return [
            f"{row['kind']} {row['id']} counts {row['counted']} (bytes, inodes) in shard {shard} "
            f"and has {row['found']}"
            for row in wrong
            if not row.get("busy")
        ]

    # --- what others ask

    async def _room(self, _context: Context, request: MakeRoom, _payload: Any) -> MakeRoomReply:
        self._replica.require()
        return MakeRoomReply(made=await self._worker.make_room(request))

    async def _quota_of(self, _context: Context, request: GetQuota, _payload: Any) -> GetQuotaReply:
        await self._replica.read()
        domain = Domain(TREE, request.tree)
        record = quotas.find(self._replica.state, domain)
        if record is None or record.phase != QuotaPhase.ACTIVE:
            return GetQuotaReply(bytes_max=UNLIMITED, inodes_max=UNLIMITED, bytes=0, inodes=0)
        count, inodes = (await self._worker.used([domain]))[domain]
        return GetQuotaReply(
            bytes_max=_shown(record.bytes_hard, record.bytes_soft),
            inodes_max=_shown(record.inodes_hard, record.inodes_soft),
            bytes=count,
            inodes=inodes,
        )


def _shown(hard: int, soft: int) -> int:
    return hard if hard != UNLIMITED else soft


def _difference(
    shard: int, domain: Domain, counted: tuple[int, int], found: tuple[int, int]
) -> dict[str, Any]:
    return {
        "shard": shard,
        "kind": NAMES[domain.kind],
        "id": domain.id,
        "counted": list(counted),
        "found": list(found),
    }


def _domain(arguments: _Arguments) -> Domain:
    kind, number = arguments.get("kind"), arguments.get("id")
    if kind not in NAMES or not isinstance(number, int) or number < 0:
        raise Malformed("a quota is of a tree (1), a user (2) or a group (3), by its number")
    return Domain(kind, number)
