"""The operations on open files.

A write goes to the buffer and returns: under the WRITE lease, within the client's bound on dirty
bytes, and only while the cluster is known to have room. A read is committed extents under dirty
bytes.

Access times are kept here only (relatime: when older than the change, or a day), as long as the
lease lasts: they are never worth a recall. Set by utimes, they are the shard's like any other.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import msgspec
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Caller, Extent, Lease
from cfs.core.errors import CfsError, FsError, NotFound, Retryable
from cfs.core.meta import access
from cfs.core.meta.extents import end_of
from cfs.core.meta.files import SIZE_MAX
from cfs.fs.client.attributes import Attributes
from cfs.fs.client.file import File, clip
from cfs.fs.client.landing import Kept
from cfs.fs.client.names import is_due

FETCH_PAUSE_S = 0.2
"""Between attempts to read what too few storage nodes have at the moment."""
_APPEND = os.O_APPEND
SYNCED = os.O_SYNC | os.O_DSYNC


class Handle(msgspec.Struct):
    """An open file."""

    file: File
    flags: int
    errors_seen: int

    @property
    def writes(self) -> bool:
        """Tell whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Contents(Attributes):
    """File operations of `Files`."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._handles: dict[int, Handle] = {}

    # --- opening, closing

    async def open(
        self, ino: int, flags: int, *, caller: Caller | None = None, drop_ids: bool = False
    ) -> int:
        """Open a file; give a handle. Honours O_TRUNC, O_APPEND, O_SYNC.

        With `drop_ids` O_TRUNC takes set-id bits away. Raises ENOENT, EISDIR, EACCES.
        """
        client = self.client
        file = client.writeback.file(ino)
        file.opens += 1
        try:
            attr = client.cache.attr(ino)
            if attr is None and not file.pinned and await client.siblings.arrived(ino):
                attr = client.cache.attr(ino)
            if attr is None and not file.pinned:
                _, attr = await self._layout(file, 0, client.limits.layout, Lease.READ | Lease.OPEN)
            attr = attr or await self.getattr(ino)
            if stat.S_ISDIR(attr.mode) and flags & os.O_ACCMODE != os.O_RDONLY:
                raise FsError(errno.EISDIR)  # noqa: TRY301
            if caller is not None:
                access.check(attr, caller, access.wanted(flags))
            if flags & os.O_TRUNC and stat.S_ISREG(attr.mode):
                await self.setattr(ino, size=0, drop_ids=drop_ids)
        except BaseException:
            self.closed(file)
            raise
        return self._opened(file, flags)

    async def create_file(
        self, parent: int, name: bytes, mode: int, flags: int, *, uid: int = 0, gid: int = 0,
        umask: int = 0, caller: Caller | None = None,
    ) -> tuple[int, Attr]:  # fmt: skip
        """Make a regular file and open it; without O_EXCL one that is there is opened instead."""
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        while True:
            try:
                attr, file = await self.create(
                    parent, name, mode, uid=uid, gid=gid, opened=True, umask=umask, caller=caller
                )
            except FsError as error:
                if error.errno != errno.EEXIST or flags & os.O_EXCL:
                    raise
            else:
                assert file is not None
                return self._opened(file, flags & ~os.O_TRUNC), attr
            try:
                attr = await self.lookup(parent, name, caller=caller)
                if stat.S_ISDIR(attr.mode):
                    raise FsError(errno.EISDIR)  # noqa: TRY301
                drop_ids = caller is not None and caller.uid != 0
                handle = await self.open(attr.ino, flags, caller=caller, drop_ids=drop_ids)
            except FsError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue  # it went between the two: make it after all
            return handle, await self.getattr(attr.ino)

    def _opened(self, file: File, flags: int) -> int:
        fh = self._take_handle()
        self._handles[fh] = Handle(file=file, flags=flags, errors_seen=file.error_count)
        return fh

    async def release(self, fh: int) -> None:
        """Close a handle. Dirty bytes follow within the flush timer; fsync first to be sure."""
        self.closed(self._handles.pop(fh).file)

    def handle(self, fh: int) -> Handle:
        """Give an open file by its handle. Raises EBADF."""
        try:
            return self._handles[fh]
        except KeyError:
            raise FsError(errno.EBADF) from None

    def report(self, handle: Handle) -> None:
        """Raise EIO once per open file and loss of its bytes."""
        if handle.errors_seen != handle.file.error_count:
            handle.errors_seen = handle.file.error_count
            raise FsError(errno.EIO, str(handle.file.error))

    async def flush(self, fh: int) -> None:
        """Report, at close(2), bytes that were lost. Does not wait for those on their way."""
        self.report(self.handle(fh))

    async def fsync(self, fh: int, *, datasync: bool = False) -> None:
        """Commit everything written to the file. Raises EIO once after a loss, ENOSPC."""
        del datasync  # attributes go with the data
        client = self.client
        handle = self.handle(fh)
        if handle.file.unclean:
            try:
                await self.client.writeback.flush(handle.file, self.client.deadline(), synced=True)
            except FsError:
                self.report(handle)
                raise
        await client.queue.settled(handle.file.ino, client.deadline())
        self.report(handle)

    async def sync(self) -> None:
        """Make everything done so far durable."""
        await self.client.writeback.flush_all(self.client.deadline())
        await self.client.queue.drained(self.client.deadline())

    # --- writing

    async def write(self, fh: int, offset: int, data: bytes | Kept) -> int:
        """Buffer bytes; give their count. O_APPEND ignores `offset`.

        Raises ENOSPC, EDQUOT, EFBIG, EIO.
        """
        client = self.client
        handle = self.handle(fh)
        file = handle.file
        count = len(data)
        if not handle.writes:
            raise FsError(errno.EBADF)
        if handle.errors_seen != file.error_count:
            self.report(handle)
        if not count:
            return 0
        if not self._may_write(handle, offset, count):
            await self._make_way(handle, offset, count)
        # nothing waits from here on: the lease that was checked is the one written under
        if handle.flags & _APPEND:
            offset = file.size
        if offset + count > SIZE_MAX:
            count = room_at(offset)
            data = data.first(count) if isinstance(data, Kept) else data[:count]
        client.writeback.wrote(file, file.write(offset, data, client.clock.time_ns()))
        if handle.flags & SYNCED:
            await self.fsync(fh)
        return count

    def _may_write(self, handle: Handle, offset: int, count: int) -> bool:
        client = self.client
        file = handle.file
        return (
            client.writeback.writable(file)
            and client.session.trusted(file.node.shard)
            and client.buffer.admits(count)
            and client.space.admits(count)
            and client.quotas.admits(file, _end(handle, offset, count))
        )

    async def _make_way(self, handle: Handle, offset: int, count: int) -> None:
        client = self.client
        file = handle.file
        deadline = client.deadline()
        while not self._may_write(handle, offset, count):
            if trio.current_time() >= deadline:
                raise FsError(errno.ETIMEDOUT)
            if not client.session.trusted(file.node.shard):
                await client.session.ensure(file.node.shard, deadline)
            elif not client.writeback.writable(file):
                await client.writeback.acquire(file, deadline)
            elif not client.buffer.admits(count):
                with trio.move_on_at(deadline):
                    await client.buffer.wait()
            elif not client.quotas.admits(file, _end(handle, offset, count)):
                await client.quotas.make_room(file, _end(handle, offset, count), deadline)
            elif not await client.space.check(count):
                raise FsError(errno.ENOSPC)

    # --- reading

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        """Give up to `length` bytes from `offset`; fewer only at the end of the file."""
        file = self.handle(fh).file
        if not offset:
            self.client.siblings.reading(file)
        missing = 0
        while True:
            seen = file.changes
            tiles, attr = await self._tiles(file, offset, offset + length)
            if file.changes != seen:
                continue  # what was dirty may be in neither: committed after the shard answered
            size = file.view(attr).size
            stop = min(offset + length, size)
            if stop <= offset:
                return b""
            pieces = file.overlay_pieces(offset, stop - offset) if file.unclean else []
            try:
                # the shard may have answered before a size was set there
                there = stop if file.cut_to is None else min(stop, file.cut_to)
                data = await self._assemble(tiles, offset, stop, pieces, there)
            except NotFound:
                missing += 1
                if missing > 1:
                    raise
                file.tiles_epoch = -1  # packed or compacted meanwhile: ask where the bytes are now
            else:
                break
        self._touch(file, attr)
        if offset == file.next_offset and length:
            self._read_ahead(file, stop, size)
        file.next_offset = stop
        return data

    async def _assemble(
        self, tiles: list[Extent], offset: int, stop: int, pieces: list[tuple[int, bytes]],
        there: int,
    ) -> bytes:  # fmt: skip
        """Give `[offset, stop)`: pieces above what is committed, of which `there` is the end."""
        if len(pieces) == 1 and pieces[0][0] == offset and len(pieces[0][1]) == stop - offset:
            return pieces[0][1]
        reached = max(offset, min(there, end_of(tiles, offset)))
        data = b""
        if reached > offset:
            data = await self._fetch(tiles, offset, reached - offset)
        if not pieces and reached == stop:
            return data
        return self.overlaid(data, offset, stop, pieces)

    @staticmethod
    def overlaid(data: bytes, offset: int, stop: int, pieces: list[tuple[int, bytes]]) -> bytes:
        """Give `[offset, stop)`: committed bytes, then zeroes, under uncommitted pieces."""
        out = bytearray(data)
        out.extend(bytes(stop - offset - len(data)))
        for start, piece in pieces:
            out[start - offset : start - offset + len(piece)] = piece
        return bytes(out)

    async def _fetch(self, tiles: list[Extent], offset: int, length: int) -> bytes:
        deadline = self.client.deadline()
        while True:
            try:
                return await self.client.fetches.read(tiles, offset, length)
            except Retryable:
                if trio.current_time() >= deadline:
                    raise
            await trio.sleep(FETCH_PAUSE_S)

    async def _tiles(self, file: File, offset: int, stop: int) -> tuple[list[Extent], Attr]:
        """Give committed extents over a range (less where the file ends) and the attributes."""
        client = self.client
        attr = client.cache.attr(file.ino)
        if attr is not None:
            end = min(stop, attr.size)
            if end <= offset:
                return [], attr
            known = file.known_tiles(offset, end)
            if known is None and await client.siblings.arrived(file.ino):
                return await self._tiles(file, offset, stop)
            if known is not None:
                return known, attr
        start, length = file.missing_range(offset, stop, client.limits.layout)
        lease = 0 if file.ino in client.recalling else Lease.READ
        tiles, attr = await self._layout(file, start, length, lease, stop)
        return clip(tiles, offset, stop), attr

    async def _layout(
        self, file: File, offset: int, length: int, lease: int, stop: int | None = None
    ) -> tuple[list[Extent], Attr]:
        client = self.client
        tiles: list[Extent] = []
        at = offset
        while True:
            with client.writeback.request() as token:
                request = meta.Layout(
                    shard=file.node.shard, session=client.session.id, ino=file.ino, offset=at,
                    length=length, lease=int(lease),
                )  # fmt: skip
                reply: meta.LayoutReply = await client.session.read(
                    file.node.shard, "meta.layout", request, deadline=client.deadline()
                )
                self.learn(reply.attr, reply.lease, token)
                if lease & Lease.OPEN and not file.pinned:
                    await self._pin(file, reply.lease, token)
                tiles.extend(reply.extents)
                end = min(reply.end, reply.attr.size)
                if client.cache.leased(file.node) and client.fences.passes(token, file.ino):
                    file.take_tiles(list(reply.extents), at, end, reply.attr)
            wanted = min(reply.attr.size, stop if stop is not None else 0)
            if end >= wanted or reply.end <= at:
                break
            at, length = reply.end, wanted - reply.end
        if stop is not None:
            tiles = clip(tiles, offset, stop)
        return tiles, reply.attr

    async def _pin(self, file: File, lease: int, token: int) -> None:
        client = self.client
        if lease & Lease.OPEN and client.fences.passes(token, file.ino):
            client.pinned_now(file.ino)
        else:
            await client.pin(file.ino, client.deadline())

    def _touch(self, file: File, attr: Attr) -> None:
        seen = max(attr.atime_ns, file.atime_ns)
        now = self.client.clock.time_ns()
        if is_due(seen, max(attr.mtime_ns, file.mtime_ns), attr.ctime_ns, now):
            file.atime_ns = now

    def _read_ahead(self, file: File, reached: int, size: int) -> None:
        limits = self.client.limits
        file.window = min(limits.readahead_max, max(limits.readahead_min, file.window * 2))
        if file.ahead_until < reached or file.ahead_until > reached + limits.readahead_max:
            file.ahead_until = reached
        if file.ahead_until - reached > file.window // 2 or file.ahead_until >= size:
            return
        stop = min(size, reached + file.window)
        tiles = file.known_tiles(file.ahead_until, min(stop, file.tiles_end))
        file.ahead_until = stop
        if tiles:
            assert self.client.nursery is not None
            self.client.nursery.start_soon(self._prefetch, tiles)

    async def _prefetch(self, tiles: list[Extent]) -> None:
        try:
            await self.client.fetches.prefetch(tiles)
        except CfsError:
            return  # whoever reads the bytes meets the error


def _end(handle: Handle, offset: int, count: int) -> int:
    """Give where a write ends."""
    start = handle.file.size if handle.flags & _APPEND else offset
    return min(start + count, SIZE_MAX)


def room_at(offset: int) -> int:
    """Give how many bytes fit before the largest size of a file. Raises EFBIG when none."""
    if offset >= SIZE_MAX:
        raise FsError(errno.EFBIG)
    return SIZE_MAX - offset
