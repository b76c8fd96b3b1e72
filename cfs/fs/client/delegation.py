"""Delegations: the directories, and other inodes, that this client alone may change for now.

A delegation is the WRITE lease on a directory: it comes with a directory made here, and is taken
when a client changes a directory for the second time that it has a READ lease on. A directory that
was recalled is left alone for a while, longer each time, so that two clients at work in one do not
take it from each other all the time. Entries are changed here only while all of them are known
(`complete`): a directory taken is listed first, unless that would cost more than its use so far; of
a large one only a filter of its names is kept (`nodes.Node.folded`).

Inode numbers for what is made here are reserved in the shard by the thousand.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Lease
from cfs.core.errors import CfsError, FsError
from cfs.core.ids import Ino, shard_of
from cfs.core.meta.name_filter import NameFilter
from cfs.fs.client.cache import Cache
from cfs.fs.client.fences import Fences
from cfs.fs.client.following import Following
from cfs.fs.client.limits import Limits
from cfs.fs.client.nodes import Name, Node
from cfs.fs.client.queue import Queue
from cfs.fs.client.session import Session
from cfs.fs.client.writeback import Writeback

_LOG = structlog.get_logger()

PAGE_ENTRIES = 1024
USES_MAX = 65_536
"""Directories whose use or recall is remembered."""
OWN_MAX = 256
"""Leases taken at once on the entries of a directory."""
ENTRIES_A_USE = 128
"""A directory too large to be listed at once is when it has been changed this much."""


class Delegations:
    """Which inodes may be changed here, and what is to be known of them for that."""

    def __init__(
        self, *, session: Session, fences: Fences, cache: Cache, writeback: Writeback,
        queue: Queue, limits: Limits, tell_kernel: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.failed: dict[int, FsError] = {}
        """By directory, a loss that the next operation there reports."""
        self._session = session
        self._fences = fences
        self._cache = cache
        self._writeback = writeback
        self._queue = queue
        self._limits = limits
        self._tell_kernel = tell_kernel
        self._uses: dict[int, int] = {}
        self._pauses: dict[int, tuple[float, float]] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._owned: dict[int, tuple[int, Name]] = {}
        """By directory: how often leases on entries were taken, and the last one asked for."""
        self._taking: dict[int, trio.Lock] = {}
        self._numbers: dict[int, tuple[int, int]] = {}
        self._reserving: dict[int, trio.Lock] = {}

    # --- what is held

    def mine(self, ino: int) -> Node | None:
        """Give the node of an inode that only this client may change now (trust apart)."""
        node = self._cache.use(ino)
        if (
            node is None
            or not node.modes & Lease.WRITE
            or node.attr is None
            or ino in self._writeback.recalling
        ):
            return None
        return node

    def here(self, ino: int) -> Node | None:
        """Give the node of a directory whose entries may be changed here (trust apart)."""
        node = self.mine(ino)
        if node is None or not node.complete or node.attr is None or not node.attr.nlink:
            return None
        return node

    def keep(self, ino: int) -> None:
        """Note a WRITE lease on what is not a file; the oldest are given back beyond a bound."""
        self._kept[ino] = None
        if len(self._kept) <= self._limits.delegated:
            return
        for old in list(self._kept)[: self._limits.delegated // 8]:
            node = self._cache.peek(old)
            if node is not None and node.pins:
                continue
            del self._kept[old]
            if node is not None and node.modes & Lease.WRITE:
                self._writeback.release(old)
                self._cache.forget(old)
                self._tell_kernel(old)

    def recalled(self, ino: int) -> None:
        """Note that somebody else looked into a directory delegated to this client."""
        now = trio.current_time()
        until, pause_s = self._pauses.pop(ino, (0.0, 0.0))
        again = pause_s and now - until < 4 * pause_s
        longest = self._limits.delegate_pause_max_s
        pause_s = min(2 * pause_s, longest) if again else self._limits.delegate_pause_s
        self._pauses[ino] = now + pause_s, pause_s
        self._uses.pop(ino, None)
        self._kept.pop(ino, None)
        for memory in (self._pauses, self._uses):
            if len(memory) > USES_MAX:
                del memory[next(iter(memory))]

    def made(self, ino: int) -> None:
        """Note a directory that this client made without getting a lease on it."""
        self._uses[ino] = 1

    # --- taking

    async def directory(self, ino: int, deadline: float) -> Node | None:
        """Give `here(ino)`, taking the delegation first where that pays."""
        node = self.here(ino)
        return node if node is not None else await self._take(ino, deadline)

    def _worth(self, ino: int) -> Node | None:
        node = self._cache.peek(ino)
        if (
            not self._limits.delegate
            or node is None
            or node.attr is None
            or not stat.S_ISDIR(node.attr.mode)
            or not node.attr.nlink
            or not self._cache.leased(node)
            or ino in self._writeback.recalling
            or trio.current_time() < self._pauses.get(ino, (0.0, 0.0))[0]
        ):
            return None
        uses = self._uses[ino] = self._uses.get(ino, 0) + 1
        if not node.modes & Lease.WRITE and uses < 2:
            return None
        if not node.complete and node.attr.size > self._limits.delegate_entries:
            return node if node.attr.size < uses * ENTRIES_A_USE else None
        return node

    async def _take(self, ino: int, deadline: float) -> Node | None:
        node = self._worth(ino)
        if node is None:
            return None
        async with self._taking.setdefault(ino, trio.Lock()):
            try:
                if self.mine(ino) is None:
                    await self._acquire(node, deadline)
                if self.mine(ino) is not None and not node.complete:
                    await self._list(node, deadline)
                if self.mine(ino) is not None and node.xattr_names is None:
                    await self._know_xattrs(node, deadline)
            except CfsError as error:
                _LOG.debug("delegation_not_taken", ino=ino, error=str(error))
        self._taking.pop(ino, None)
        return self.here(ino)

    async def _acquire(self, node: Node, deadline: float) -> None:
        await self._writeback.taken_back(node, deadline)
        with self._writeback.request() as token:
            _, result = await self._session.mutate(
                node.shard, meta.Acquire(ino=node.ino), deadline=deadline
            )
            self._writeback.unrelease(node)
            if self._cache.learn_attr(result.attrs[0], Lease.WRITE, token) is not None:
                self.keep(node.ino)

    async def _list(self, node: Node, deadline: float) -> None:
        """Come to know every entry; of a large directory just which names there are."""
        if node.attr is not None and not node.attr.size:
            node.complete = True
            return
        ino, cookie = node.ino, 0
        large = node.attr is not None and node.attr.size > self._limits.entries_unfolded
        folded = NameFilter() if large else None
        with self._writeback.request() as token:
            while True:
                request = meta.ReadDir(
                    shard=node.shard, session=self._session.id, ino=ino, cookie=cookie,
                    limit=PAGE_ENTRIES, lease=not large,
                )  # fmt: skip
                reply: meta.ReadDirReply = await self._session.read(
                    node.shard, "meta.readdir", request, deadline=deadline
                )
                if not self._fences.passes(token, ino):
                    return
                if folded is not None:
                    for entry in reply.entries:
                        folded.add(entry.name)
                else:
                    self._learn_page(ino, reply, token)
                if reply.end:
                    self._cache.complete(ino, token, folded)
                    return
                cookie = reply.entries[-1].cookie

    def _learn_page(self, ino: int, reply: meta.ReadDirReply, token: int) -> None:
        for entry, modes in zip(reply.entries, reply.leased, strict=True):
            self._cache.learn_entry(ino, entry, reply.at, token)
            if entry.attr is not None:
                self._cache.learn_attr(entry.attr, modes & Lease.READ, token)

    async def _know_xattrs(self, node: Node, deadline: float) -> None:
        """Learn the names of extended attributes: one of them spreads new directories."""
        with self._writeback.request() as token:
            request = meta.ListXattr(shard=node.shard, session=self._session.id, ino=node.ino)
            reply: meta.XattrReply = await self._session.read(
                node.shard, "meta.listxattr", request, deadline=deadline
            )
            if self._fences.passes(token, node.ino) and self._cache.leased(node):
                node.xattr_names = frozenset(reply.names)

    async def own(self, parent: int, there: Name, deadline: float) -> None:
        """Take the WRITE lease on an entry of a delegated directory, and on those that follow it.

        The more entries were taken in the directory before, the more follow: whoever removes a
        tree does not ask for every file.
        """
        if self.mine(there.ino) is not None or shard_of(Ino(there.ino)) != shard_of(Ino(parent)):
            return
        if there.kind == stat.S_IFDIR or there.ino in self._writeback.recalling:
            return
        node = self._cache.node(there.ino)
        taken, last = self._owned.get(parent, (0, there))
        if len(self._owned) > USES_MAX:
            self._owned.clear()
        self._owned[parent] = taken + 1, there
        more = self._following(parent, last, there, min(OWN_MAX, 4**taken) - 1)
        try:
            await self._writeback.taken_back(node, deadline)
            with self._writeback.request() as token:
                _, result = await self._session.mutate(
                    node.shard, meta.Acquire(ino=node.ino, more=more), deadline=deadline
                )
                for attr in result.attrs:
                    self._taken(attr, token)
        except CfsError as error:
            _LOG.debug("lease_not_taken", ino=there.ino, error=str(error))

    def _following(self, parent: int, last: Name, there: Name, count: int) -> tuple[int, ...]:
        """Guess which entries come next."""
        node = self._cache.peek(parent)
        if count <= 0 or node is None:
            return ()
        if node.following is None or node.following.worn:
            node.following = Following(self._cache.present(parent))
        writeback = self._writeback
        shard = shard_of(Ino(parent))
        found: list[int] = []
        for name in node.following.after(last, there, 2 * count):
            ino = name.ino
            still = node.entries.get(name.name)
            if (
                still is not None
                and still.ino == ino
                and name.kind != stat.S_IFDIR
                and shard_of(Ino(ino)) == shard
                and ino not in writeback.recalling
                and ino not in writeback.returned
                and ino not in writeback.files
                and self.mine(ino) is None
            ):
                found.append(ino)
        if not found:
            node.following.missed()
        return tuple(dict.fromkeys(found))[:count]

    def _taken(self, attr: Attr, token: int) -> None:
        node = self._cache.node(attr.ino)
        self._writeback.unrelease(node)
        if not stat.S_ISREG(attr.mode):
            if self._cache.learn_attr(attr, Lease.WRITE, token) is not None:
                self.keep(attr.ino)
            return
        file = self._writeback.file(attr.ino)
        if self._cache.learn_attr(attr, Lease.WRITE, token) is not None and not file.take_write(
            attr
        ):
            self._writeback.lost(file)
        self._writeback.settle(file)

    # --- inode numbers

    def take_number(self, shard: int) -> int:
        """Give a number for a new inode; 0: `reserve` first."""
        first, stop = self._numbers.get(shard, (0, 0))
        if first >= stop:
            return 0
        self._numbers[shard] = first + 1, stop
        return first

    async def reserve(self, shard: int, deadline: float) -> None:
        """Reserve more inode numbers in a shard."""
        async with self._reserving.setdefault(shard, trio.Lock()):
            first, stop = self._numbers.get(shard, (0, 0))
            if first < stop:
                return
            count = self._limits.inos
            _, result = await self._session.mutate(
                shard, meta.ReserveInos(count=count), deadline=deadline
            )
            assert shard_of(Ino(result.ino)) == shard
            self._numbers[shard] = result.ino, result.ino + count

    # --- the queue's keeper

    def hold(self, ino: int) -> None:
        """See `Keeper.hold`."""
        self._cache.node(ino).pins += 1

    def answered(self, ino: int, attr: Attr) -> None:
        """See `Keeper.answered`."""
        node = self._cache.node(ino)
        node.pins -= 1
        if not node.modes:
            self._cache.drop_put_off(ino)
            return
        attr = self._cache.settle_attr(node, attr)
        file = self._writeback.files.get(ino)
        if file is not None:
            file.changed(attr)
            file.base_version = attr.data_version
            if file.flushing is None or not file.in_line:  # else `committed` has yet to look at it
                file.base_size = attr.size
        if not attr.nlink and (file is None or not file.opens):
            self._cache.forget(ino)
            self._kept.pop(ino, None)
            if file is not None:
                self._writeback.settle(file)

    def lost(self, ino: int, error: FsError, *, held: bool) -> None:
        """See `Keeper.lost`."""
        node = self._cache.node(ino)
        node.pins -= held
        self._cache.drop_put_off(ino)
        file = self._writeback.files.get(ino)
        if file is not None:
            file.fail(error)
        else:
            self.failed[ino] = error
            if len(self.failed) > USES_MAX:
                del self.failed[next(iter(self.failed))]
        if node.modes & Lease.WRITE:
            self._writeback.release(ino)
        self._cache.forget(ino)
        self._tell_kernel(ino)
