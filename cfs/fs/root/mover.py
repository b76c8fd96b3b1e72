"""Replaces members of placement groups, a batch at a time (`cfs.core.root.moves`: the states).

    copying    list what everybody holds; the target fetches what it lacks (copied, or rebuilt)
    switch     the list names the target: the map shows it, storage nodes require its epoch
    seal       every member that answers has that map on disk, and is done with older writes
    final      list again; the target fetches what came meanwhile
    prove      the target reads back every fragment of the source, the source drops what matches
    end

Every state is in the root group, so another leader goes on wherever this one stopped, and each step
may be done again. One batch is under way at a time. When a target goes down before the switch, the
move is given up; after it, the move waits, and turns back once that node is out: the source drops
nothing before it is proven elsewhere. A source that does not answer is done without: what it held
is rebuilt from the others, and it is tidied when it comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog
import trio

from cfs.core.api.cluster import NodeState
from cfs.core.errors import Unavailable
from cfs.core.place import repair
from cfs.core.root import commands, records
from cfs.core.root.commands import Replacement
from cfs.core.root.records import MoveRecord, PlacementRecord
from cfs.fs.root.fragments import Fragments, Listing, Wanted
from cfs.fs.root.jobs import JobContext
from cfs.fs.root.replica import RootReplica

_LOG = structlog.get_logger()

_Moves = dict[int, MoveRecord]


class Mover:
    """Carries moves out."""

    def __init__(self, *, replica: RootReplica, fragments: Fragments) -> None:
        self._replica = replica
        self._fragments = fragments
        self._turn = trio.Lock()
        self._lists: tuple[int, list[PlacementRecord]] = (-1, [])

    def lists(self) -> list[PlacementRecord]:
        """Read every placement list; a copy that is the caller's.

        Kept until placement changes: reading 1024 records takes some milliseconds.
        """
        state = self._replica.state
        epoch = records.get_counters(state).placement_epoch
        if self._lists[0] != epoch:
            found = records.get_all(state, PlacementRecord, records.PLACEMENT_PREFIX)
            self._lists = epoch, found
        return list(self._lists[1])

    def open_moves(self) -> _Moves:
        """Read the moves that are under way, by group."""
        lists = enumerate(self.lists())
        return {number: r.move for number, r in lists if r.move is not None}

    async def move(self, context: JobContext, wanted: Sequence[Replacement]) -> None:
        """Begin moves and take them, and those begun earlier, as far as they go."""
        async with self._turn:
            if wanted:
                await self._replica.propose(commands.BeginMoves(moves=tuple(wanted)))
            await self._advance(context)

    async def settle(self, context: JobContext) -> None:
        """Take moves that were begun as far as they go."""
        await self.move(context, ())

    async def complete(
        self, context: JobContext, node: int, groups: Iterable[int]
    ) -> dict[int, str]:
        """Have a member hold all it should of these groups; give what failed, by group."""
        async with self._turn:
            known = self.lists()
            lists = {g: known[g].members for g in groups if node in known[g].members}
            listing = await self._fragments.listing(lists)
            wanted: list[Wanted] = []
            failed: dict[int, str] = {}
            for group, members in lists.items():
                found = await self._lacking(
                    context, listing, group, members, members.index(node), 0
                )
                if isinstance(found, str):
                    failed[group] = found
                else:
                    wanted += found
            return failed | await self._fragments.fetch(context, {node: wanted})

    # --- one round over all open moves

    async def _advance(self, context: JobContext) -> None:
        await self._settle_targets()
        copying = {g: m for g, m in self.open_moves().items() if not m.switched}
        if copying:
            context.message = f"copying {len(copying)} groups"
            failed = await self._copy(context, copying)
            for group, why in failed.items():
                context.last_error = f"placement group {group}: {why}"
            if failed:
                await self._replica.propose(commands.EndMoves(groups=tuple(failed)))
            ready = tuple(g for g in copying if g not in failed)
            if ready:
                await self._replica.propose(commands.SwitchMoves(groups=ready))
        switched = {
            g: m
            for g, m in self.open_moves().items()
            if m.switched and self._fragments.answers(m.target)
        }
        if switched:
            await self._finish(context, switched)

    async def _settle_targets(self) -> None:
        """Give up or turn back moves whose target is gone."""
        given_up: list[int] = []
        turned: list[int] = []
        for group, move in self.open_moves().items():
            if self._fragments.answers(move.target):
                continue
            if not move.switched:
                given_up.append(group)
            elif self._is_out(move.target) and self._fragments.answers(move.source):
                turned.append(group)
            elif self._is_out(move.target):
                given_up.append(group)  # both are gone: repair begins anew
        if given_up:
            _LOG.info("moves_given_up", groups=len(given_up))
            groups = tuple(given_up)
            await self._replica.propose(commands.EndMoves(groups=groups, unproven=groups))
        if turned:
            _LOG.info("moves_turned", groups=len(turned))
            await self._replica.propose(commands.TurnMoves(groups=tuple(turned)))

    async def _finish(self, context: JobContext, switched: _Moves) -> None:
        lists = self.lists()
        epoch = max(lists[g].epoch for g in switched)
        context.message = f"sealing {len(switched)} groups"
        parties = {n for g, m in switched.items() for n in (*lists[g].members, m.source)}
        await self._fragments.seal(parties, epoch)
        context.message = f"proving {len(switched)} groups"
        failed = await self._copy(context, switched)
        by_source: dict[int, list[int]] = {}
        for group, move in switched.items():
            if group not in failed:
                by_source.setdefault(move.source, []).append(group)
        done: list[int] = []
        unproven: list[int] = []
        for source, groups in by_source.items():
            done += groups
            members = {g: lists[g].members for g in groups}
            if await self._stays(context, source, members):
                unproven += groups
        if done:
            await self._replica.propose(
                commands.EndMoves(groups=tuple(done), unproven=tuple(unproven))
            )
        if failed:
            group, why = next(iter(failed.items()))
            raise Unavailable(f"{len(failed)} groups are not whole yet, group {group}: {why}")

    async def _stays(
        self, context: JobContext, source: int, members: dict[int, tuple[int, ...]]
    ) -> bool:
        """Have a source drop what is proven elsewhere; tell whether it may still hold something."""
        if not self._fragments.answers(source):
            return True
        return bool(await self._fragments.evict(context, source, members))

    async def _copy(self, context: JobContext, moves: _Moves) -> dict[int, str]:
        """Have every target hold what it should; give the groups where that failed, and why."""
        known = self.lists()
        lists: dict[int, tuple[int, ...]] = {}
        parties: dict[int, tuple[int, ...]] = {}
        for group, move in moves.items():
            members = list(known[group].members)
            members[move.position] = move.target
            lists[group] = tuple(members)
            parties[group] = (*members, move.source)
        listing = await self._fragments.listing(parties)
        wanted: dict[int, list[Wanted]] = {}
        failed: dict[int, str] = {}
        for group, move in moves.items():
            found = await self._lacking(
                context, listing, group, lists[group], move.position, move.source
            )
            if isinstance(found, str):
                failed[group] = found
            else:
                wanted.setdefault(move.target, []).extend(found)
        return failed | await self._fragments.fetch(context, wanted)

    async def _lacking(
        self,
        context: JobContext,
        listing: Listing,
        group: int,
        members: tuple[int, ...],
        position: int,
        source: int,
    ) -> list[Wanted] | str:
        """List what the member at `position` lacks; a string says why that cannot be had now."""
        wanted: list[Wanted] = []
        hopeless: list[bytes] = []
        answers = self._fragments.answers(source)
        for segment, copies in listing[group].items():
            for index in repair.lacking(copies, members, position, source, source_answers=answers):
                if repair.is_hopeless(copies, index):
                    hopeless.append(segment)
                else:
                    wanted.append((group, repair.fetch_of(copies, index)))
        if hopeless:
            garbage = await self._fragments.garbage(hopeless)
            lost = [s for s in hopeless if s not in garbage]
            silent = [n for n in members if not self._fragments.answers(n)]
            if lost and silent:
                names = ", ".join(self._fragments.name_of(n) for n in silent)
                return f"{len(lost)} segments need {names}: start it"
            await self._fragments.note_lost(context, lost)
        return wanted

    def _is_out(self, node_id: int) -> bool:
        known = next((r.node for r in self._replica.nodes() if r.node.node_id == node_id), None)
        return known is None or known.state == NodeState.OUT
