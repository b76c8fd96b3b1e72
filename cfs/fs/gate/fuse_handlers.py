"""The handlers of a pyfuse3 mount: thin translators between the kernel's requests and `Files`.

What the kernel may cache: attributes for as long as the lease is sure to last, and until it is
recalled; pages likewise; names not at all (`Files` answers lookups from its leased cache). Its
write-back cache stays off: sizes, times and the order of writes and renames are ours. Permissions
are checked by the kernel (`default_permissions`), then by `Files` and the shards.

pyfuse3 cannot have the kernel leave the umask to us: it goes before an inherited access list is
looked at. With libfuse the kernel takes set-id bits away, but for O_TRUNC, where it is done here.
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

from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import CfsError
from cfs.core.meta import access
from cfs.fs.client.files import Files
from cfs.fs.gate.callers import Callers, Maker, outward
from cfs.fs.gate.errnos import LOUD, errno_of
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.fuse_listing import Listing
from cfs.fs.gate.invalidate import Invalidator
from cfs.fs.gate.kernel.attributes import TIME_MAX, TIME_MIN

_LOG = structlog.get_logger()
_P = ParamSpec("_P")
_R = TypeVar("_R")

_PRESENT_NS = 10**9
BLOCK = 4096
REQUEST_BYTES = 1 << 20
NAME_BYTES_MAX = 255
COOKIE_START, COOKIE_SELF, COOKIE_PARENT = 0, 1, 2
"""Where a listing begins; after `.`; after `..`. Real entries have greater ones."""


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


class Gate(pyfuse3.Operations):
    """The request handlers."""

    enable_acl = True

    def __init__(self, files: Files, *, root: int = 1, squash: bool = False) -> None:
        super().__init__()
        self.files = files
        self.root = root
        self.callers = Callers(squash=squash)
        self.inodes = Inodes(root)
        self.invalidator = Invalidator(self.inodes, outward(root, pyfuse3.invalidate_inode))
        self.supports_dot_lookup = root == pyfuse3.ROOT_INODE
        self._listings: dict[int, Listing] = {}

    # --- whose, and where

    def _caller(self, ctx: Any) -> Caller | None:
        return self.callers.of(ctx.uid, ctx.gid, ctx.pid)

    def _maker(self, ctx: Any) -> Maker:
        caller = self._caller(ctx)
        if caller is None:
            return {"uid": ctx.uid, "gid": ctx.gid, "caller": None}
        return {"uid": caller.uid, "gid": caller.gid, "caller": caller}

    def _inner(self, node: int) -> int:
        """Give the inode of a kernel's node; below a sub-directory only of those given by name."""
        if self.root == pyfuse3.ROOT_INODE:
            return node
        if node == pyfuse3.ROOT_INODE:
            return self.root
        if not self.inodes.known(node):
            raise pyfuse3.FUSEError(errno.ESTALE)
        return node

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
        parent = self._inner(parent_inode)
        return self._entry(await self.files.lookup(parent, name, caller=self._caller(ctx)))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self.inodes.forget(inode_list)

    @_answers
    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        inode = self._inner(inode)
        if self.invalidator.pending(inode):
            await self.invalidator.settled(inode)
        return self._attributes(await self.files.getattr(inode))

    @_answers
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        inode, caller = self._inner(inode), self._caller(ctx)
        mode = stat.S_IMODE(attr.st_mode) if fields.update_mode else None
        drop_ids = mode is not None and caller is not None and await self._drops(inode, mode)
        if fh is not None and fields.update_size and self.files.handle(fh).writes:
            caller = None  # decided when it was opened
        changed = await self.files.setattr(
            inode,
            mode=None if drop_ids else mode,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=_stored(attr.st_atime_ns) if fields.update_atime else None,
            mtime_ns=_stored(attr.st_mtime_ns) if fields.update_mtime else None,
            now=self._of_now(attr, fields),
            drop_ids=drop_ids,
            caller=caller,
        )
        return self._attributes(changed)

    async def _drops(self, ino: int, mode: int) -> bool:
        """Tell whether a mode is the present one without set-id bits: a write took them away."""
        before = (await self.files.getattr(ino)).mode
        return mode == stat.S_IMODE(access.without_ids(before)) != stat.S_IMODE(before)

    def _of_now(self, attr: Any, fields: Any) -> bool:
        """Tell whether both times are set to the present one, which pyfuse3 does not say."""
        if not (fields.update_atime and fields.update_mtime):
            return bool(fields.update_size)
        now = self.files.client.clock.time_ns()
        return bool(max(abs(attr.st_atime_ns - now), abs(attr.st_mtime_ns - now)) < _PRESENT_NS)

    @_answers
    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return await self.files.readlink(self._inner(inode))

    # --- names

    @_answers
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self.files.mknod(
                self._inner(parent_inode), name, mode, rdev, umask=ctx.umask, **self._maker(ctx)
            )
        )

    @_answers
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self.files.mkdir(
                self._inner(parent_inode), name, mode, umask=ctx.umask, **self._maker(ctx)
            )
        )

    @_answers
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self.files.symlink(self._inner(parent_inode), name, target, **self._maker(ctx))
        )

    @_answers
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        parent = self._inner(new_parent_inode)
        return self._entry(
            await self.files.link(self._inner(inode), parent, new_name, caller=self._caller(ctx))
        )

    @_answers
    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self.files.unlink(self._inner(parent_inode), name, caller=self._caller(ctx))

    @_answers
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self.files.rmdir(self._inner(parent_inode), name, caller=self._caller(ctx))

    @_answers
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes,
        flags: int, ctx: Any,
    ) -> None:  # fmt: skip
        if flags & ~(pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE):
            raise pyfuse3.FUSEError(errno.EINVAL)
        await self.files.rename(
            self._inner(parent_inode_old), name_old, self._inner(parent_inode_new), name_new, flags,
            caller=self._caller(ctx),
        )  # fmt: skip

    # --- directories

    @_answers
    async def opendir(self, inode: int, ctx: Any) -> int:
        inode = self._inner(inode)
        fh = await self.files.opendir(inode, caller=self._caller(ctx))
        self._listings[fh] = Listing(inode)
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
        parent = ino if ino == self.root else here.parent
        above = msgspec.structs.replace(here, ino=parent or ino)
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
        inode, caller = self._inner(inode), self._caller(ctx)
        fh = await self.files.open(inode, flags, caller=caller, drop_ids=caller is not None)
        return self._info(fh, inode, flags)

    @_answers
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        fh, attr = await self.files.create_file(
            self._inner(parent_inode), name, mode, flags, umask=ctx.umask, **self._maker(ctx)
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
        totals = await self.files.statfs(self._inner(pyfuse3.ROOT_INODE))
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK
        data.f_blocks = totals.capacity // BLOCK
        data.f_bfree = totals.free // BLOCK
        data.f_bavail = totals.available // BLOCK
        data.f_files = totals.inodes_max
        data.f_ffree = data.f_favail = totals.inodes_max - totals.inodes
        data.f_namemax = NAME_BYTES_MAX
        return data

    @_answers
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        return await self.files.getxattr(self._inner(inode), name, caller=self._caller(ctx))

    @_answers
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return sorted(await self.files.listxattr(self._inner(inode), caller=self._caller(ctx)))

    @_answers
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        access.check_namespace(name)
        await self.files.setxattr(self._inner(inode), name, value, caller=self._caller(ctx))

    @_answers
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        await self.files.removexattr(self._inner(inode), name, caller=self._caller(ctx))


def _stored(time_ns: int) -> int:
    return max(TIME_MIN, min(time_ns, TIME_MAX))
