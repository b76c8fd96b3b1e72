"""Handlers of names: found in the leased cache at once, changed by the shard or ahead of it."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable

import trio

from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import FsError
from cfs.fs.client.names import RENAME_EXCHANGE, RENAME_NOREPLACE
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.attributes import Attributes
from cfs.fs.gate.kernel.message import FORGET_ONE, Request
from cfs.fs.gate.kernel.replies import DONE, Answer

_RENAME = RENAME_NOREPLACE | RENAME_EXCHANGE


class Names(Attributes):
    """Name handlers."""

    def lookup(self, request: Request) -> Answer:
        """LOOKUP."""
        parent, name = request.node, request.names[0]
        caller = self.caller(request)
        try:
            attr = self.files.try_lookup(parent, name, caller=caller)
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            return self._absent(parent, name, error)
        if attr is None:
            return self._lookup(parent, name, caller)
        return self.entry(attr, parent, name, found=True)

    async def _lookup(self, parent: int, name: bytes, caller: Caller | None) -> bytes:
        try:
            attr = await self.files.lookup(parent, name, caller=caller)
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            return self._absent(parent, name, error)
        return self.entry(attr, parent, name, found=True)

    def _absent(self, parent: int, name: bytes, error: FsError) -> bytes:
        """Say that there is no such name, and for how long that is sure."""
        life = self.entry_s(parent, name, 0)
        if not life:
            raise error
        return message.absence(life)

    async def _made(self, making: Awaitable[Attr], parent: int, name: bytes) -> bytes:
        return self.entry(await making, parent, name)

    def forget(self, request: Request) -> Answer:
        """FORGET."""
        self.inodes.forget(((request.node, request.fields[0]),))
        return None

    def batch_forget(self, request: Request) -> Answer:
        """BATCH_FORGET."""
        size = FORGET_ONE.size * request.fields[0]
        self.inodes.forget(FORGET_ONE.iter_unpack(request.data[:size]))
        return None

    def readlink(self, request: Request) -> Answer:
        """READLINK."""
        target = self.files.try_readlink(request.node)
        return self.files.readlink(request.node) if target is None else target

    def symlink(self, request: Request) -> Answer:
        """SYMLINK."""
        name, target = request.names[0], request.names[1]
        maker = self.maker(request)
        mode = stat.S_IFLNK | 0o777
        made = self.files.try_create(request.node, name, mode, target=target, **maker)
        if made is not None:
            return self.entry(made, request.node, name)
        making = self.files.symlink(request.node, name, target, **maker)
        return self._made(making, request.node, name)

    def mknod(self, request: Request) -> Answer:
        """MKNOD."""
        mode, rdev, umask, _ = request.fields
        parent, name, maker = request.node, request.names[0], self.maker(request)
        making = self.files.mknod(parent, name, mode, rdev, umask=umask, **maker)
        return self._made(making, parent, name)

    def mkdir(self, request: Request) -> Answer:
        """MKDIR."""
        mode, umask = stat.S_IFDIR | stat.S_IMODE(request.fields[0]), request.fields[1]
        parent, name, maker = request.node, request.names[0], self.maker(request)
        made = self.files.try_create(parent, name, mode, umask=umask, **maker)
        if made is not None:
            return self.entry(made, parent, name)
        making = self.files.mkdir(parent, name, mode, umask=umask, **maker)
        return self._made(making, parent, name)

    def link(self, request: Request) -> Answer:
        """LINK."""
        ino, parent, name = request.fields[0], request.node, request.names[0]
        caller = self.caller(request)
        linked = self.files.try_link(ino, parent, name, caller=caller)
        if linked is not None:
            return self.entry(linked, parent, name)
        return self._made(self.files.link(ino, parent, name, caller=caller), parent, name)

    def unlink(self, request: Request) -> Answer:
        """UNLINK."""
        caller = self.caller(request)
        if self.files.try_unlink(request.node, request.names[0], caller=caller):
            return DONE
        return self._done(self.files.unlink(request.node, request.names[0], caller=caller))

    def rmdir(self, request: Request) -> Answer:
        """RMDIR."""
        caller = self.caller(request)
        if self.files.try_rmdir(request.node, request.names[0], caller=caller):
            return DONE
        return self._done(self.files.rmdir(request.node, request.names[0], caller=caller))

    def rename(self, request: Request) -> Answer:
        """RENAME."""
        return self._rename(request, request.fields[0], 0)

    def rename2(self, request: Request) -> Answer:
        """RENAME2: with RENAME_NOREPLACE or RENAME_EXCHANGE."""
        new_parent, flags, _ = request.fields
        if flags & ~_RENAME:
            raise FsError(errno.EINVAL)
        return self._rename(request, new_parent, flags)

    def _rename(self, request: Request, new_parent: int, flags: int) -> Answer:
        move = request.node, request.names[0], new_parent, request.names[1]
        caller = self.caller(request)
        if not self.files.try_rename(*move, flags, caller=caller):
            return self._move(*move, flags, caller)
        self.entries.moved(*move)
        return DONE

    async def _move(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int,
        caller: Caller | None,
    ) -> bytes:  # fmt: skip
        await self.files.rename(parent, name, new_parent, new_name, flags, caller=caller)
        await self._taken_along(parent, name, new_parent, new_name)
        if flags & RENAME_EXCHANGE:
            await self._taken_along(new_parent, new_name, parent, name)
        return DONE

    async def _taken_along(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes
    ) -> None:
        """Let the kernel keep a moved name for as long as it may, if somebody tells of its end."""
        left = self.entries.moved(parent, name, new_parent, new_name)
        if left and self.files.lease_epoch(new_parent) is None:
            await trio.sleep(left)
