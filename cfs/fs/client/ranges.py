"""The operations on ranges of open files: allocating, punching, seeking, copying; unnamed files.

What changes a file here goes to its shard at once, under the WRITE lease and in order with the
file's commits: everything written before is committed first, what is written meanwhile lies above.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import trio

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Caller, CopyRange, Extent, ExtentKind, Lease
from cfs.core.errors import CfsError, Condemned, FsError
from cfs.core.ids import Ino, shard_of
from cfs.core.meta.extents import end_of
from cfs.core.meta.files import SIZE_MAX
from cfs.fs.client.contents import Handle
from cfs.fs.client.dirty import Dirty
from cfs.fs.client.file import File
from cfs.fs.client.locking import Locking

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
"""Of `linux/falloc.h`."""
COPY_BYTES_MAX = 256 << 20
"""One copy by reference; a quarter of it when that is too many extents for one entry."""
COPY_PIECE = 1 << 20
COPY_SLOW_MAX = 16 << 20
"""One call that copies bytes ends after that many: it may be long."""
SEEK_WINDOW = 64 << 20


class Ranges(Locking):
    """Range operations of `Files`."""

    # --- allocating and punching

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """Extend, punch or zero a range, as the system call of that name.

        Space is not reserved: a later write may still meet ENOSPC. `mode` 0 extends the file,
        KEEP_SIZE alone does nothing, PUNCH_HOLE | KEEP_SIZE and ZERO_RANGE (| KEEP_SIZE) make a
        hole. Durable on return. Raises EBADF, EINVAL, EFBIG, EOPNOTSUPP.
        """
        handle = self.handle(fh)
        file = handle.file
        if mode not in {
            0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE,
        }:  # fmt: skip
            raise FsError(errno.EOPNOTSUPP)
        if offset < 0 or length <= 0:
            raise FsError(errno.EINVAL)
        if not handle.writes:
            raise FsError(errno.EBADF)
        stop = offset + length
        if stop > SIZE_MAX:
            raise FsError(errno.EFBIG)
        if mode == KEEP_SIZE:
            return
        self.report(handle)

        def operation() -> meta.Commit | None:
            keeps = bool(mode & KEEP_SIZE)
            end = min(stop, file.size) if keeps else stop
            zeroed = mode and offset < end
            if not zeroed and (keeps or end <= file.size):
                return None
            return meta.Commit(
                ino=file.ino,
                extents=(Extent(offset=offset, length=end - offset),) if zeroed else (),
                size=None if zeroed else end,
                mtime_ns=self.client.clock.time_ns(),
            )

        await self._change(file, operation)

    # --- seeking

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """Find data or a hole (SEEK_DATA, SEEK_HOLE) from `offset`, exactly, unwritten bytes too.

        Raises ENXIO past the end, or when no data follows; EINVAL for another `whence`.
        """
        file = self.handle(fh).file
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise FsError(errno.EINVAL)
        if offset < 0:
            raise FsError(errno.ENXIO)
        while True:
            seen = file.changes
            found = await self._seek(file, offset, data=whence == os.SEEK_DATA)
            if file.changes == seen:
                break
        if found is None:
            raise FsError(errno.ENXIO)
        return found

    async def _seek(self, file: File, offset: int, *, data: bool) -> int | None:
        at = offset
        while True:
            tiles, attr = await self._tiles(file, at, at + SEEK_WINDOW)
            size = file.view(attr).size
            if at >= size:
                return None if data or not offset < size else size
            stop = min(size, max(at + SEEK_WINDOW, end_of(tiles, 0)))
            spans = _data_spans(tiles, file, at, stop)
            for start, end in spans:
                if data:
                    return max(start, at)
                if start > at:
                    return at
                at = max(at, end)
            if not data and at < stop:
                return at
            at = stop

    # --- copying

    async def copy_file_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int, flags: int = 0
    ) -> int:
        """Copy up to `length` bytes; give how many, 0 at the end of the source.

        By reference, durable on return, where both files are of one shard; otherwise bytes are
        read and buffered as by `write`, some 16 MiB a call. Raises EBADF, EINVAL (flags, overlap,
        no file), EISDIR, EFBIG, and what `read` and `write` raise.
        """
        source, target = self.handle(fh_in), self.handle(fh_out)
        if flags or min(offset_in, offset_out, length) < 0:
            raise FsError(errno.EINVAL)
        _check_copy(source, target)
        if source.file is target.file and abs(offset_in - offset_out) < length:
            raise FsError(errno.EINVAL)
        length = await self._copyable(source, offset_in, target, offset_out, length)
        if not length:
            return 0
        done = 0
        if source.file.node.shard == target.file.node.shard:
            done = await self._share(source.file, offset_in, target.file, offset_out, length)
        return done or await self._copy_bytes(fh_in, offset_in, fh_out, offset_out, length)

    async def _copyable(
        self, source: Handle, start: int, target: Handle, to: int, length: int
    ) -> int:
        """Give how much of what is asked for there is to copy. Raises as `copy_file_range`."""
        size = await self._size(source.file.ino)
        await self._size(target.file.ino)
        length = min(length, size - start)
        if length <= 0:
            return 0
        if to + length > SIZE_MAX:
            raise FsError(errno.EFBIG)
        self.report(target)
        return length

    async def _size(self, ino: int) -> int:
        attr = await self.getattr(ino)
        if not stat.S_ISREG(attr.mode):
            raise FsError(errno.EISDIR if stat.S_ISDIR(attr.mode) else errno.EINVAL)
        return attr.size

    async def _share(self, source: File, start: int, file: File, to: int, length: int) -> int:
        """Copy by reference; give how many bytes: short where bytes must be copied instead."""
        client = self.client
        done, piece = 0, COPY_BYTES_MAX
        while length - done > client.limits.inline:
            piece = min(piece, length - done)
            try:
                copied = await self._share_once(source, start + done, file, to + done, piece)
            except Condemned:
                break
            except FsError as error:
                if error.errno != errno.E2BIG:
                    raise
                piece //= 4
                if piece <= client.limits.inline:
                    break
                continue
            if not copied:
                break
            done += copied
        return done

    async def _share_once(self, source: File, start: int, file: File, to: int, length: int) -> int:
        client = self.client
        if source.unclean:
            await client.writeback.flush(source, client.deadline())
        else:
            await self._tiles(source, start, start + 1)  # what others have written is committed

        def operation() -> CopyRange:
            return CopyRange(
                ino=file.ino, to=to, source=source.ino, start=start, length=length,
                mtime_ns=client.clock.time_ns(),
            )  # fmt: skip

        attrs = await self._change(file, operation)
        return max(0, min(length, attrs[1].size - start))

    async def _copy_bytes(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int
    ) -> int:
        done = 0
        length = min(length, COPY_SLOW_MAX)
        while done < length:
            data = await self.read(fh_in, offset_in + done, min(COPY_PIECE, length - done))
            if not data:
                break
            done += await self.write(fh_out, offset_out + done, data)
        return done

    # --- files without a name

    async def create_unnamed(
        self, parent: int, mode: int, flags: int, *, uid: int = 0, gid: int = 0,
        umask: int = 0, caller: Caller | None = None,
    ) -> tuple[int, Attr]:  # fmt: skip
        """Make and open a file without a name, as O_TMPFILE does; `link` may name it.

        With O_EXCL it never gets one. It goes with its last handle. Raises ENOENT, ENOTDIR.
        """
        client = self.client
        shard = shard_of(Ino(parent))
        lease = Lease.READ | Lease.WRITE | Lease.OPEN
        op = meta.MakeOrphan(
            parent=parent, mode=stat.S_IFREG | stat.S_IMODE(mode), uid=uid, gid=gid,
            lease=int(lease), linkable=not flags & os.O_EXCL, umask=umask, caller=caller,
        )  # fmt: skip
        with client.writeback.request() as token:
            with trio.CancelScope(shield=True):  # else nobody would know what to give back
                _, result = await client.session.mutate(shard, op, deadline=client.deadline())
            attr = result.attrs[0]
            node = client.cache.learn_attr(attr, lease, token)
            file = client.writeback.file(attr.ino)
            if node is not None:
                node.xattr_names = frozenset()
                file.take_write(attr)
                file.learn_tiles([], 0, 0)
            file.opens += 1
            if client.fences.passes(token, attr.ino):
                client.pinned_now(attr.ino)
        try:
            if not file.pinned:
                await client.pin(attr.ino, client.deadline())
        except BaseException:
            self.closed(file)
            raise
        return self._opened(file, flags & ~os.O_TRUNC), attr

    # --- inside

    async def _change(
        self, file: File, operation: Callable[[], meta.Commit | CopyRange | None]
    ) -> tuple[Attr, ...]:
        """Change the file in its shard, after everything written to it before.

        `operation` is asked once the lease is held and may say that nothing is to be done.
        """
        client = self.client
        while True:
            deadline = client.deadline()
            await client.session.ensure(file.node.shard, deadline)
            await client.writeback.acquire(file, deadline)
            if file.unclean:
                await client.writeback.flush(file, deadline)
            async with file.flush_lock:
                if not client.writeback.writable(file):
                    continue
                op = operation()
                if op is None:
                    return ()
                file.mtime_ns = op.mtime_ns or file.mtime_ns
                try:
                    return await self._apply(file, op, deadline)
                except FsError as error:
                    if error.errno != errno.ESTALE:
                        raise
                    client.cache.forget(file.ino)  # the lease is gone: take it again

    async def _apply(
        self, file: File, op: meta.Commit | CopyRange, deadline: float
    ) -> tuple[Attr, ...]:
        client = self.client
        with client.writeback.request() as token, trio.CancelScope(shield=True):
            lane = await client.session.data_lane(file.node.shard, deadline)
            try:
                _, result = await lane.answer(lane.enqueue(op), deadline=deadline)
            except (FsError, Condemned):
                raise  # it did not take effect
            except CfsError:
                client.cache.forget(file.ino)
                raise
            attr = result.attrs[0]
            client.cache.learn_change(attr, token)
            file.committed(list(op.extents) if isinstance(op, meta.Commit) else [], attr)
            if isinstance(op, CopyRange):
                file.tiles_epoch = -1
            file.size = max(file.size, attr.size)
        return result.attrs


def _check_copy(source: Handle, target: Handle) -> None:
    if source.flags & os.O_ACCMODE == os.O_WRONLY:
        raise FsError(errno.EBADF)
    if not target.writes or target.flags & os.O_APPEND:
        raise FsError(errno.EBADF)


def _data_spans(tiles: list[Extent], file: File, start: int, stop: int) -> list[tuple[int, int]]:
    """List what is data of `[start, stop)`, committed or not, in order, joined."""
    layers: list[Dirty] = [layer for layer in (file.flushing, file.dirty) if layer]
    spans = [(t.offset, t.offset + t.length) for t in tiles if t.kind != ExtentKind.HOLE]
    spans += [(at, at + len(run)) for layer in layers for at, run in layer.runs()]
    joined: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        low, high = max(low, start), min(high, stop)  # noqa: PLW2901 - clipped
        if low >= high:
            continue
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return joined
