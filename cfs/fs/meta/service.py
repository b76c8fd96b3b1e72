"""The metadata service of a node: every `meta.*` method, for the shards this node leads.

A shard is served from the moment its replica here leads and has applied everything of earlier
terms, until it stops leading; what is volatile (leases, latches) lives and dies with that term.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.cluster import Role
from cfs.core.api.insight import GetHolders
from cfs.core.api.layout import Layouts
from cfs.core.api.locking import LockGraph, LockGraphReply
from cfs.core.api.meta import Lease
from cfs.core.api.methods import Internal, InternalReply
from cfs.core.api.quota import GetLimits
from cfs.core.api.snapshots import Stage, TakePart
from cfs.core.api.trash import ListTrash, PurgeTrash
from cfs.core.errors import Malformed, Retryable, Unavailable
from cfs.core.ids import ROOT_GROUP, GroupId, Ino, ShardId, group_of, shard_of, shard_of_group
from cfs.core.meta import commands, keys, queries, read, results
from cfs.fs.meta import layouts, lock_graph, participant, past, trash
from cfs.fs.meta.holders import holders
from cfs.fs.meta.host import Group, Host
from cfs.fs.meta.leases import Session
from cfs.fs.meta.led import LedShard, MustWaitError, not_led
from cfs.fs.meta.mutation import Mutations
from cfs.fs.meta.participant import NOBODY
from cfs.fs.meta.readers import check_reader
from cfs.fs.meta.reaper import reap
from cfs.fs.meta.transact import Transactions
from cfs.net.handlers import Context, Handler
from cfs.net.ports import WallClock

_LOG = structlog.get_logger()

ROOT_SHARD = 0


class MetaService:
    """Serves clients on behalf of the shards led here."""

    def __init__(
        self,
        *,
        host: Host,
        clock: WallClock,
        shard_count: Callable[[], int],
        workers: Sequence[Callable[[LedShard], Awaitable[None]]] = (),
    ) -> None:
        self.transactions = Transactions(shard_count=shard_count, led=self.led)
        self._host = host
        self._clock = clock
        self._mutations = Mutations(self.transactions)
        self._shard_count = shard_count
        self._workers = (
            reap,
            self.transactions.recover,
            self._watch_locks,
            self._empty_trash,
            *workers,
        )
        self._led: dict[int, tuple[LedShard, trio.CancelScope]] = {}
        self._wake = trio.Event()
        self.handlers: Mapping[str, Handler] = {
            "meta.mutate": self._mutate,
            "meta.lookup": self._lookup,
            "meta.getattr": self._getattr,
            "meta.readdir": self._readdir,
            "meta.layout": self._layout,
            "meta.layouts": self._layouts,
            "meta.getxattr": self._getxattr,
            "meta.listxattr": self._listxattr,
            "meta.statfs": self._statfs,
            "meta.getlock": self._getlock,
            "meta.lockwait": self._lockwait,
            "meta.lockgraph": self._lockgraph,
            "meta.session": self._session,
            "meta.renew": self._renew,
            "meta.internal": self._internal,
            "meta.holders": self._holders,
            "meta.snapshot": self._snapshot,
            "meta.trash": self._trash,
            "meta.purge": self._purge,
            "meta.limits": self._limits,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow leadership until cancelled."""
        watched: set[int] = set()
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._wake = trio.Event()
                for number, group in list(self._host.groups.items()):
                    if number == ROOT_GROUP:
                        continue
                    if number not in watched:
                        watched.add(number)
                        group.watch(lambda _group: self._wake.set())
                    self._follow(nursery, group)
                with trio.move_on_after(1.0):
                    await self._wake.wait()

    def led(self, shard: int) -> LedShard:
        """Give the led shard. Raises NotLeader."""
        led = self._led.get(shard)
        if led is None or not led[0].group.is_leader:
            raise not_led(shard, self._host.groups.get(group_of(ShardId(shard))))
        if led[0].group.state.get(keys.STATE) is None:
            raise Unavailable(f"shard {shard} is being made; try again")
        return led[0]

    def shards_led(self) -> list[LedShard]:
        """List the shards that are served here now."""
        return [led for led, _ in self._led.values() if led.group.is_leader]

    # --- leadership

    def _follow(self, nursery: trio.Nursery, group: Group) -> None:
        shard = shard_of_group(GroupId(group.group))
        current = self._led.get(shard)
        leads = group.is_leader and group.ready
        if current and not (leads and current[0].term == group.term):
            del self._led[shard]
            current[1].cancel()
            _LOG.info("shard_left", shard=shard, leader=group.leader)
            current = None
        if leads and current is None:
            scope = trio.CancelScope()
            led = LedShard(
                shard=shard, group=group, clock=self._clock, resolve=self.transactions.resolve
            )
            self._led[shard] = (led, scope)
            nursery.start_soon(self._serve_term, led, scope)
            _LOG.info("shard_led", shard=shard, term=group.term)

    async def _serve_term(self, led: LedShard, scope: trio.CancelScope) -> None:
        with scope:
            try:
                if led.group.state.get(keys.STATE) is None:
                    await led.propose(commands.InitShard(root=led.shard == ROOT_SHARD))
                await led.run(*self._workers)
            except Retryable as error:
                # leadership ended under it, or is about to: `_follow` looks again
                _LOG.info("shard_term_ended", shard=led.shard, error=str(error))
                if self._led.get(led.shard, (None,))[0] is led:
                    del self._led[led.shard]

    # --- handlers

    async def _mutate(
        self, context: Context, request: meta.Mutate, _payload: Any
    ) -> meta.MutateReply:
        if context.peer.role == Role.READER:
            check_reader(request.ops)
        return await self._mutations.run(self.led(request.shard), context.peer, request)

    def _lookup(self, context: Context, request: meta.Lookup, _payload: Any) -> Any:
        led = self.led(request.shard)
        if request.snapshot:
            return led.serve_read(functools.partial(past.lookup, led.group, request))
        session = _session(led, request.session, context)
        return led.serve_read(functools.partial(_lookup_now, led, session, request))

    def _getattr(self, context: Context, request: meta.GetAttr, _payload: Any) -> Any:
        led = self.led(request.shard)
        if request.snapshot:
            return led.serve_read(functools.partial(past.attributes, led.group, request))
        session = _session(led, request.session, context)

        def now() -> meta.GetAttrReply:
            led.check_pinnable(request.ino, request.lease)
            led.check_readable(request.session, (request.ino,))
            attr = read.attr(led.group.state, request.ino)
            lease = led.grant(session, request.ino, request.lease)
            return meta.GetAttrReply(at=led.group.applied, attr=attr, lease=lease)

        return led.serve_read(now)

    def _readdir(self, context: Context, request: meta.ReadDir, _payload: Any) -> Any:
        led = self.led(request.shard)
        if request.snapshot:
            return led.serve_read(functools.partial(past.listing, led.group, request))
        session = _session(led, request.session, context)
        return led.serve_read(functools.partial(_readdir_now, led, session, request))

    def _layout(self, context: Context, request: meta.Layout, _payload: Any) -> Any:
        led = self.led(request.shard)
        session = _session(led, request.session, context)

        if request.offset < 0 or request.length < 0:
            raise Malformed("a layout begins at an offset and has a length, none below zero")
        if request.snapshot:
            return led.serve_read(functools.partial(past.layout, led.group, request))
        return led.serve_read(functools.partial(layouts.layout, led, session, request))

    def _layouts(self, context: Context, request: Layouts, _payload: Any) -> Any:
        led = self.led(request.shard)
        session = _session(led, request.session, context)
        if request.length < 0 or len(request.inos) > layouts.LAYOUTS_MAX:
            raise Malformed(
                f"the first bytes of up to {layouts.LAYOUTS_MAX} files are asked for at once"
            )
        return led.serve_read(functools.partial(layouts.layouts, led, session, request))

    def _getxattr(self, _context: Context, request: meta.GetXattr, _payload: Any) -> Any:
        led = self.led(request.shard)

        def now() -> meta.XattrReply:
            state = past.state_of(led.group, request.snapshot)
            value = read.xattr(state, request.ino, request.name)
            return meta.XattrReply(at=led.group.applied, value=value)

        return led.serve_read(now)

    def _listxattr(self, _context: Context, request: meta.ListXattr, _payload: Any) -> Any:
        led = self.led(request.shard)

        def now() -> meta.XattrReply:
            state = past.state_of(led.group, request.snapshot)
            names = tuple(read.xattr_names(state, request.ino))
            return meta.XattrReply(at=led.group.applied, names=names)

        return led.serve_read(now)

    def _statfs(self, _context: Context, request: meta.StatFs, _payload: Any) -> Any:
        led = self.led(request.shard)

        def now() -> meta.StatFsReply:
            totals = read.totals(led.group.state)
            return meta.StatFsReply(
                inodes=totals.inodes,
                logical_bytes=totals.logical_bytes,
                inline_bytes=totals.inline_bytes,
            )

        return led.serve_read(now)

    def _limits(self, _context: Context, request: GetLimits, _payload: Any) -> Any:
        led = self.led(request.shard)
        return led.serve_read(led.rooms.limited)

    def _getlock(self, _context: Context, request: meta.GetLock, _payload: Any) -> Any:
        led = self.led(request.shard)

        def now() -> meta.GetLockReply:
            state = led.group.state
            read.attr(state, request.ino)
            found = read.locks_in_the_way(
                state, request.ino, request.session, request.owner, request.start, request.end,
                request.kind, flock=request.flock,
            )  # fmt: skip
            holder = next(found, None)
            if holder is not None:
                record = read.session(state, holder.session)
                name = record.name if record is not None else ""
                holder = msgspec.structs.replace(holder, name=name)
            return meta.GetLockReply(at=led.group.applied, holder=holder)

        return led.serve_read(now)

    async def _lockwait(
        self, context: Context, request: meta.LockWait, _payload: Any
    ) -> meta.LockWaitReply:
        led = self.led(request.shard)
        led.table.known(request.session, context.peer)
        return await led.locks.wait(request)

    def _lockgraph(self, _context: Context, request: LockGraph, _payload: Any) -> LockGraphReply:
        return self.led(ROOT_SHARD).lock_circles.report(request)

    async def _watch_locks(self, led: LedShard) -> None:
        while self._shard_count() > 1:
            await trio.sleep(lock_graph.PERIOD_S)
            await lock_graph.look(led.shard, led.locks, self.transactions.leaders)

    async def _session(
        self, context: Context, request: meta.OpenSession, _payload: Any
    ) -> meta.OpenSessionReply:
        return await self.led(request.shard).open_session(context.peer, request)

    def _renew(self, context: Context, request: meta.Renew, _payload: Any) -> meta.RenewReply:
        not_here: list[int] = []
        unknown: list[int] = []
        for shard in request.shards:
            led = self._led.get(shard)
            if led is None or not led[0].group.readable():
                not_here.append(shard)
                continue
            if request.end:
                led[0].background(led[0].recalls.end, request.session)
                continue
            drop = [h for h in request.drop if shard_of(Ino(h.ino)) == shard]
            if not led[0].renew(request.session, context.peer, drop):
                unknown.append(shard)
        return meta.RenewReply(not_led=tuple(not_here), unknown=tuple(unknown))

    async def _holders(self, _context: Context, request: GetHolders, _payload: Any) -> Any:
        led = self.led(request.shard)
        await led.group.read_barrier()
        return holders(led, request.ino)

    def _trash(self, _context: Context, request: ListTrash, _payload: Any) -> Any:
        return trash.page(self.led(request.shard), request)

    async def _purge(self, _context: Context, request: PurgeTrash, _payload: Any) -> meta.Empty:
        return await trash.purge(self.led(request.shard), request)

    async def _empty_trash(self, led: LedShard) -> None:
        await trash.expire(led, self._clock)

    async def _snapshot(self, _context: Context, request: TakePart, _payload: Any) -> meta.Empty:
        led = self.led(request.shard)
        if request.stage == Stage.FREEZE:
            await led.freezer.freeze(led, request.epoch)
        elif request.stage == Stage.MARK:
            await led.freezer.mark(request.epoch)
        else:
            led.freezer.thaw(request.epoch)
        return meta.Empty()

    async def _internal(self, _context: Context, request: Internal, _payload: Any) -> InternalReply:
        led = self.led(shard_of_group(GroupId(request.group)))
        if request.read:
            await led.group.read_barrier()
            return InternalReply(result=queries.answer(led.group.state, request.command))
        command = commands.decode_command(request.command)
        match command:
            case commands.TxnPrepare():
                await led.rooms.make(self.transactions.ask, (), command.steps)
                result = await participant.prepare(led, command)
            case commands.TxnDecide():
                result = await participant.decide(led, command)
            case commands.TxnFinish():
                result = await participant.finish(led, command)
            case commands.MarkTree():
                result = await participant.mark(led, command)
            case commands.SetCaps(epoch=epoch) if epoch:
                result = await led.freezer.limit(command)
            case commands.Mend(ino=ino) | commands.DropEntry(parent=ino):
                await led.recalls.clear(NOBODY, (ino,))
                _, (result,) = await led.propose(command)
            case _:
                _, (result,) = await led.propose(command)
                led.wake_reaper()  # of a deleted snapshot there is something to trim
        return InternalReply(result=results.encode_result(result))


def _session(led: LedShard, session: int, context: Context) -> Session | None:
    """Find the caller's session; 0 reads without leases."""
    return led.table.known(session, context.peer) if session else None


def _lookup_now(led: LedShard, session: Session | None, request: meta.Lookup) -> meta.LookupReply:
    state = led.group.state
    lock = read.locked(state, (request.parent, request.name)) if led.open_parts else None
    if lock:
        raise MustWaitError(lock=lock)
    led.check_readable(request.session, (request.parent,), in_doubt=False)
    entry = read.lookup(state, request.parent, request.name)
    modes = Lease.READ if request.lease else Lease.NONE
    lease = 0
    if entry is not None and entry.attr is not None:
        led.check_readable(request.session, (entry.ino,))
        lease = led.grant(session, entry.ino, modes)
    directory_lease = led.grant(session, request.parent, modes)
    return meta.LookupReply(
        at=led.group.applied, entry=entry, directory_lease=directory_lease, lease=lease
    )


def _readdir_now(
    led: LedShard, session: Session | None, request: meta.ReadDir
) -> meta.ReadDirReply:
    state = led.group.state
    led.check_readable(request.session, (request.ino,))
    limit = min(request.limit, past.ENTRIES_MAX)
    entries, end = read.listing(state, request.ino, request.cookie, limit)
    led.check_readable(request.session, (e.ino for e in entries if e.attr is not None))
    modes = Lease.READ if request.lease else Lease.NONE
    leased = tuple(led.grant(session, e.ino, modes) if e.attr else 0 for e in entries)
    lease = led.grant(session, request.ino, modes)
    return meta.ReadDirReply(
        at=led.group.applied, entries=tuple(entries), end=end, lease=lease, leased=leased
    )
