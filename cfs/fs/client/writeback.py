"""Brings dirty bytes to the cluster.

A file is flushed by the timer, when it or the buffer grows large, by fsync, by a recall, and
before an operation that must not survive without its bytes. One flush of a file at a time
(`flush_lock`); commits of different files gather into one Mutate in the shard's data lane. A flush
takes all dirty bytes there are, and commits them at once; where they are many and without gaps it
is a `Stream`, which goes on with what is written meanwhile.

When a flush fails the bytes are dirty again. What may pass is tried again by the timer; what is
final loses them, loudly: logged, and EIO at the next write, fsync and close of every open file.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Container

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Extent, ExtentKind, Lease
from cfs.core.errors import (
    CfsError,
    Condemned,
    FsError,
    Malformed,
    NoSpace,
    Refused,
)
from cfs.core.meta.extents import end_of
from cfs.fs.client.buffer import Buffer
from cfs.fs.client.dirty import Dirty
from cfs.fs.client.fences import Fences
from cfs.fs.client.file import File
from cfs.fs.client.landing import Landing
from cfs.fs.client.lane import Follow, Lane, Waiting
from cfs.fs.client.limits import Limits
from cfs.fs.client.ownership import Ownership
from cfs.fs.client.ports import Uploads
from cfs.fs.client.session import Session
from cfs.fs.client.space import Space
from cfs.fs.client.stream import STREAM_BYTES_MIN, Stream
from cfs.fs.data.source import Run
from cfs.net.tasks import run_all

_LOG = structlog.get_logger()

RETRY_S = 0.5
"""Pause after a flush that failed for a reason that may pass."""


class Writeback(Ownership):
    """The flusher of one client, and the owner of its `File` states."""

    def __init__(
        self,
        *,
        session: Session,
        fences: Fences,
        buffer: Buffer,
        landing: Landing,
        space: Space,
        uploads: Uploads,
        limits: Limits,
        pending: Container[int],
    ) -> None:
        super().__init__(session, fences, limits, pending)
        self._buffer = buffer
        self._landing = landing
        self._space = space
        self._uploads = uploads
        self._unclean: dict[int, File] = {}
        self._kick = trio.Event()
        self._slots = trio.Semaphore(limits.flushes)
        self._flushing: set[int] = set()

    def lost(self, file: File) -> None:
        """See `Ownership.lost`."""
        self._buffer.add(file.discard())
        self._let_clean(file)

    def _forget(self, file: File) -> None:
        super()._forget(file)
        self._let_clean(file)  # the next state of this inode is another

    def _let_clean(self, file: File) -> None:
        if self._unclean.get(file.ino) is file:
            del self._unclean[file.ino]

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to flush."""
        self._nursery = nursery
        nursery.start_soon(self._run)

    # --- dirty bytes

    def wrote(self, file: File, change: int) -> None:
        """Note that `file` was written to and holds `change` more bytes."""
        self._buffer.add(change)
        if self._unclean.get(file.ino) is not file:
            file.dirty_since = trio.current_time()
            self._unclean[file.ino] = file
        if file.stream is not None:
            file.stream.wrote()
        elif file.dirty.size >= self._limits.flush_at or self._buffer.pressed:
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
        follow: Follow | None = None,
    ) -> None:
        """Return once every byte written before the call is committed (but a held tail).

        `follow` is sent right behind the commit of a small file, in the same round.

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
                if not file.dirty:
                    return
                if file.node.modes & Lease.WRITE:
                    try:
                        if file.dirty.size >= STREAM_BYTES_MIN and file.dirty.gapless:
                            until = None if hold_tail else file.dirty.end
                            await self._stream(file, deadline, until=until, avoid=avoid)
                        else:
                            await self._flush_once(
                                file, deadline, synced=synced, avoid=avoid, follow=follow
                            )
                    except Condemned as error:
                        avoid += tuple(error.detail.get("segments", ()))
                        self._uploads.forget(avoid)
                    else:
                        if file.node.modes & Lease.WRITE:
                            return

    async def _flush_once(
        self,
        file: File,
        deadline: float,
        *,
        synced: bool,
        avoid: tuple[bytes, ...],
        follow: Follow | None,
    ) -> None:
        taken, size, _ = self._take(file)
        try:
            new = await self._upload(file, taken, synced=synced, avoid=avoid)
            commit = meta.Commit(
                ino=file.ino,
                extents=tuple(new),
                size=size,
                mtime_ns=file.mtime_ns,  # of now: it may have been set since
            )
            with self.request() as token:
                lane = await self._session.data_lane(file.node.shard, deadline)
                # with the operations in line for a file just made: one entry of the log for all
                inline = all(e.kind is ExtentKind.INLINE for e in new)
                waiting = lane.enqueue(commit, chained=inline and file.ino in self._pending)
                file.in_line = True
                if follow is not None and file.size <= self._limits.inline:
                    follow.begin(lane)
                _, result = await lane.answer(waiting, deadline=deadline)
                attr = result.attrs[0]
                self.cache.learn_change(attr, token)
        except BaseException as error:
            if self._put_back(file, error):
                return
            raise
        self._landed(file, taken, new, attr)

    async def _stream(
        self, file: File, deadline: float, *, until: int | None, avoid: tuple[bytes, ...]
    ) -> None:
        """Flush as a stream; without `until` its commits have time as they come."""

        async def commit(extents: list[Extent]) -> None:
            op = meta.Commit(ino=file.ino, extents=tuple(extents), mtime_ns=file.mtime_ns)
            latest = deadline
            if until is None:
                latest = trio.current_time() + self._limits.patience_s
            with self.request() as token:
                lane = await self._session.data_lane(file.node.shard, latest)
                _, result = await lane.answer(lane.enqueue(op), deadline=latest)
                self.cache.learn_change(result.attrs[0], token)
            before, size = stream.taken.cost, stream.taken.size
            stream.taken.cut(stream.taken.start, end_of(extents))
            self._buffer.add(stream.taken.cost - before)
            self._space.stored(size - stream.taken.size)
            file.committed(extents, result.attrs[0])

        stream = file.stream = Stream(file, commit, self._buffer.add, until)
        file.flushing = stream.taken
        file.in_line = False
        try:
            await stream.run(self._uploads, avoid)
        except BaseException as error:
            if self._put_back(file, error):
                return
            raise
        finally:
            file.stream = None
        self._buffer.add(file.put_back())  # the tail
        self._cleaned(file)

    def commit_ahead(self, file: File) -> bool:
        """Put a small file's dirty bytes in line for an operation that follows at once.

        False: they must be flushed. True too when there are none, or they are in line already.
        """
        if file.flushing is not None:
            return file.in_line and not file.dirty
        if not file.dirty:
            return True
        lane = self._session.trusted_lane(file.node.shard)
        if lane is None or file.size > self._limits.inline or not self.writable(file):
            return False
        try:
            file.flush_lock.acquire_nowait()
        except trio.WouldBlock:
            return False
        taken, size, mtime_ns = self._take(file)
        new = [self._uploads.inline(offset, bytes(run)) for offset, run in taken.joined()]
        commit = meta.Commit(ino=file.ino, extents=tuple(new), size=size, mtime_ns=mtime_ns)
        token = self._fences.begin()
        waiting = lane.enqueue(commit, chained=True, lazy=True)
        file.in_line = True
        self._nursery.start_soon(self._finish_ahead, file, taken, new, lane, waiting, token)
        return True

    async def _finish_ahead(
        self, file: File, taken: Dirty, new: list[Extent], lane: Lane, waiting: Waiting, token: int
    ) -> None:
        try:
            _, result = await lane.answer(waiting, deadline=math.inf)
            self.cache.learn_change(result.attrs[0], token)
            self._landed(file, taken, new, result.attrs[0])
        except BaseException as error:
            self._put_back(file, error)
            if not isinstance(error, CfsError):
                raise
        finally:
            self._fences.end(token)
            file.flush_lock.release()
            self.settle(file)

    def small(self, file: File) -> bool:
        """Tell whether a file travels in the metadata entry."""
        return file.size <= self._limits.inline

    def _take(self, file: File) -> tuple[Dirty, int, int]:
        taken = file.flushing = file.dirty
        file.dirty = Dirty()
        file.in_line = False
        return taken, file.size, file.mtime_ns

    def _put_back(self, file: File, error: BaseException) -> bool:
        """Make what was not committed dirty again, or lost; True: with another lease it may go."""
        self._buffer.add(file.put_back())
        if isinstance(error, FsError) and error.errno == errno.ESTALE:
            self.cache.forget(file.ino)  # the lease is gone: take it again, and compare
            return True
        self._judge(file, error)
        return False

    def _landed(self, file: File, taken: Dirty, new: list[Extent], attr: meta.Attr) -> None:
        file.flushing = None
        file.committed(new, attr)
        self._buffer.add(-taken.cost)
        self._space.stored(taken.size)
        self._cleaned(file)

    def _cleaned(self, file: File) -> None:
        """Note that everything taken is committed."""
        if not file.dirty:
            self._let_clean(file)
        else:
            file.dirty_since = trio.current_time()

    async def _upload(
        self, file: File, taken: Dirty, *, synced: bool, avoid: tuple[bytes, ...]
    ) -> list[Extent]:
        small = file.size <= self._limits.inline
        if small or (synced and taken.size <= self._limits.inline):
            return [self._uploads.inline(offset, bytes(run)) for offset, run in taken.joined()]
        runs = [Run(offset, data) for offset, data in taken.joined()]
        lists = await self._uploads.write(runs, avoid=avoid)
        return [extent for run in lists for extent in run]

    def _judge(self, file: File, error: BaseException) -> None:
        """Decide what a failed flush means for the bytes."""
        file.flush_after = trio.current_time() + RETRY_S
        match error:
            case NoSpace():
                self._space.refused()
            case FsError() | Refused() | Malformed():
                if error.errno == errno.ENOSPC:
                    self._space.refused()
                    return
                if file.opens or error.errno != errno.ENOENT:
                    _LOG.error("data_lost", ino=file.ino, error=str(error))
                    file.fail(error)
                self._buffer.add(file.discard())
                self._let_clean(file)
            case CfsError():
                _LOG.warning("flush_failed", ino=file.ino, error=str(error))
            case _:
                pass

    async def flush_all(self, deadline: float) -> None:
        """Commit everything. Raises the first error met, after trying all."""

        async def one(file: File) -> None:
            await self.flush(file, deadline, synced=True)

        await run_all(one, list(self._unclean.values()))

    # --- the timer

    async def _run(self) -> None:
        while True:
            with trio.move_on_after(self._limits.flush_every_s):
                await self._kick.wait()
            self._kick = trio.Event()
            now = trio.current_time()
            for file in list(self._unclean.values()):
                self._start_if_due(file, now)
            if not self._unclean:
                self._landing.trim()
            self.send_releases(self._nursery)
            if self._kick.is_set():  # pressure on files that are being flushed already
                await trio.sleep(0.002)

    def _start_if_due(self, file: File, now: float) -> None:
        if file.ino in self._flushing or now < file.flush_after:
            return
        if not file.unclean:
            self._let_clean(file)
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
