"""Handlers of names: found in the leased cache at once, changed by the shard."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable
from typing import Any

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
        attr = self.files.try_lookup(parent, name)
        return self._found(self.files.lookup(parent, name)) if attr is None else self.entry(attr)

    async def _found(self, finding: Awaitable[Attr]) -> bytes:
        return self.entry(await finding)

    @staticmethod
    async def _done(doing: Awaitable[Any]) -> bytes:
        await doing
        return DONE

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
        uid, gid = request.uid, request.gid
        mode = stat.S_IFLNK | 0o777
        made = self.files.try_create(request.node, name, mode, uid=uid, gid=gid, target=target)
        if made is not None:
            return self.entry(made)
        return self._found(self.files.symlink(request.node, name, target, uid=uid, gid=gid))

    def mknod(self, request: Request) -> Answer:
        """MKNOD."""
        mode, rdev, _, _ = request.fields
        return self._found(
            self.files.mknod(
                request.node, request.names[0], mode, rdev, uid=request.uid, gid=request.gid
            )
        )

    def mkdir(self, request: Request) -> Answer:
        """MKDIR."""
        mode = stat.S_IFDIR | stat.S_IMODE(request.fields[0])
        made = self.files.try_create(
            request.node, request.names[0], mode, uid=request.uid, gid=request.gid
        )
        if made is not None:
            return self.entry(made)
        return self._found(
            self.files.mkdir(
                request.node, request.names[0], request.fields[0],
                uid=request.uid, gid=request.gid,
            )
        )  # fmt: skip

    def link(self, request: Request) -> Answer:
        """LINK."""
        linked = self.files.try_link(request.fields[0], request.node, request.names[0])
        if linked is not None:
            return self.entry(linked)
        return self._found(self.files.link(request.fields[0], request.node, request.names[0]))

    def unlink(self, request: Request) -> Answer:
        """UNLINK."""
        if self.files.try_unlink(request.node, request.names[0]):
            return DONE
        return self._done(self.files.unlink(request.node, request.names[0]))

    def rmdir(self, request: Request) -> Answer:
        """RMDIR."""
        if self.files.try_rmdir(request.node, request.names[0]):
            return DONE
        return self._done(self.files.rmdir(request.node, request.names[0]))

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
        if self.files.try_rename(request.node, name, new_parent, new_name, flags):
            return DONE
        return self._done(self.files.rename(request.node, name, new_parent, new_name, flags))
