"""The job `quota`: brings a quota into force, or takes it away.

    spec    kind, id, clear
    result  marked

A tree is walked first, from its top down, and what is in it marked as belonging to it; see
`cfs.core.meta.limiting` for why nothing is missed while others work in it. The cursor is the way
from the top to where the walk is, so whoever goes on goes on there; what was marked stays.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.api.quota import TREE, Domain
from cfs.core.errors import Malformed, Refused
from cfs.core.ids import Ino, group_of, shard_of
from cfs.core.meta import commands as shard_commands
from cfs.core.meta.results import Marked
from cfs.core.root import quotas
from cfs.core.root.quotas import ForgetQuota, QuotaPhase
from cfs.fs.root.jobs import Job, JobContext, JobKind
from cfs.fs.root.quotas import Quotas
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.sweep import Shards

MARK_S = 60.0
"""One page: whoever works in the directory gives it back first."""
DEPTH_MAX = 2000
"""A cursor is kept below its bound."""


class _Place(msgspec.Struct, array_like=True):
    """A directory of the walk, and the last name that was looked at there."""

    ino: int
    hash58: int = 0
    slot: int = -1


class QuotaJob:
    """Runs it on the root leader."""

    def __init__(self, *, replica: RootReplica, shards: Shards, worker: Quotas) -> None:
        self._replica = replica
        self._shards = shards
        self._worker = worker
        self.kind = JobKind(name="quota", run=self.run, unit="inodes", check=_check, key=_key)

    async def run(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Run it."""
        domain = Domain(job.spec["kind"], job.spec["id"])
        record = quotas.require(self._replica.state, domain)
        if record.phase == QuotaPhase.MARKING:
            await self._walk(context, domain.id, project=domain.id, was=0)
            record = await self._worker.put(record, phase=QuotaPhase.LIMITING)
        if record.phase == QuotaPhase.LIMITING:
            context.message = "telling shards and clients"
            await self._worker.enforce(record)
        elif record.phase == QuotaPhase.CLEARING:
            await self._worker.lift(domain)
            if domain.kind == TREE:
                await self._walk(context, domain.id, project=0, was=domain.id)
            await self._replica.propose(ForgetQuota(domain=domain))
        return {"marked": context.done}

    async def _walk(self, context: JobContext, top: int, *, project: int, was: int) -> None:
        way = [_Place(top)]
        if context.cursor:
            way = msgspec.msgpack.decode(context.cursor, type=list[_Place])
        while way:
            place = way[-1]
            command = shard_commands.MarkTree(
                ino=place.ino, project=project, was=was, hash58=place.hash58, slot=place.slot
            )
            group = group_of(shard_of(Ino(place.ino)))
            page = await self._shards.command(group, command, timeout_s=MARK_S)
            assert isinstance(page, Marked)
            if page.end:
                way.pop()
            else:
                place.hash58, place.slot = page.hash58, page.slot
                if page.ino:
                    if len(way) >= DEPTH_MAX:
                        raise Refused(f"directory {page.ino} lies deeper than {DEPTH_MAX} levels")
                    way.append(_Place(page.ino))
            context.advance(page.marked, cursor=msgspec.msgpack.encode(way))
            context.message = f"{len(way)} levels deep"


def _key(spec: dict[str, Any]) -> str:
    return f"quota {spec.get('kind')} {spec.get('id')}"


def _check(spec: dict[str, Any]) -> None:
    if set(spec) != {"kind", "id"} or not all(isinstance(v, int) for v in spec.values()):
        raise Malformed("a quota job is started by cfs quota set and cfs quota remove")
