"""The `File` states of one client, and the WRITE leases under them.

One state an inode, for as long as it is open, dirty, or write-leased; nobody holds on to one across
a wait without one of these. A WRITE lease is taken before the first byte is buffered, kept after
the last close, and given back to a recall, or when too many are kept.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Lease
from cfs.core.errors import CfsError, DeadlineExceeded
from cfs.core.ids import Ino, shard_of
from cfs.fs.client.cache import Cache
from cfs.fs.client.fences import Fences
from cfs.fs.client.file import File
from cfs.fs.client.limits import Limits
from cfs.fs.client.nodes import Node
from cfs.fs.client.session import Session

_LOG = structlog.get_logger()

TILES_IDLE_MAX = 64
"""Extents kept of a closed file whose WRITE lease is kept."""
INLINE_IDLE_MAX = 1024
"""Sealed bytes kept with a closed file: times `Limits.writable` that is 4 MiB."""
RETURN_PAUSE_S = 0.003
RETURNED_MAX = 65_536
"""Recalled inodes remembered: the shard takes an answer in within milliseconds."""


class Ownership(ABC):
    """File states and WRITE leases."""

    def __init__(
        self, session: Session, fences: Fences, limits: Limits, pending: Container[int]
    ) -> None:
        self.cache: Cache
        self.files: OrderedDict[int, File] = OrderedDict()
        self.recalling: dict[int, trio.Event] = {}
        """Inodes whose lease is on its way back; set when the answer goes out."""
        self.returned: OrderedDict[int, None] = OrderedDict()
        """Inodes whose WRITE lease was recalled lately; see `_returned`."""
        self._session = session
        self._fences = fences
        self._limits = limits
        self._pending = pending
        self._releases: dict[int, list[int]] = {}
        self._settled = 0
        self.begun: Callable[[File], None] = lambda _file: None
        """Told of every new state."""
        self.let_go: Callable[[Iterable[int]], Awaitable[None]]
        """Returns when nothing learnt of the inodes is cached below."""

    @abstractmethod
    def lost(self, file: File) -> None:
        """Forget the dirty bytes of a file whose lease was lost and whose data moved on."""

    def file(self, ino: int) -> File:
        """Give the state of an inode, making it."""
        file = self.files.get(ino)
        if file is None:
            node = self.cache.node(ino)
            node.pins += 1  # a node with a state is never pushed out of the cache
            file = self.files[ino] = File(node)
            self.begun(file)
        return file

    def settle(self, file: File) -> None:
        """Let go of a state that nothing needs; closed write-leased ones are kept up to a bound."""
        if not file.idle or self.files.get(file.ino) is not file:
            return
        if file.node.modes & Lease.WRITE:
            self.files.move_to_end(file.ino)
            inline = sum(len(tile.inline) for tile in file.tiles)
            if len(file.tiles) > TILES_IDLE_MAX or inline > INLINE_IDLE_MAX:
                file.tiles, file.tiles_epoch = [], -1
            self._settled += 1
            # not at each close: most files may be open, and all are looked through
            if len(self.files) > self._limits.writable <= self._settled * 8:
                self._settled = 0
                self._release_oldest()
            return
        self._forget(file)

    def _forget(self, file: File) -> None:
        del self.files[file.ino]
        file.node.pins -= 1

    def _release_oldest(self) -> None:
        """Give an eighth of the idle WRITE leases back."""
        idle = [f for f in self.files.values() if f.idle and f.ino not in self._pending]
        for file in idle[: self._limits.writable // 8]:
            self.release(file.ino)
            self.cache.forget(file.ino)
            self._forget(file)

    def release(self, ino: int) -> None:
        """Give a clean file's WRITE lease back, with the next round of the timer."""
        node = self.cache.peek(ino)
        shard = node.shard if node is not None else shard_of(Ino(ino))
        self._releases.setdefault(shard, []).append(ino)

    # --- the WRITE lease

    def writable(self, file: File) -> bool:
        """Tell whether the WRITE lease is held and not on its way back (trust apart)."""
        return bool(file.node.modes & Lease.WRITE) and file.ino not in self.recalling

    async def acquire(self, file: File, deadline: float) -> None:
        """Return once the WRITE lease is held, at least for this moment. Raises ENOENT."""
        while not self.writable(file):
            recalling = self.recalling.get(file.ino)
            if recalling is not None:
                await recalling.wait()
                continue
            if file.flushing is not None:
                async with file.flush_lock:  # a commit of before the loss must be answered first
                    continue
            async with file.acquiring:
                if self.writable(file) or file.ino in self.recalling:
                    continue
                await self.taken_back(file.node, deadline)
                with self.request() as token:
                    _, result = await self._session.mutate(
                        file.node.shard, meta.Acquire(ino=file.ino), deadline=deadline
                    )
                    self._granted(file, result.attrs[0], token)

    async def taken_back(self, node: Node, deadline: float) -> None:
        """Wait until the shard has taken in that a recalled lease came back.

        It may not have when our answer has left; what it granted until then it would take back
        unseen. It grants READ again when it has.
        """
        if node.ino not in self.returned:
            return
        request = meta.GetAttr(
            shard=node.shard, session=self._session.id, ino=node.ino, lease=int(Lease.READ)
        )
        while True:
            with self.request() as token:
                reply: meta.GetAttrReply = await self._session.read(
                    node.shard, "meta.getattr", request, deadline=deadline
                )
                if reply.lease & (Lease.READ | Lease.WRITE):
                    self.cache.learn_attr(reply.attr, reply.lease & Lease.READ, token)
                    self.returned.pop(node.ino, None)
                    return
            if trio.current_time() >= deadline:
                raise DeadlineExceeded(f"inode {node.ino}: others keep its lease")
            await trio.sleep(RETURN_PAUSE_S)

    def was_recalled(self, ino: int) -> None:
        """Note that a WRITE lease was given back to a recall."""
        self.returned[ino] = None
        self.returned.move_to_end(ino)
        if len(self.returned) > RETURNED_MAX:
            self.returned.popitem(last=False)

    def _granted(self, file: File, attr: meta.Attr, token: int) -> None:
        if self.cache.learn_attr(attr, Lease.WRITE, token) is None:
            return  # recalled before the answer came: ask again
        self.unrelease(file.node)
        if not file.take_write(attr):
            _LOG.error("data_lost", ino=file.ino, reason="the WRITE lease was lost")
            self.lost(file)

    def unrelease(self, node: Node) -> None:
        """Take back a `release` that was not sent yet: the lease was granted again."""
        waiting = self._releases.get(node.shard)
        if waiting and node.ino in waiting:
            waiting.remove(node.ino)

    @contextlib.contextmanager
    def request(self) -> Iterator[int]:
        """Hold a fence token while a request is on its way and its reply is taken in."""
        token = self._fences.begin()
        try:
            yield token
        finally:
            self._fences.end(token)

    def send_releases(self, nursery: trio.Nursery) -> None:
        """Send what `release` gathered."""
        releases, self._releases = self._releases, {}
        for shard, inos in releases.items():
            nursery.start_soon(self._release, shard, tuple(inos))

    async def _release(self, shard: int, inos: Iterable[int]) -> None:
        deadline = trio.current_time() + self._limits.patience_s
        for ino in inos:
            self._fences.hold_ino(ino)
        try:
            await self.let_go(inos)
            await self._session.mutate(shard, meta.Release(inos=tuple(inos)), deadline=deadline)
        except CfsError as error:
            _LOG.info("release_failed", shard=shard, error=str(error))
        finally:
            for ino in inos:
                self._fences.release_ino(ino)
