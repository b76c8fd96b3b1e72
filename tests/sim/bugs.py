"""Seeded bugs: what the simulator must find. Switched on in a run's own process alone.

Each entry replaces a production function by a wrong one. `focus` names the faults that its seeds
are drawn from (empty: the swarm's own choice), `plan` what the clients do more of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from cfs.core.errors import CfsError
from cfs.core.meta import (
    collection,
    file_locks,
    links,
    namespace,
    renaming,
    sessions,
    shard,
    transactions,
)
from cfs.core.meta import locks as meta_locks
from cfs.core.meta.results import Finished
from cfs.core.raft import message as raft
from cfs.core.raft import quorum
from cfs.core.raft.leadership import Leadership
from cfs.core.raft.log import Log
from cfs.fs.client import contents, listing
from cfs.fs.client.names import Names
from cfs.fs.client.recall import Recalls as ClientRecalls
from cfs.fs.client.session import Session
from cfs.fs.client.writeback import Writeback
from cfs.fs.data.fetcher import Fetcher
from cfs.fs.data.sender import Sender
from cfs.fs.meta import group as meta_group
from cfs.fs.meta import host as meta_host
from cfs.fs.meta import leases, mutation, plan, reaper
from cfs.fs.meta.log_writer import LogWriter
from cfs.fs.meta.recalls import Recalls
from cfs.fs.meta.state import State
from cfs.fs.meta.wal import Wal
from cfs.fs.root.collector import Collector
from cfs.fs.store.volume import VolumeLog

POWER = ("power", "power_metas", "power_all", "power_in_call", "power_lagging")
CUTS = ("split", "one_way", "freeze", "bridge")


@dataclasses.dataclass(frozen=True)
class Bug:
    """A wrong function, and where to look for what it does."""

    name: str
    what: str
    apply: Callable[[], None]
    focus: tuple[str, ...] = ()
    plan: dict[str, Any] = dataclasses.field(default_factory=dict)
    work_s: float = 0.0
    length_s: float = 0.0
    """As in `Options`."""


BUGS: dict[str, Bug] = {}


def bug(
    what: str, *focus: str, work_s: float = 0.0, length_s: float = 0.0, **plan: Any
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Enter a function that switches a bug on."""

    def enter(apply: Callable[[], None]) -> Callable[[], None]:
        BUGS[apply.__name__] = Bug(apply.__name__, what, apply, focus, plan, work_s, length_s)
        return apply

    return enter


# --- durability of metadata


@bug("the write-ahead log is not synced", *POWER)
def wal_not_synced() -> None:
    def put(self: Any, parts: Any, records: Any) -> None:
        self._file.append(parts)
        self._offset += sum(map(len, parts))
        self._sizes[self._sequence] = self._offset
        self._batch += 1
        for record in records:
            self._note(record, self._sequence)

    Wal._put = put  # type: ignore[method-assign]


@bug("a follower acknowledges before its save is durable", "power_lagging", tree=0)
def acknowledged_before_saved() -> None:
    plain = meta_group.Group._defer

    def defer(self: Any, number: int, effect: Any) -> None:
        if type(effect) is raft.Send:
            self._host.send(effect.message)
        else:
            plain(self, number, effect)

    meta_group.Group._defer = defer  # type: ignore[method-assign]


@bug("an entry counts as committed when one node has it", *POWER, *CUTS)
def committed_by_one() -> None:
    quorum.majority_value.__code__ = (
        lambda voters, value_of: max([value_of(voter) for voter in voters], default=1 << 62)
    ).__code__


@bug("the vote is not persisted", "votes")
def vote_forgotten() -> None:
    plain = LogWriter.save

    def save(self: Any, group: Any, save_: Any) -> None:
        state = msgspec.structs.replace(save_.state, vote=0)
        plain(self, group, msgspec.structs.replace(save_, state=state))

    LogWriter.save = save  # type: ignore[method-assign]


@bug("a conflicting tail of a follower's log is kept", *CUTS, "kill")
def tail_kept() -> None:
    Log.truncate = lambda self, index: None  # type: ignore[method-assign]


@bug("a flush to the state store leaves out every eighth record", *POWER)
def flush_leaves_out() -> None:
    plain = State.commit_flush

    def commit_flush(self: Any) -> None:
        store = self.store

        class Lossy:
            @staticmethod
            def write(changes: Any, *, sync: bool) -> None:
                kept = [c for n, c in enumerate(changes) if n % 8 != 3 or c[0][:2] == b"\xff\xff"]
                store.write(kept, sync=sync)

        self.store = Lossy()
        try:
            plain(self)
        finally:
            self.store = store

    State.commit_flush = commit_flush  # type: ignore[method-assign]


@bug("replicas apply differently: one node's clock enters the state")
def apply_not_deterministic() -> None:
    plain = links.change_entries

    def change_entries(draft: Any, ino: int, **rest: Any) -> Any:
        from tests.sim.engine import CURRENT  # noqa: PLC0415

        attr = plain(draft, ino, **rest)
        inode = draft.find(ino)
        mark = CURRENT.get().serial
        draft.set_inode(ino, msgspec.structs.replace(inode, generation=inode.generation + mark))
        return attr

    links.change_entries = change_entries


# --- reads and leases


@bug("a leader reads without a lease", *CUTS)
def lease_not_judged() -> None:
    meta_group.Group.readable = lambda self: self.is_leader  # type: ignore[method-assign]


@bug("the leader's lease never ends", *CUTS)
def lease_endless() -> None:
    Leadership.lease_holds = lambda self: True  # type: ignore[method-assign]


@bug("recalls of leases are not sent")
def recall_dropped() -> None:
    async def clear(self: Any, session: int, inos: Any) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    Recalls.clear = clear  # type: ignore[method-assign]


@bug("read leases are not recalled, only write leases")
def readers_not_recalled() -> None:
    plain = Recalls._holders

    def holders(self: Any, inos: Any, but: int, *, readers: bool) -> Any:
        return plain(self, inos, but, readers=False)

    Recalls._holders = holders  # type: ignore[method-assign]


@bug("a recall is answered before the client has flushed and forgotten")
def recall_answered_early() -> None:
    plain = ClientRecalls._give_back

    async def give_back(self: Any, ino: int) -> None:
        self._client.nursery.start_soon(plain, self, ino)
        await trio.lowlevel.checkpoint()

    ClientRecalls._give_back = give_back  # type: ignore[method-assign]


@bug("a client trusts its leases for ever", "client_cut", work_s=9.0, length_s=6.0,
     file=9, tree=0, swap=0, files=5, large=0.0, readers=5)  # fmt: skip
def trusts_for_ever() -> None:
    Session.trusted = lambda self, shard: shard in self._shards  # type: ignore[method-assign]


@bug("a session's leases are given away before the client knows", "client_cut", "client_freeze")
def expired_too_early() -> None:
    leases.Session.trusted_until = lambda self: self.renewed_at  # type: ignore[method-assign]


@bug("a new leader does not wait for sessions to reassert", "kill", "power", "hand_over", "freeze")
def no_grace() -> None:
    async def barrier(self: Any, session: int) -> None:
        for silent in self._table.unasserted - {session}:
            self._table.settle(silent)
        await trio.lowlevel.checkpoint()

    Recalls._barrier = barrier  # type: ignore[method-assign]


# --- exactly once, transactions


@bug("a repeated request is applied again", "break", "break_all", "kill", "one_way", tree=8)
def applied_twice() -> None:
    plain = sessions.run

    def run(draft: Any, command: Any) -> Any:
        before = sessions.answer
        sessions.answer = lambda kv, session, seq: None
        try:
            return plain(draft, command)
        finally:
            sessions.answer = before

    for _name, value in list(vars(shard).items()):
        if isinstance(value, dict):
            for key, function in list(value.items()):
                if function is plain:
                    value[key] = run
    sessions.run = run


@bug("a decided transaction is finished in one shard only", tree=8, bases=3, file=0)
def finished_in_part() -> None:
    plain = transactions.finish

    def finish(draft: Any, command: Any) -> Any:
        if command.commit:
            part = transactions.intent(draft, command.txid)
            if part is not None and part.steps:
                cut = type(command)(txid=command.txid, commit=False, token=command.token)
                plain(draft, cut)
                return Finished()
        return plain(draft, command)

    for value in list(vars(shard).values()):
        if isinstance(value, dict):
            for key, function in list(value.items()):
                if function is plain:
                    value[key] = finish


@bug("locks of transactions are ignored", "slow_link", tree=9, bases=3, names=2,
     file=0, swap=0, workers=4)  # fmt: skip
def transaction_locks_ignored() -> None:
    for name in ("check_name_free", "check_ino_free"):
        setattr(meta_locks, name, lambda *_a, **_k: None)


@bug("the ancestors of a rename's target are not looked at", tree=8, file=0)
def no_ancestry() -> None:
    async def ancestry(_space: Any, _ino: int, _moved: int) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return []

    plan.ancestry = ancestry
    renaming._check_ancestry = lambda *_a: None


@bug("rmdir does not look whether the directory is empty", tree=8, file=0)
def rmdir_not_empty() -> None:
    namespace.check_empty = lambda *_a: None


@bug("a new name does not count as a link", tree=8, file=0)
def link_not_counted() -> None:
    plain = links.change_links

    def change_links(draft: Any, ino: int, by: int, *more: Any, **rest: Any) -> Any:
        return plain(draft, ino, min(0, by), *more, **rest)

    links.change_links = change_links


@bug("inodes without a name are not given to the reaper", tree=8, file=0)
def removed_not_reaped() -> None:
    plain = mutation.Mutations._after

    def after(self: Any, led: Any, session: Any, ops: Any, answers: Any, gone: Any) -> None:
        kept = led.orphaned
        led.orphaned = lambda ino: None
        try:
            plain(self, led, session, ops, answers, gone)
        finally:
            led.orphaned = kept

    mutation.Mutations._after = after  # type: ignore[method-assign]
    reaper._rescan = lambda _led, _before: set()  # it would find them after a minute


# --- order and durability of what clients do


@bug("fsync does not wait for the file's bytes", "client_kill", *POWER, file=8)
def fsync_without_flush() -> None:
    async def fsync(self: Any, fh: int, *, datasync: bool = False) -> None:
        del datasync
        await self.client.queue.settled(self.handle(fh).file.ino, self.client.deadline())

    contents.Contents.fsync = fsync  # type: ignore[method-assign]


@bug("fsync of a directory does not wait for the queue", "client_kill", tree=9, file=0)
def fsyncdir_without_queue() -> None:
    async def fsyncdir(self: Any, handle: int) -> None:
        del handle
        await trio.lowlevel.checkpoint()

    listing.Listings.fsyncdir = fsyncdir  # type: ignore[method-assign]


@bug("a file is renamed before its bytes are committed", "client_kill", swap=9, file=0, tree=0)
def renamed_before_bytes() -> None:
    async def commit(self: Any, ino: int) -> None:
        await trio.lowlevel.checkpoint()

    Names._commit = commit  # type: ignore[method-assign]
    Writeback.commit_ahead = lambda self, file: True  # type: ignore[method-assign]


@bug("an append uses the size of a moment ago", file=9)
def append_stale() -> None:
    plain = contents.Contents.write

    async def write(self: Any, fh: int, offset: int, data: bytes) -> int:
        handle = self.handle(fh)
        if handle.flags & contents._APPEND:
            offset = handle.file.size
            flags, handle.flags = handle.flags, handle.flags & ~contents._APPEND
            try:
                return await plain(self, fh, offset, data)
            finally:
                handle.flags = flags
        return await plain(self, fh, offset, data)

    contents.Contents.write = write  # type: ignore[method-assign]


@bug("locks never conflict", lock=9)
def locks_never_conflict() -> None:
    file_locks.overlaps = lambda *_a, **_k: False


@bug("a session that ends keeps the client sure of its locks", "client_cut", "client_freeze",
     work_s=9.0, length_s=6.0, lock=9, holds=0.4)  # fmt: skip
def locks_kept() -> None:
    Session.trusted = lambda self, shard: True  # type: ignore[method-assign]


# --- data on storage nodes


@bug("a fragment is acknowledged before the disk has it", *POWER, file=9, large=0.8)
def fragment_not_synced() -> None:
    VolumeLog.sync = lambda self, volume=None: None  # type: ignore[method-assign]


@bug("a segment counts as durable when a fragment failed", "full", "power", "split",
     "io_error", file=9, large=0.8)  # fmt: skip
def fragments_missing() -> None:
    plain = Sender._store

    async def store(self: Any, *args: Any, **rest: Any) -> bool:
        await plain(self, *args, **rest)
        return True

    Sender._store = store  # type: ignore[method-assign]


@bug("a condemned segment is deleted while it is referred to", "collect", "slow_link",
     work_s=6.0, length_s=5.0, file=9, large=1.0, same=1.0, files=2, tree=0, swap=0)  # fmt: skip
def deleted_early() -> None:
    plain = Collector._condemn

    async def condemn(self: Any, record: Any) -> list[bytes]:
        await plain(self, record)
        return list(record.segments)

    Collector._condemn = condemn  # type: ignore[method-assign]


@bug("what cannot be read is given as zeroes", "slow_link", "slow_disk", "stall", file=9,
     large=0.8)  # fmt: skip
def zeroes_for_missing() -> None:
    plain = Fetcher.read

    async def read(self: Any, extents: Any, offset: int, length: int) -> bytes:
        with trio.move_on_after(0.02):
            try:
                return await plain(self, extents, offset, length)
            except CfsError:
                pass
        return bytes(length)

    Fetcher.read = read  # type: ignore[method-assign]


@bug("references to a condemned segment are accepted", "collect", "slow_link",
     work_s=6.0, length_s=5.0, file=9, large=1.0, same=1.0, files=2, tree=0, swap=0)  # fmt: skip
def condemned_accepted() -> None:
    collection.check_segments = lambda *_a: None


@bug("wall clocks judge leases", "clock_jump", "split", work_s=9.0, length_s=6.0, file=9, tree=0,
     swap=0, files=3, readers=3)  # fmt: skip
def wall_clock_leases() -> None:
    def now_ms(self: Any) -> int:
        from tests.sim.engine import CURRENT  # noqa: PLC0415

        machine = CURRENT.get()
        wall = machine.wall.offset_ns // 1_000_000 if machine is not None else 0
        return int(trio.current_time() * 1000) + min(max(wall, -30_000), 30_000)

    meta_host.Host.now_ms = now_ms  # type: ignore[method-assign]
