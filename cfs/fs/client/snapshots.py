"""The operations of `Files` on what snapshots show: read-only, by the numbers of `numbers`.

Each does for those numbers what it is called for and leaves all others to the class below. A change
raises EROFS. Locks on what cannot change are granted and forgotten. The ways that need no waiting
(`instant`) know none of these numbers, so they leave them to the methods here.

Copying from a snapshot, or from one shard to another, shares the bytes: the target's extents name
the same segments, which only small inline pieces do not have.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import msgspec

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Caller, Extent, ExtentKind
from cfs.core.errors import Condemned, FsError, NotFound
from cfs.core.ids import ROOT_INO, Ino, shard_of
from cfs.core.meta import access, extents
from cfs.core.meta import acl as lists
from cfs.core.meta.entries import SNAPSHOTS
from cfs.fs.client import trash
from cfs.fs.client.attributes import access_list
from cfs.fs.client.contents import Handle
from cfs.fs.client.handover import Handed, Handover
from cfs.fs.client.listing import Directory, Listed
from cfs.fs.client.numbers import PAST, seen_in, slot_of
from cfs.fs.client.past import Past, PastFile
from cfs.fs.client.trash import TRASH, Trash

KEEP_S = 86_400.0
"""How long a kernel may keep what a snapshot shows: it asks again when it is looked up anew."""
SHARE_BYTES_MAX = 64 << 20
"""Shared in one commit, at most; a layout reply bounds it too."""
AHEAD_BYTES = 8 << 20


class Snapshots(Handover):
    """Operations on snapshots, over those on the present."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.past = Past(client.router, client.deadline)
        self.trash = Trash(client.router, client.deadline, self.path_of)

    # --- what a gateway may keep

    def past_trust_s(self, ino: int) -> float:
        """Give how long attributes of what a snapshot shows may be cached below."""
        return KEEP_S if slot_of(ino) else 0.0

    def past_lease(self, ino: int) -> int | None:
        """Name what takes a lease's place: one for ever, none on `.snapshots` itself."""
        return 0 if slot_of(ino) else None

    # --- names and attributes

    async def lookup(self, parent: int, name: bytes, *, caller: Caller | None = None) -> Attr:
        """See `Names.lookup`."""
        if parent >= PAST:
            access.may_enter(await self.getattr(parent), caller)
            if name in {b".", b".."}:
                here = await self.getattr(parent)
                return here if name == b"." else await self.getattr(here.parent)
            if parent == TRASH:
                return (await self.trash.find(name)).attr
            if parent == seen_in(0, ROOT_INO) and name == trash.NAME:
                return self.trash.attr()
            return await self.past.lookup(parent, name)
        if name == SNAPSHOTS:
            directory = await super().getattr(parent)
            access.may_enter(directory, caller)
            if not stat.S_ISDIR(directory.mode):
                raise FsError(errno.ENOTDIR)
            return self.past.door(directory)
        return await super().lookup(parent, name, caller=caller)

    async def getattr(self, ino: int) -> Attr:
        """See `Names.getattr`."""
        if ino < PAST:
            return await super().getattr(ino)
        if slot_of(ino):
            return await self.past.attr(ino)
        if ino == TRASH:
            return self.trash.attr()
        return self.past.door(await super().getattr(self.past.present(ino)))

    async def getxattr(self, ino: int, name: bytes, *, caller: Caller | None = None) -> bytes:
        """See `Attributes.getxattr`."""
        if ino < PAST:
            return await super().getxattr(ino, name, caller=caller)
        attr = await self.getattr(ino)
        access.may_get_xattr(attr, name, caller)
        if ino == TRASH:
            return await self.trash.told(name)
        return access_list(attr, name) if name in lists.NAMES else await self.past.xattr(ino, name)

    async def _xattr_names(self, ino: int) -> frozenset[bytes]:
        return await (self.past.xattr_names(ino) if ino >= PAST else super()._xattr_names(ino))

    async def _list_page(self, directory: Directory, cookie: int, limit: int) -> list[Listed]:
        if directory.ino == TRASH:
            return await self.trash.listing(cookie, limit)
        if directory.ino >= PAST:
            return await self.past.listing(directory.ino, cookie, limit)
        return await super()._list_page(directory, cookie, limit)

    async def path_of(self, ino: int) -> bytes:
        """Give the path of a directory of the present. Raises ENOENT."""
        names: list[bytes] = []
        while ino != ROOT_INO:
            attr = await self.getattr(ino)
            if not attr.nlink:
                raise FsError(errno.ENOENT)
            names.append(await self._name_of(ino, attr.parent))
            ino = attr.parent
        return b"/" + b"/".join(reversed(names))

    async def _name_of(self, ino: int, parent: int) -> bytes:
        handle, cookie = await self.opendir(parent), 0
        try:
            while page := await self.readdir(handle, cookie):
                for listed in page:
                    if listed.ino == ino:
                        return listed.name
                cookie = page[-1].cookie
        finally:
            await self.releasedir(handle)
        raise FsError(errno.ENOENT)

    # --- changes

    async def create(self, parent: int, name: bytes, mode: int, **more: Any) -> Any:
        """See `Names.create`."""
        _refuse(parent)
        return await super().create(parent, name, mode, **more)

    async def create_unnamed(self, parent: int, mode: int, flags: int, **more: Any) -> Any:
        """See `Ranges.create_unnamed`."""
        _refuse(parent)
        return await super().create_unnamed(parent, mode, flags, **more)

    async def link(self, ino: int, parent: int, name: bytes, *more: Any, **named: Any) -> Attr:
        """See `Names.link`."""
        _refuse(ino, parent)
        return await super().link(ino, parent, name, *more, **named)

    async def unlink(self, parent: int, name: bytes, *more: Any, **named: Any) -> None:
        """See `Names.unlink`."""
        if parent == TRASH:
            await self.trash.purge(name)
            return
        _refuse(parent)
        await super().unlink(parent, name, *more, **named)

    async def rmdir(self, parent: int, name: bytes, *more: Any, **named: Any) -> None:
        """See `Names.rmdir`."""
        if parent == TRASH:
            await self.trash.purge(name)
            return
        _refuse(parent)
        await super().rmdir(parent, name, *more, **named)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *more: Any, **named: Any
    ) -> None:
        """See `Names.rename`."""
        if parent == TRASH and new_parent < PAST:
            thrown = await self.trash.find(name)
            if stat.S_ISDIR(thrown.attr.mode):
                raise FsError(errno.EXDEV, "make a directory anew and move what was in it there")
            await super().link(thrown.attr.ino, new_parent, new_name)
            return
        _refuse(parent, new_parent)
        await super().rename(parent, name, new_parent, new_name, *more, **named)

    async def setattr(self, ino: int, **changes: Any) -> Attr:
        """See `Attributes.setattr`."""
        _refuse(ino)
        return await super().setattr(ino, **changes)

    async def _change_xattr(self, op: meta.SetXattr | meta.RemoveXattr) -> None:
        _refuse(op.ino)
        await super()._change_xattr(op)

    async def setlk(self, ino: int, *arguments: Any, **named: Any) -> None:
        """See `Locking.setlk`."""
        if ino < PAST:
            await super().setlk(ino, *arguments, **named)

    async def getlk(self, ino: int, *arguments: Any, **named: Any) -> Any:
        """See `Locking.getlk`."""
        return None if ino >= PAST else await super().getlk(ino, *arguments, **named)

    # --- open files

    async def open(
        self, ino: int, flags: int, *, caller: Caller | None = None, drop_ids: bool = False
    ) -> int:
        """See `Contents.open`."""
        if ino < PAST:
            return await super().open(ino, flags, caller=caller, drop_ids=drop_ids)
        access.check(await self.getattr(ino), caller, access.wanted(flags))
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise FsError(errno.EROFS)
        fh = self._take_handle()
        self._handles[fh] = _opened(ino, flags)
        return fh

    def take_over(self, handed: Handed) -> None:
        """See `Handover.take_over`."""
        present = tuple(o for o in handed.files if o.ino < PAST)
        super().take_over(msgspec.structs.replace(handed, files=present))
        for opened in handed.files:
            if opened.ino >= PAST:
                self._handles[opened.fh] = _opened(opened.ino, opened.flags)

    def closed(self, file: Any) -> None:
        """See `Attributes.closed`."""
        if file.ino < PAST:
            super().closed(file)

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        """See `Contents.read`."""
        file: Any = self.handle(fh).file
        if file.ino < PAST:
            return await super().read(fh, offset, length)
        attr = await self.past.attr(file.ino)
        stop = min(offset + length, attr.size)
        if stop <= offset:
            return b""
        for again in (True, False):
            tiles = await self.past.tiles(file, offset, stop)
            try:
                data = await self._assemble(tiles, offset, stop, [], stop)
            except NotFound:  # packed or compacted meanwhile: ask where the bytes are now
                file.start = file.stop = 0
                if not again:
                    raise
            else:
                break
        if offset == file.next_offset and stop < attr.size:
            ahead = [t for t in file.tiles if stop <= t.offset < stop + AHEAD_BYTES]
            assert self.client.nursery is not None
            self.client.nursery.start_soon(self._prefetch, ahead)
        file.next_offset = stop
        return data

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """See `Ranges.lseek`."""
        file: Any = self.handle(fh).file
        if file.ino < PAST:
            return await super().lseek(fh, offset, whence)
        size = (await self.past.attr(file.ino)).size
        if not 0 <= offset < size:
            raise FsError(errno.ENXIO)
        wanted, at = whence == os.SEEK_HOLE, offset
        while at < size:
            for tile in await self.past.tiles(file, at, min(size, at + SHARE_BYTES_MAX)):
                if (tile.kind is ExtentKind.HOLE) == wanted:
                    return max(offset, tile.offset)
                at = tile.offset + tile.length
        if not wanted:
            raise FsError(errno.ENXIO)
        return size

    # --- sharing bytes

    async def copy_file_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int, flags: int = 0
    ) -> int:
        """See `Ranges.copy_file_range`; from snapshots too, and by reference across shards."""
        source, target = self.handle(fh_in), self.handle(fh_out)
        past = source.file.ino >= PAST
        apart = past or shard_of(Ino(source.file.ino)) != shard_of(Ino(target.file.ino))
        if not apart or not target.writes or target.flags & os.O_APPEND or flags:
            if past:
                raise FsError(errno.EINVAL if flags else errno.EBADF)
            return await super().copy_file_range(
                fh_in, offset_in, fh_out, offset_out, length, flags
            )
        if min(offset_in, offset_out, length) < 0:
            raise FsError(errno.EINVAL)
        length = await self._copyable(source, offset_in, target, offset_out, length)
        if not length:
            return 0
        done = 0
        while done < length:
            shared = await self._lay(
                source, offset_in + done, target, offset_out + done, length - done
            )
            if not shared:
                break
            done += shared
        return done or await self._copy_bytes(fh_in, offset_in, fh_out, offset_out, length)

    async def _lay(self, source: Handle, start: int, target: Handle, to: int, length: int) -> int:
        """Share the bytes that one layout reply tells of; give how many, 0 if it cannot be."""
        client = self.client
        stop = start + min(length, SHARE_BYTES_MAX)
        if source.file.ino >= PAST:
            request = meta.Layout(shard=0, session=0, ino=0, offset=start, length=stop - start)
            reply = await self.past.layout(source.file.ino, request)
        else:
            if source.file.unclean:
                await client.writeback.flush(source.file, client.deadline())
            shard = source.file.node.shard
            request = meta.Layout(
                shard=shard, session=client.session.id, ino=source.file.ino, offset=start,
                length=stop - start,
            )  # fmt: skip
            reply = await client.session.read(
                shard, "meta.layout", request, deadline=client.deadline()
            )
        stop = min(stop, reply.end, reply.attr.size)
        moved = [_moved(e, start, stop, to - start) for e in reply.extents if e.offset < stop]
        if not moved:
            return 0

        def operation() -> meta.Commit:
            now = client.clock.time_ns()
            return meta.Commit(ino=target.file.ino, extents=tuple(moved), mtime_ns=now)

        try:
            await self._change(target.file, operation)
        except Condemned:
            return 0
        return stop - start


def _moved(extent: Extent, start: int, stop: int, shift: int) -> Extent:
    """Cut an extent to a range and move it to where it goes, its sealed bytes with it."""
    cut = extents.cut(extent, max(extent.offset, start), min(extent.offset + extent.length, stop))
    return msgspec.structs.replace(
        cut, offset=cut.offset + shift, inline=extent.inline, inline_id=0
    )


def _opened(ino: int, flags: int) -> Handle:
    return Handle(file=PastFile(ino), flags=flags, errors_seen=0)  # type: ignore[arg-type]


def _refuse(*inos: int) -> None:
    if any(ino >= PAST for ino in inos):
        raise FsError(errno.EROFS, "snapshots do not change")
