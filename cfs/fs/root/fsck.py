"""The job `fsck`: does the namespace agree with itself, across all shards.

    spec    repair
    result  findings, inodes, names

One look goes through all names and then all inodes of every shard. Link counts need names of all
shards at once, so a look is cut into parts by inode number: `PART` inodes' counts are in memory at
a time. While clients work the looks of two moments may disagree, so what seems wrong is looked at
again after `AGAIN_S`, in a look over just those inodes, and counts only when it is just as wrong.

Found: names without an inode, or of another kind; inodes that no name leads to; wrong link counts
and directory sizes; removed inodes that are not reclaimed; extents that do not tile a file, or are
not counted; directories that do not lead to the root; shard totals; what quotas count. Repaired:
counts, names that lead nowhere, removed inodes. The rest needs a person: nothing is ever deleted to
make counts agree.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import trio

from cfs.core.api.methods import Internal
from cfs.core.api.scrub import Finding
from cfs.core.errors import CfsError, Malformed
from cfs.core.ids import ROOT_INO, Ino, ShardId, group_of, shard_of
from cfs.core.meta import check, queries
from cfs.core.meta import commands as shard_commands
from cfs.core.meta.results import Reclaimed
from cfs.core.root import commands, findings
from cfs.fs.root.ancestry import Ancestry
from cfs.fs.root.jobs import Job, JobContext, JobKind
from cfs.fs.root.paths import Paths
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.sweep import Shards
from cfs.fs.root.view import ClusterView
from cfs.net.ports import WallClock

PART = 500_000
"""Some 100 bytes each."""
SUSPECTS_MAX = 1000
AGAIN_S = 2.0
ASK_S = 10.0


Miscounted = Callable[[int], Awaitable[list[str]]]
"""Says what a shard's quotas count wrongly: `quota_commands.QuotaCommands.miscounted`."""


class Links(msgspec.Struct):
    """What names say of an inode."""

    names: int = 0
    entries: int = 0
    subdirectories: int = 0
    kind: int = 0


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with an inode; equal when it is just as wrong again."""

    ino: int
    what: str
    detail: str
    mend: shard_commands.Mend | shard_commands.DropEntry | shard_commands.Recount | None = None


class Look(msgspec.Struct):
    """What one look found, and went through."""

    faults: list[Fault] = []
    inodes: int = 0
    names: int = 0


class FsckJob:
    """Runs fsck on the root leader."""

    def __init__(
        self, *, replica: RootReplica, view: ClusterView, shards: Shards, paths: Paths,
        clock: WallClock, miscounted: Miscounted,
    ) -> None:  # fmt: skip
        self._miscounted = miscounted
        self._replica = replica
        self._view = view
        self._shards = shards
        self._paths = paths
        self._clock = clock
        self.kind = JobKind(
            name="fsck", run=self.run, unit="inodes", check=_check, key=lambda _spec: "fsck"
        )

    async def run(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Run it; begins anew after an interruption."""
        repair = bool(job.spec.get("repair"))
        totals = [await self._page(s, check.InodePage()) for s in self._shard_numbers()]
        context.total = sum(t.inodes for t in totals)
        context.done = 0
        parts = max(1, -(-context.total // PART))
        found = Look()
        for part in range(parts):
            context.message = f"names and inodes, part {part + 1} of {parts}"
            look = await self._look(
                lambda ino, p=part: ino % parts == p,  # type: ignore[misc]
                context,
                totals=part == 0,
            )
            found.faults += look.faults[: SUSPECTS_MAX - len(found.faults)]
            found.inodes += look.inodes
            found.names += look.names
        confirmed = await self._confirm(found.faults, context)
        mended = await self._report(confirmed, context, repair=repair)
        await self._replica.propose(
            commands.CloseFindings(kinds=("namespace",), before_ms=job.started_ms)
        )
        return {
            "findings": len(confirmed), "mended": mended, "inodes": found.inodes,
            "names": found.names,
        }  # fmt: skip

    # --- looking

    async def _look(
        self, chosen: Callable[[int], bool], context: JobContext | None, *, totals: bool = True
    ) -> Look:
        look = Look()
        links: dict[int, Links] = {}
        nowhere: dict[int, list[check.EntryRow]] = {}
        for shard in self._shard_numbers():
            after = b""
            while True:
                page = await self._entries(shard, check.EntryPage(after=after))
                _count(page.rows, chosen, links, look)
                await self._dangling(page.rows, chosen, nowhere)
                after = page.after
                if not after:
                    break
        for rows in nowhere.values():
            look.faults += [_nowhere(row) for row in rows]
        ancestry = Ancestry(self._parents)
        for shard in self._shard_numbers():
            await self._inodes(shard, chosen, links, look, ancestry, context, totals=totals)
            if totals:
                said = await self._miscounted(shard)
                again = shard_commands.Recount(begin=True)
                look.faults += [Fault(-1 - shard, "quotas", detail, again) for detail in said]
        return look

    async def _inodes(
        self, shard: int, chosen: Callable[[int], bool], links: dict[int, Links], look: Look,
        ancestry: Ancestry, context: JobContext | None, *, totals: bool,
    ) -> None:  # fmt: skip
        asked = check.InodePage()
        first: check.InodeRows | None = None
        count = allocated = carried = 0
        while True:
            page = await self._page(shard, asked)
            first = first or page
            directories = []
            for row in page.rows:
                carried += row.allocated
                if row.cut:
                    continue
                whole, carried = carried, 0
                count += 1
                allocated += whole
                if not chosen(row.ino):
                    continue
                look.inodes += 1
                look.faults += _judge(row, links.get(row.ino, Links()), whole)
                if stat.S_ISDIR(row.mode) and row.nlink:
                    directories.append((row.ino, row.parent))
            look.faults += [
                Fault(ino, "parents", "its parents do not lead to the root")
                for ino in await ancestry.strays(directories)
            ]
            if context is not None:
                context.advance(sum(1 for r in page.rows if not r.cut and chosen(r.ino)))
            if not page.after and not page.at:
                break
            asked = check.InodePage(after=page.after, at=page.at)
        quiet = first.changes == page.changes
        if totals and quiet and (count, allocated) != (page.inodes, page.logical_bytes):
            said = (f"shard {shard} counts {page.inodes} inodes and {page.logical_bytes} bytes, and"
                    f" has {count} and {allocated}")  # fmt: skip
            look.faults.append(Fault(-1 - shard, "totals", said))

    async def _dangling(
        self, rows: tuple[check.EntryRow, ...], chosen: Callable[[int], bool],
        nowhere: dict[int, list[check.EntryRow]],
    ) -> None:  # fmt: skip
        wanted: dict[int, list[int]] = {}
        for row in rows:
            if chosen(row.ino):
                wanted.setdefault(shard_of(Ino(row.ino)), []).append(row.ino)
        gone: set[int] = set()
        for shard, inos in wanted.items():
            query = check.EntriesOf(inos=tuple(inos))
            answer = await self._query(shard, query)
            gone.update(msgspec.msgpack.decode(answer, type=check.Missing).inos)
        for row in rows:
            if row.ino in gone and chosen(row.ino):
                nowhere.setdefault(row.ino, []).append(row)

    async def _confirm(self, faults: list[Fault], context: JobContext) -> list[Fault]:
        if not faults:
            return []
        context.message = f"looking again at {len(faults)} that seem wrong"
        await trio.sleep(AGAIN_S)
        suspects = {f.ino for f in faults}
        totals = any(f.ino < 0 for f in faults)
        again = await self._look(lambda ino: ino in suspects, None, totals=totals)
        still = set(again.faults)
        return [f for f in dict.fromkeys(faults) if f in still]

    # --- what becomes of it

    async def _report(self, faults: list[Fault], context: JobContext, *, repair: bool) -> int:
        names = await self._paths.names({f.ino for f in faults if f.ino > 0}) if faults else {}
        mended = 0
        rows: list[Finding] = []
        for fault in faults:
            said, repaired = fault.detail, False
            if repair and fault.mend is not None:
                try:
                    await self._mend(fault)
                    repaired = True
                    said += "; put right"
                except CfsError as error:
                    said += f"; cannot be put right now: {error}"
            mended += repaired
            where = names.get(fault.ino, "") if fault.ino > 0 else f"shard {-1 - fault.ino}"
            key = f"namespace {fault.ino} {fault.what}"
            rows.append(Finding(kind="namespace", key=key, where=where, detail=said,
                                repaired=repaired))  # fmt: skip
        for at in range(0, len(rows), findings.BATCH_MAX):
            batch = tuple(rows[at : at + findings.BATCH_MAX])
            now_ms = self._clock.time_ns() // 1_000_000
            await self._replica.propose(commands.NoteFindings(findings=batch, now_ms=now_ms))
        context.findings = len(faults)
        return mended

    async def _mend(self, fault: Fault) -> None:
        command = fault.mend
        if isinstance(command, shard_commands.Recount):
            group = group_of(ShardId(-1 - fault.ino))
            done = False
            while not done:
                reply = await self._shards.command(group, command, timeout_s=ASK_S)
                assert isinstance(reply, Reclaimed)
                command, done = shard_commands.Recount(begin=False), reply.done
            return
        assert command is not None
        ino = command.ino if isinstance(command, shard_commands.Mend) else command.parent
        await self._shards.command(group_of(shard_of(Ino(ino))), command, timeout_s=ASK_S)

    # --- asking

    def _shard_numbers(self) -> Iterator[int]:
        return iter(range(self._view.map.shard_count))

    async def _parents(self, inos: list[int]) -> dict[int, int]:
        """Give the parents of directories; those that are gone are left out."""
        found: dict[int, int] = {}
        for ino in inos:
            try:
                found[ino] = (await self._paths.attributes(ino)).parent
            except CfsError:
                continue
        return found

    async def _entries(self, shard: int, query: check.EntryPage) -> check.EntryRows:
        return msgspec.msgpack.decode(await self._query(shard, query), type=check.EntryRows)

    async def _page(self, shard: int, query: check.InodePage) -> check.InodeRows:
        return msgspec.msgpack.decode(await self._query(shard, query), type=check.InodeRows)

    async def _query(self, shard: int, query: queries.Query) -> bytes:
        group = group_of(ShardId(shard))
        request = Internal(group=group, command=queries.encode(query), read=True)
        reply = await self._shards.call(group, "meta.internal", request, timeout_s=ASK_S)
        answer: bytes = reply.result
        return answer


def _count(
    rows: tuple[check.EntryRow, ...], chosen: Callable[[int], bool], links: dict[int, Links],
    look: Look,
) -> None:  # fmt: skip
    for row in rows:
        if chosen(row.ino):
            seen = links.setdefault(row.ino, Links())
            seen.names += 1
            seen.kind = row.kind
            look.names += 1
        if chosen(row.parent):
            above = links.setdefault(row.parent, Links())
            above.entries += 1
            above.subdirectories += row.kind == stat.S_IFDIR


def _nowhere(row: check.EntryRow) -> Fault:
    name = row.name.decode(errors="backslashreplace")
    detail = f"the name {name} in directory {row.parent} leads to inode {row.ino}, which is not"
    command = shard_commands.DropEntry(parent=row.parent, name=row.name, ino=row.ino)
    return Fault(row.ino, f"name {row.parent} {name}", detail, command)


def _judge(row: check.InodeRow, seen: Links, allocated: int) -> Iterator[Fault]:
    """Yield what is wrong with an inode."""
    if row.said:
        yield Fault(row.ino, "extents", row.said)
    elif stat.S_ISREG(row.mode) and row.held != allocated:
        said = f"it counts {row.held} bytes allocated and has {allocated}"
        yield Fault(row.ino, "allocated", said)
    if seen.names and seen.kind != stat.S_IFMT(row.mode):
        yield Fault(row.ino, "kind", "its name says it is of another kind")
    directory = stat.S_ISDIR(row.mode)
    size = seen.entries if directory else row.size
    nlink = 2 + seen.subdirectories if directory else seen.names
    if row.ino != ROOT_INO and not seen.names:
        if row.nlink:
            yield Fault(row.ino, "lost", f"no name leads to it, and it counts {row.nlink} links")
            return
        nlink = 0
    if (row.nlink, row.size) != (nlink, size):
        said = f"it counts {row.nlink} links and has {nlink}"
        if directory:
            said += f"; it counts {row.size} entries and has {size}"
        yield Fault(row.ino, "links", said, _mend(row, nlink, size))
    elif not row.nlink and not row.orphan:
        yield Fault(row.ino, "orphan", "it has no name and is not noted as such",
                    _mend(row, 0, size))  # fmt: skip


def _mend(row: check.InodeRow, nlink: int, size: int) -> shard_commands.Mend:
    return shard_commands.Mend(
        ino=row.ino, nlink_was=row.nlink, size_was=row.size, nlink=nlink, size=size
    )


def _check(spec: dict[str, Any]) -> None:
    if set(spec) - {"repair"}:
        raise Malformed(f"fsck takes no {', '.join(sorted(set(spec) - {'repair'}))}")
