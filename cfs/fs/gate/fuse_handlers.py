"""The handlers of a pyfuse3 mount: thin translators between the kernel's requests and `Files`.

What the kernel may cache: attributes for as long as the lease is sure to last, and until it is
recalled; pages likewise; names not at all (`Files` answers lookups from its leased cache). Its
write-back cache stays off: sizes, times and the order of writes and renames are ours. Permissions
are the kernel's to check (`default_permissions`).

Files opened to append bypass the page cache: the kernel places an append where *it* last saw the
end, which another client may have moved; `Files` places it at the true end.
"""

# ruff: noqa: ARG002  pyfuse3 names the arguments of its handlers

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
import pyfuse3
import structlog

from cfs.core.api.meta import Attr
from cfs.core.errors import CfsError
from cfs.fs.client.files import Files
from cfs.fs.client.listing import Listed
from cfs.fs.client.space import INODES_MAX
from cfs.fs.gate.errnos import LOUD, errno_of
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator

_LOG = structlog.get_logger()
_P = ParamSpec("_P")
_R = TypeVar("_R")

BLOCK = 4096
REQUEST_BYTES = 1 << 20
NAME_BYTES_MAX = 255
COOKIE_START, COOKIE_SELF, COOKIE_PARENT = 0, 1, 2
"""Where a listing begins; after `.`; after `..`. Real entries have greater ones."""
_ACL = b"system.posix_acl_"


def _answers(
    method: Callable[Concatenate[Gate, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[Gate, _P], Coroutine[Any, Any, _R]]:
    """Let nothing but FUSEError out of a handler: anything else would end the mount."""

    @functools.wraps(method)
    async def handler(self: Gate, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await method(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except CfsError as error:
            number = errno_of(error)
            if number in LOUD:
                _LOG.warning("fuse_error", operation=method.__name__, error=str(error))
            raise pyfuse3.FUSEError(number) from None
        except Exception:  # noqa: BLE001 a defect must not end the mount
            _LOG.exception("fuse_defect", operation=method.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return handler  # type: ignore[return-value]  # wraps hides that `self` is positional


class _Listing:
    """What a directory handle has fetched and not given yet."""

    __slots__ = ("entries", "index", "ino")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.entries: list[Listed] = []
        self.index = 0

    def seek(self, cookie: int) -> bool:
        """Stand after `cookie` if that is inside what is here."""
        if not cookie:
            return False
        if self.index and self.entries[self.index - 1].cookie == cookie:
            return self.index < len(self.entries)
        for index, entry in enumerate(self.entries):
            if entry.cookie == cookie:
                self.index = index + 1
                return self.index < len(self.entries)
        return False


class Gate(pyfuse3.Operations):
    """The request handlers."""

    def __init__(self, files: Files) -> None:
        super().__init__()
        self.files = files
        self.inodes = Inodes()
        self.invalidator = Invalidator(self.inodes, pyfuse3.invalidate_inode)
        self._listings: dict[int, _Listing] = {}

    # --- attributes

    def _attributes(self, attr: Attr) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = attr.ino
        entry.generation = attr.generation
        entry.entry_timeout = 0
        stale = self.invalidator.pending(attr.ino)
        entry.attr_timeout = 0.0 if stale else self.files.trust_left_s(attr.ino)
        entry.st_mode = attr.mode
        entry.st_nlink = attr.nlink
        entry.st_uid = attr.uid
        entry.st_gid = attr.gid
        entry.st_rdev = attr.rdev
        entry.st_size = len(attr.target) if stat.S_ISLNK(attr.mode) else attr.size
        entry.st_blksize = REQUEST_BYTES
        entry.st_blocks = (attr.allocated + 511) // 512
        entry.st_atime_ns = attr.atime_ns
        entry.st_mtime_ns = attr.mtime_ns
        entry.st_ctime_ns = attr.ctime_ns
        return entry

    def _entry(self, attr: Attr) -> pyfuse3.EntryAttributes:
        """Give an entry to the kernel, counted."""
        self.inodes.looked_up(attr.ino)
        return self._attributes(attr)

    @_answers
    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self.files.lookup(parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self.inodes.forget(inode_list)

    @_answers
    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        if self.invalidator.pending(inode):
            await self.invalidator.settled(inode)
        return self._attributes(await self.files.getattr(inode))

    @_answers
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        mode = stat.S_IMODE(attr.st_mode) if fields.update_mode else None
        changed = await self.files.setattr(
            inode,
            mode=mode,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._attributes(changed)

    @_answers
    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return await self.files.readlink(inode)

    # --- names

    @_answers
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self.files.mknod(parent_inode, name, mode, rdev, uid=ctx.uid, gid=ctx.gid)
        )

    @_answers
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self.files.mkdir(parent_inode, name, mode, uid=ctx.uid, gid=ctx.gid)
        )

    @_answers
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self.files.symlink(parent_inode, name, target, uid=ctx.uid, gid=ctx.gid)
        )

    @_answers
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self.files.link(inode, new_parent_inode, new_name))

    @_answers
    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self.files.unlink(parent_inode, name)

    @_answers
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self.files.rmdir(parent_inode, name)

    @_answers
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes,
        flags: int, ctx: Any,
    ) -> None:  # fmt: skip
        if flags & ~(pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE):
            raise pyfuse3.FUSEError(errno.EINVAL)
        await self.files.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # --- directories

    @_answers
    async def opendir(self, inode: int, ctx: Any) -> int:
        fh = await self.files.opendir(inode)
        self._listings[fh] = _Listing(inode)
        return fh

    @_answers
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        listing = self._listings[fh]
        cookie = start_id
        if cookie < COOKIE_PARENT:
            if not await self._give_dots(listing.ino, cookie, token):
                return
            cookie = COOKIE_START
        elif cookie == COOKIE_PARENT:
            cookie = COOKIE_START
        inside = listing.seek(cookie)
        while True:
            if not inside:
                listing.entries = await self.files.readdir(fh, cookie)
                listing.index = 0
                if not listing.entries:
                    return
            while listing.index < len(listing.entries):
                listed = listing.entries[listing.index]
                attr = self.files.fresh(listed)
                if attr is not None:
                    entry = self._attributes(attr)
                    if not pyfuse3.readdir_reply(token, listed.name, entry, listed.cookie):
                        return
                    self.inodes.looked_up(attr.ino)
                cookie = listed.cookie
                listing.index += 1
            inside = False

    async def _give_dots(self, ino: int, cookie: int, token: Any) -> bool:
        """Give `.` and `..`, which no directory stores; False when the kernel has no more room."""
        here = await self.files.getattr(ino)
        if cookie == COOKIE_START and not pyfuse3.readdir_reply(
            token, b".", self._attributes(here), COOKIE_SELF
        ):
            return False
        # the parent is found by number only: it may lie outside what this listing may touch
        above = msgspec.structs.replace(here, ino=here.parent or ino)
        return bool(pyfuse3.readdir_reply(token, b"..", self._attributes(above), COOKIE_PARENT))

    @_answers
    async def releasedir(self, fh: int) -> None:
        self._listings.pop(fh, None)
        await self.files.releasedir(fh)

    @_answers
    async def fsyncdir(self, fh: int, datasync: bool) -> None:  # noqa: FBT001
        await self.files.fsyncdir(fh)

    # --- open files

    def _info(self, fh: int, ino: int, flags: int) -> pyfuse3.FileInfo:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        return pyfuse3.FileInfo(
            fh=fh,
            direct_io=bool(writes and flags & os.O_APPEND),
            keep_cache=self.inodes.may_keep(ino, self.files.lease_epoch(ino)),
        )

    @_answers
    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        return self._info(await self.files.open(inode, flags), inode, flags)

    @_answers
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        fh, attr = await self.files.create_file(
            parent_inode, name, mode, flags, uid=ctx.uid, gid=ctx.gid
        )
        return self._info(fh, attr.ino, flags), self._entry(attr)

    @_answers
    async def read(self, fh: int, off: int, size: int) -> bytes:
        data = await self.files.read(fh, off, size)
        ino = self.files.handle(fh).file.ino
        if self.files.lease_epoch(ino) is None:
            self.inodes.tainted.add(ino)
        return data

    @_answers
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        ino = self.files.handle(fh).file.ino
        self.invalidator.write_begins(ino)
        try:
            return await self.files.write(fh, off, buf)
        finally:
            self.invalidator.write_ends(ino)

    @_answers
    async def flush(self, fh: int) -> None:
        await self.files.flush(fh)

    @_answers
    async def fsync(self, fh: int, datasync: bool) -> None:  # noqa: FBT001
        await self.files.fsync(fh, datasync=datasync)

    @_answers
    async def release(self, fh: int) -> None:
        await self.files.release(fh)

    # --- the rest

    @_answers
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        totals = await self.files.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK
        data.f_blocks = totals.capacity // BLOCK
        data.f_bfree = data.f_bavail = totals.free // BLOCK
        data.f_files = INODES_MAX
        data.f_ffree = data.f_favail = INODES_MAX - totals.inodes
        data.f_namemax = NAME_BYTES_MAX
        return data

    @_answers
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        _refuse_acl(name)
        return await self.files.getxattr(inode, name)

    @_answers
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return sorted(await self.files.listxattr(inode))

    @_answers
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        _refuse_acl(name)
        await self.files.setxattr(inode, name, value)

    @_answers
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        _refuse_acl(name)
        await self.files.removexattr(inode, name)


def _refuse_acl(name: bytes) -> None:
    """ACLs that nobody would enforce are not stored."""
    if name.startswith(_ACL):
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)
