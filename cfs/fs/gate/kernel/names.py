"""Handlers of names: found in the leased cache at once, changed by the shard."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable

from cfs.core.api.meta import Attr
from cfs.core.errors import FsError
from cfs.fs.client.names import RENAME_EXCHANGE, RENAME_NOREPLACE
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
        attr = self.files.try_lookup(parent, name, caller=caller)
        if attr is None:
            return self._found(self.files.lookup(parent, name, caller=caller))
        return self.entry(attr)

    async def _found(self, finding: Awaitable[Attr]) -> bytes:
        return self.entry(await finding)

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
            return self.entry(made)
        return self._found(self.files.symlink(request.node, name, target, **maker))

    def mknod(self, request: Request) -> Answer:
        """MKNOD."""
        mode, rdev, umask, _ = request.fields
        maker = self.maker(request)
        return self._found(
            self.files.mknod(request.node, request.names[0], mode, rdev, umask=umask, **maker)
        )

    def mkdir(self, request: Request) -> Answer:
        """MKDIR."""
        mode, umask = stat.S_IFDIR | stat.S_IMODE(request.fields[0]), request.fields[1]
        maker = self.maker(request)
        made = self.files.try_create(request.node, request.names[0], mode, umask=umask, **maker)
        if made is not None:
            return self.entry(made)
        return self._found(
            self.files.mkdir(request.node, request.names[0], mode, umask=umask, **maker)
        )

    def link(self, request: Request) -> Answer:
        """LINK."""
        ino, parent, name = request.fields[0], request.node, request.names[0]
        caller = self.caller(request)
        linked = self.files.try_link(ino, parent, name, caller=caller)
        if linked is not None:
            return self.entry(linked)
        return self._found(self.files.link(ino, parent, name, caller=caller))

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
        name, new_name = request.names[0], request.names[1]
        move = request.node, name, new_parent, new_name, flags
        caller = self.caller(request)
        if self.files.try_rename(*move, caller=caller):
            return DONE
        return self._done(self.files.rename(*move, caller=caller))
