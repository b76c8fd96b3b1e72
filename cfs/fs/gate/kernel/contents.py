"""Handlers of open files.

The bytes of a large write become dirty where they landed, those of a small one are copied into the
dirty buffer; a read whose bytes are here is answered from them: no task, no other copy. Files
opened to append bypass the page cache: the kernel places an append where *it* last saw the end,
which another client may have moved; `Files` places it at the true end. A kernel that writes back
(an exclusive mount) places it right.
"""

from __future__ import annotations

import errno
import os

import trio

from cfs.core.api.meta import Caller
from cfs.core.errors import FsError
from cfs.fs.client.files import Files
from cfs.fs.client.landing import Kept
from cfs.fs.gate.callers import Maker
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.directories import Directories
from cfs.fs.gate.kernel.entries import Entries
from cfs.fs.gate.kernel.flags import (
    FSYNC_DATA,
    OPEN_KILL_SUIDGID,
    WRITE_KILL_SUIDGID,
    Fopen,
)
from cfs.fs.gate.kernel.message import Request
from cfs.fs.gate.kernel.replies import DONE, Answer

_KEEP_CACHE = int(Fopen.KEEP_CACHE)
_DIRECT = int(Fopen.DIRECT_IO | Fopen.PARALLEL_DIRECT_WRITES)


class Contents(Directories):
    """Handlers of open files."""

    open_flags = -1
    """Those that count. Where the kernel writes back, an append is where it says."""

    def __init__(
        self, files: Files, inodes: Inodes, invalidator: Invalidator, entries: Entries
    ) -> None:
        super().__init__(files, inodes, invalidator, entries)
        self.landing = files.client.landing
        self.releasing: dict[int, list[trio.Event]] = {}

    def _opened(self, fh: int, ino: int, flags: int) -> bytes:
        said = 0
        if flags & os.O_APPEND and flags & os.O_ACCMODE != os.O_RDONLY:
            said = _DIRECT
        if self.inodes.may_keep(ino, self.files.lease_epoch(ino)):
            said |= _KEEP_CACHE
        return message.OPEN_OUT.pack(fh, said, 0)

    def open(self, request: Request) -> Answer:
        """OPEN, with O_TRUNC done."""
        ino = request.node
        flags, how = request.fields[0] & self.open_flags, request.fields[1]
        caller = self.caller(request)
        fh = self.files.try_open(ino, flags, caller=caller)
        return self._open(ino, flags, how, caller) if fh is None else self._opened(fh, ino, flags)

    async def _open(self, ino: int, flags: int, how: int, caller: Caller | None) -> bytes:
        ids = self.callers.squash or bool(how & OPEN_KILL_SUIDGID)
        fh = await self.files.open(ino, flags, caller=caller, drop_ids=ids)
        if flags & os.O_TRUNC:
            await self.strip(ino, ids=False)
        return self._opened(fh, ino, flags)

    def create(self, request: Request) -> Answer:
        """CREATE."""
        flags, mode, umask, _ = request.fields
        flags &= self.open_flags
        maker = self.maker(request)
        made = self.files.try_create_file(
            request.node, request.names[0], mode, flags, umask=umask, **maker
        )
        if made is not None:
            fh, attr = made
            entry = self.entry(attr, request.node, request.names[0])
            return entry + self._opened(fh, attr.ino, flags)
        return self._create(request.node, request.names[0], mode, flags, umask, maker)

    def tmpfile(self, request: Request) -> Answer:
        """TMPFILE: a file without a name."""
        flags, mode, umask, _ = request.fields
        flags &= self.open_flags
        return self._tmpfile(request.node, mode, flags, umask, self.maker(request))

    async def _tmpfile(self, parent: int, mode: int, flags: int, umask: int, maker: Maker) -> bytes:
        fh, attr = await self.files.create_unnamed(parent, mode, flags, umask=umask, **maker)
        opened = self._opened(fh, attr.ino, flags)
        return self.entry(attr, parent, b"") + opened

    async def _create(
        self, parent: int, name: bytes, mode: int, flags: int, umask: int, maker: Maker
    ) -> bytes:
        fh, attr = await self.files.create_file(parent, name, mode, flags, umask=umask, **maker)
        opened = self._opened(fh, attr.ino, flags)
        return self.entry(attr, parent, name) + opened

    def read(self, request: Request) -> Answer:
        """READ."""
        fh, offset, size, *_ = request.fields
        data = self.files.try_read(fh, offset, size)
        return self._read(request.node, fh, offset, size) if data is None else data

    async def _read(self, ino: int, fh: int, offset: int, size: int) -> bytes:
        data = await self.files.read(fh, offset, size)
        if self.files.lease_epoch(ino) is None:
            self.inodes.tainted.add(ino)
        return data

    def write(self, request: Request) -> Answer:
        """WRITE."""
        fh, offset, size, flags, _, _, _ = request.fields
        data = request.data
        if len(data) != size:
            raise FsError(errno.EINVAL)
        ino = request.node
        ids = flags & WRITE_KILL_SUIDGID != 0 or self.callers.squash
        if not self.privileged(ino, ids=ids):
            written = self.files.try_write(fh, offset, data, self.landing)
            if written is not None:
                return message.WRITE_OUT.pack(written, 0)
        caller = self.caller(request) if ids else None
        held = self.landing.keep(size) or bytes(data)
        return self._write(ino, fh, offset, held, ids=ids, caller=caller)

    async def _write(
        self,
        ino: int,
        fh: int,
        offset: int,
        data: bytes | Kept,
        *,
        ids: bool,
        caller: Caller | None,
    ) -> bytes:
        self.invalidator.write_begins(ino)
        try:
            if self.privileged(ino, ids=ids):
                await self.strip(ino, ids=ids, caller=caller)
            written = await self.files.write(fh, offset, data)
        finally:
            self.invalidator.write_ends(ino)
        return message.WRITE_OUT.pack(written, 0)

    def flush(self, request: Request) -> Answer:
        """FLUSH: close(2) of one descriptor; POSIX locks of its process go with it."""
        fh, _, _, owner = request.fields
        if self.files.try_flush(fh, owner):
            return DONE
        return self._done(self.files.flush(fh, owner))

    def release(self, request: Request) -> Answer:
        """RELEASE: the last descriptor is closed, which nobody waits for."""
        fh, ino = request.fields[0], request.node
        if self.files.try_release(fh):
            return DONE
        self.releasing.setdefault(ino, []).append(trio.Event())
        return self._release(ino, fh, self.releasing[ino][-1])

    async def _release(self, ino: int, fh: int, done: trio.Event) -> bytes:
        try:
            await self.files.release(fh)
        finally:
            done.set()
            self.releasing[ino].remove(done)
            if not self.releasing[ino]:
                del self.releasing[ino]
        return DONE

    async def released(self, ino: int) -> None:
        """Return when what was closed of a file before this call has given its locks up."""
        for done in list(self.releasing.get(ino, ())):
            await done.wait()

    def fsync(self, request: Request) -> Answer:
        """FSYNC."""
        fh, flags, _ = request.fields
        if self.files.try_fsync(fh):
            return DONE
        return self._done(self.files.fsync(fh, datasync=bool(flags & FSYNC_DATA)))
