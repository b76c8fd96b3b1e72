"""Brings dirty bytes to the cluster, and takes and gives WRITE leases.

A file is flushed by the timer, when it or the buffer grows large, by fsync, by a recall, and
before an operation that must not survive without its bytes. One flush of a file at a time
(`flush_lock`); commits of different files gather into one Mutate in the shard's data lane. A flush
takes all dirty bytes, or, under pressure, those before the last chunk boundary, so that a stream
is cut where its content says.

When a flush fails the bytes are dirty again. What may pass is tried again by the timer; what is
final loses them, loudly: logged, and EIO at the next write, fsync and close of every open file.
"""

from __future__ import annotations

import contextlib
import errno
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Extent, Lease
from cfs.core.errors import (
    CfsError,
    Condemned,
    DeadlineExceeded,
    FsError,
    Malformed,
    NoSpace,
    Refused,
)
from cfs.core.ids import Ino, shard_of
from cfs.fs.client.buffer import Buffer
from cfs.fs.client.cache import Cache
from cfs.fs.client.dirty import Dirty
from cfs.fs.client.fences import Fences
from cfs.fs.client.file import File
from cfs.fs.client.limits import Limits
from cfs.fs.client.ports import Uploads
from cfs.fs.client.session import Session
from cfs.fs.client.space import Space
from cfs.fs.data.flow import Run

_LOG = structlog.get_logger()

TILES_IDLE_MAX = 64
"""Extents kept of a closed file whose WRITE lease is kept."""
RETURN_PAUSE_S = 0.003
RETURNED_MAX = 65_536
"""Recalled inodes remembered: the shard takes an answer in within milliseconds."""
RETRY_S = 0.5
"""Pause after a flush that failed for a reason that may pass."""


class Writeback:
    """The flusher of one client, and the owner of its `File` states."""

    def __init__(
        self,
        *,
        session: Session,
        fences: Fences,
        buffer: Buffer,
        space: Space,
        uploads: Uploads,
        limits: Limits,
    ) -> None:
        self.files: OrderedDict[int, File] = OrderedDict()
        self.recalling: dict[int, trio.Event] = {}
        """Inodes whose lease is on its way back; set when the answer goes out."""
        self.returned: OrderedDict[int, None] = OrderedDict()
        """Inodes whose WRITE lease was recalled lately; see `_returned`."""
        self.cache: Cache
        self._session = session
        self._fences = fences
        self._buffer = buffer
        self._space = space
        self._uploads = uploads
        self._limits = limits
        self._unclean: dict[int, File] = {}
        self._kick = trio.Event()
        self._slots = trio.Semaphore(limits.flushes)
        self._flushing: set[int] = set()
        self._releases: dict[int, list[int]] = {}
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to flush."""
        self._nursery = nursery
        nursery.start_soon(self._run)

    # --- file states

    def file(self, ino: int) -> File:
        """Give the state of an inode, making it."""
        file = self.files.get(ino)
        if file is None:
            node = self.cache.node(ino)
            node.pins += 1  # a node with a state is never pushed out of the cache
            file = self.files[ino] = File(node)
        return file

    def settle(self, file: File) -> None:
        """Let go of a state that nothing needs; closed write-leased ones are kept up to a bound."""
        if not file.idle or self.files.get(file.ino) is not file:
            return
        if file.node.modes & Lease.WRITE:
            self.files.move_to_end(file.ino)
            if len(file.tiles) > TILES_IDLE_MAX:
                file.tiles, file.tiles_epoch = [], -1
            if len(self.files) > self._limits.writable:
                self._release_oldest()
            return
        self._forget(file)

    def _forget(self, file: File) -> None:
        del self.files[file.ino]
        file.node.pins -= 1

    def _release_oldest(self) -> None:
        """Give an eighth of the idle WRITE leases back."""
        idle = [f for f in self.files.values() if f.idle]
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
            async with file.acquiring:
                if self.writable(file) or file.ino in self.recalling:
                    continue
                if file.ino in self.returned:
                    await self._returned(file, deadline)
                with self.request() as token:
                    _, result = await self._session.mutate(
                        file.node.shard, meta.Acquire(ino=file.ino), deadline=deadline
                    )
                    self._granted(file, result.attrs[0], token)

    async def _returned(self, file: File, deadline: float) -> None:
        """Wait until the shard has taken in that the lease came back.

        It may not have when our answer has left; what it granted until then it would take back
        unseen. It grants READ again when it has.
        """
        request = meta.GetAttr(
            shard=file.node.shard, session=self._session.id, ino=file.ino, lease=int(Lease.READ)
        )
        while True:
            with self.request() as token:
                reply: meta.GetAttrReply = await self._session.read(
                    file.node.shard, "meta.getattr", request, deadline=deadline
                )
                if reply.lease & (Lease.READ | Lease.WRITE):
                    self.cache.learn_attr(reply.attr, reply.lease & Lease.READ, token)
                    self.returned.pop(file.ino, None)
                    return
            if trio.current_time() >= deadline:
                raise DeadlineExceeded(f"inode {file.ino}: others keep its lease")
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
        pending = self._releases.get(file.node.shard)
        if pending and file.ino in pending:
            pending.remove(file.ino)
        if not file.take_write(attr):
            _LOG.error("data_lost", ino=file.ino, reason="the WRITE lease was lost")
            self._buffer.add(file.discard())
            self._unclean.pop(file.ino, None)

    @contextlib.contextmanager
    def request(self) -> Iterator[int]:
        """Hold a fence token while a request is on its way and its reply is taken in."""
        token = self._fences.begin()
        try:
            yield token
        finally:
            self._fences.end(token)

    # --- dirty bytes

    def wrote(self, file: File, change: int) -> None:
        """Note that `file` was written to and holds `change` more bytes."""
        self._buffer.add(change)
        if file.ino not in self._unclean:
            file.dirty_since = trio.current_time()
            self._unclean[file.ino] = file
        if file.dirty.size >= self._limits.flush_at or self._buffer.pressed:
            self._kick.set()

    def cut(self, change: int) -> None:
        """Note that dirty bytes were forgotten."""
        self._buffer.add(change)

    async def flush(
        self,
        file: File,
        deadline: float,
        *,
        synced: bool = False,
        hold_tail: bool = False,
        for_recall: bool = False,
    ) -> None:
        """Return once every byte written before the call is committed (but a held tail).

        Raises what the commit met: the bytes are dirty again unless it is final. For a recall it
        returns, the bytes suspect, when the lease turns out to be gone.
        """
        avoid: tuple[bytes, ...] = ()
        while file.unclean:
            if not file.node.modes & Lease.WRITE:
                if for_recall:
                    return
                await self.acquire(file, deadline)
                continue
            async with file.flush_lock:
                if not file.node.modes & Lease.WRITE:
                    continue
                if not file.dirty:
                    return
                try:
                    await self._flush_once(
                        file, deadline, synced=synced, hold_tail=hold_tail, avoid=avoid
                    )
                except Condemned as error:
                    condemned = tuple(error.detail.get("segments", ()))
                    self._uploads.forget(condemned)
                    avoid += condemned
                except FsError as error:
                    if error.errno != errno.ESTALE:
                        raise
                    self.cache.forget(file.ino)  # the lease is gone: take it again, and compare
                else:
                    if not file.dirty:
                        self._unclean.pop(file.ino, None)
                    else:
                        file.dirty_since = trio.current_time()
                    return

    async def _flush_once(
        self,
        file: File,
        deadline: float,
        *,
        synced: bool,
        hold_tail: bool,
        avoid: tuple[bytes, ...],
    ) -> None:
        taken = file.flushing = file.dirty
        file.dirty = Dirty()
        size, mtime_ns = file.size, file.mtime_ns
        try:
            new = await self._upload(file, taken, synced=synced, avoid=avoid, more=hold_tail)
            held_back = hold_tail and self._hold_back(file, taken, new)
            commit = meta.Commit(
                ino=file.ino,
                extents=tuple(new),
                size=None if held_back else size,
                mtime_ns=mtime_ns,
            )
            with self.request() as token:
                _, result = await self._session.mutate(
                    file.node.shard, commit, deadline=deadline, data=True
                )
                attr = result.attrs[0]
                self.cache.learn_change(attr, token)
        except BaseException as error:
            self._buffer.add(file.put_back())
            self._judge(file, error)
            raise
        file.flushing = None
        file.committed(new, attr)
        self._buffer.add(-taken.cost)

    def _hold_back(self, file: File, taken: Dirty, new: list[Extent]) -> bool:
        """Make what the upload left without a lasting chunk boundary dirty again, below newer."""
        reached = new[-1].offset + new[-1].length if new else 0
        tail = taken.tail(reached)
        if not tail:
            return False
        before = file.dirty.cost
        tail.lay_over(file.dirty)
        file.dirty = tail
        self._buffer.add(tail.cost - before)
        return True

    async def _upload(
        self, file: File, taken: Dirty, *, synced: bool, avoid: tuple[bytes, ...], more: bool
    ) -> list[Extent]:
        small = file.size <= self._limits.inline
        if small or (synced and taken.size <= self._limits.inline):
            return [self._uploads.inline(offset, bytes(run)) for offset, run in taken.joined()]
        joined = taken.joined()
        last = len(joined) - 1
        runs = [
            Run(offset, data, more=more and index == last)
            for index, (offset, data) in enumerate(joined)
        ]
        lists = await self._uploads.write(runs, avoid=avoid)
        return [extent for run in lists for extent in run]

    def _judge(self, file: File, error: BaseException) -> None:
        """Decide what a failed flush means for the bytes."""
        file.flush_after = trio.current_time() + RETRY_S
        match error:
            case NoSpace():
                self._space.refused()
            case FsError() if error.errno == errno.ESTALE:
                return
            case FsError() | Refused() | Malformed():
                if error.errno == errno.ENOSPC:
                    self._space.refused()
                    return
                if file.opens or error.errno != errno.ENOENT:
                    _LOG.error("data_lost", ino=file.ino, error=str(error))
                    file.fail(error)
                self._buffer.add(file.discard())
                self._unclean.pop(file.ino, None)
            case CfsError():
                _LOG.warning("flush_failed", ino=file.ino, error=str(error))
            case _:
                pass

    async def flush_all(self, deadline: float) -> None:
        """Commit everything. Raises the first error met, after trying all."""
        errors: list[CfsError] = []

        async def one(file: File) -> None:
            try:
                await self.flush(file, deadline, synced=True)
            except CfsError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for file in list(self._unclean.values()):
                nursery.start_soon(one, file)
        if errors:
            raise errors[0]

    # --- the timer

    async def _run(self) -> None:
        while True:
            with trio.move_on_after(self._limits.flush_every_s):
                await self._kick.wait()
            self._kick = trio.Event()
            now = trio.current_time()
            for file in list(self._unclean.values()):
                self._start_if_due(file, now)
            if self._releases:
                self._send_releases()
            if self._kick.is_set():  # pressure on files that are being flushed already
                await trio.sleep(0.002)

    def _start_if_due(self, file: File, now: float) -> None:
        if file.ino in self._flushing or now < file.flush_after:
            return
        if not file.unclean:
            self._unclean.pop(file.ino, None)
            return
        large = file.dirty.size >= self._limits.flush_at
        old = now - file.dirty_since >= self._limits.flush_age_s
        if large or old or self._buffer.pressed:
            assert self._nursery is not None
            self._flushing.add(file.ino)
            self._nursery.start_soon(self._flush_in_background, file, large and not old)

    async def _flush_in_background(self, file: File, hold_tail: bool) -> None:  # noqa: FBT001
        try:
            async with self._slots:
                await self.flush(
                    file,
                    trio.current_time() + self._limits.patience_s,
                    hold_tail=hold_tail and file.size > self._limits.inline,
                )
        except CfsError as error:
            _LOG.debug("flush_put_off", ino=file.ino, error=str(error))
        finally:
            self._flushing.discard(file.ino)
            self.settle(file)

    def _send_releases(self) -> None:
        assert self._nursery is not None
        releases, self._releases = self._releases, {}
        for shard, inos in releases.items():
            self._nursery.start_soon(self._release, shard, tuple(inos))

    async def _release(self, shard: int, inos: Iterable[int]) -> None:
        deadline = trio.current_time() + self._limits.patience_s
        for ino in inos:
            self._fences.hold_ino(ino)
        try:
            await self._session.mutate(shard, meta.Release(inos=tuple(inos)), deadline=deadline)
        except CfsError as error:
            _LOG.info("release_failed", shard=shard, error=str(error))
        finally:
            for ino in inos:
                self._fences.release_ino(ino)
