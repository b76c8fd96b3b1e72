"""Handlers of attributes, extended attributes and the figures of the file system.

The kernel leaves to us to take set-user-id, set-group-id and file capabilities away from a file
that is written, truncated or given to somebody else (HANDLE_KILLPRIV_V2): it would otherwise ask
for `security.capability` before every write. Write and truncate tell whether the caller may keep
the two bits; a change of owner never may. A SETATTR of nothing is a change to the owner it has.

Access lists are extended attributes to the kernel, which keeps them as long as the attributes.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable
from typing import Any

from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import FsError
from cfs.core.meta import access
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.flags import Fattr
from cfs.fs.gate.kernel.message import Request
from cfs.fs.gate.kernel.replies import DONE, Answer, Replies

BLOCK = 4096
NAME_BYTES_MAX = 255
_CAPABILITY = b"security.capability"
TIME_MIN, TIME_MAX = -(1 << 63), (1 << 63) - 1
"""Nanoseconds since the epoch that are stored; a time beyond is made the nearest."""
_NS = 1_000_000_000
_SETTABLE = (
    Fattr.MODE | Fattr.UID | Fattr.GID | Fattr.SIZE | Fattr.ATIME | Fattr.MTIME
    | Fattr.ATIME_NOW | Fattr.MTIME_NOW
)  # fmt: skip
_OWNER = int(Fattr.UID | Fattr.GID)
_SIZE, _MODE, _UID, _GID = int(Fattr.SIZE), int(Fattr.MODE), int(Fattr.UID), int(Fattr.GID)
_ATIME, _MTIME = int(Fattr.ATIME), int(Fattr.MTIME)
_ATIME_NOW, _MTIME_NOW = int(Fattr.ATIME_NOW), int(Fattr.MTIME_NOW)
_FH, _KILL = int(Fattr.FH), int(Fattr.KILL_SUIDGID)
_SET_IDS = stat.S_ISUID | stat.S_ISGID


class Attributes(Replies):
    """Attribute handlers."""

    def getattr(self, request: Request) -> Answer:
        """GETATTR."""
        ino = request.node
        if not self.invalidator.pending(ino):
            attr = self.files.try_getattr(ino)
            if attr is not None:
                return message.attributes(attr, self.files.trust_left_s(ino))
        return self._getattr(ino)

    async def _getattr(self, ino: int) -> bytes:
        return self.attributes(await self._settled(ino))

    async def _settled(self, ino: int) -> Attr:
        """Give attributes once the kernel has no pages of before them."""
        if self.invalidator.pending(ino):
            await self.invalidator.settled(ino)
        return await self.files.getattr(ino)

    def statx(self, request: Request) -> Answer:
        """STATX: what GETATTR gives, and the time of birth."""
        return self._statx(request.node)

    async def _statx(self, ino: int) -> bytes:
        attr = await self._settled(ino)
        return message.statx(attr, self.attr_s(ino))

    def setattr(self, request: Request) -> Answer:
        """SETATTR."""
        ino, valid, caller = request.node, request.fields[0], self.caller(request)
        plain = valid & _SETTABLE and not valid & (_OWNER | _SIZE)
        changed = self._try_setattr(ino, request.fields, caller) if plain else None
        if changed is not None:
            return message.attributes(changed, self.attr_s(ino))
        return self._setattr(ino, request.fields, caller)

    def _try_setattr(self, ino: int, fields: tuple[int, ...], caller: Caller | None) -> Attr | None:
        """Set mode and times at once, if nothing has to be waited for."""
        valid, _, _, _, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, *_ = fields
        now = self.files.client.clock.time_ns()
        return self.files.try_setattr(
            ino,
            mode=stat.S_IMODE(mode) if valid & _MODE else None,
            atime_ns=_stamp(valid, _ATIME, _ATIME_NOW, atime * _NS + atime_ns, now),
            mtime_ns=_stamp(valid, _MTIME, _MTIME_NOW, mtime * _NS + mtime_ns, now),
            now=_of_now(valid),
            caller=caller,
        )

    async def _setattr(self, ino: int, fields: tuple[int, ...], caller: Caller | None) -> bytes:
        valid, _, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = fields
        owner = bool(valid & _OWNER or not valid & _SETTABLE)
        kill = valid & _SIZE and (valid & _KILL or self.callers.squash)
        if valid & _FH and valid & _SIZE and self.files.handle(fh).writes:
            caller = None  # decided when it was opened
        now = self.files.client.clock.time_ns()
        changed = await self.files.setattr(
            ino,
            mode=stat.S_IMODE(mode) if valid & _MODE else None,
            uid=uid if valid & _UID else None,
            gid=gid if valid & _GID else None,
            size=size if valid & _SIZE else None,
            atime_ns=_stamp(valid, _ATIME, _ATIME_NOW, atime * _NS + atime_ns, now),
            mtime_ns=_stamp(valid, _MTIME, _MTIME_NOW, mtime * _NS + mtime_ns, now),
            now=_of_now(valid),
            drop_ids=bool(owner or kill),
            caller=caller,
        )
        if owner or valid & _SIZE:
            await self._strip_capability(changed)
        return self.attributes(changed)

    # --- privileges

    def privileged(self, ino: int, *, ids: bool) -> bool:
        """Tell whether a write may have to take privileges away first; False is certain."""
        node = self.files.client.cache.peek(ino)
        if node is None or node.attr is None or node.xattr_names is None:
            return True
        return (ids and bool(node.attr.mode & _SET_IDS)) or _CAPABILITY in node.xattr_names

    async def strip(self, ino: int, *, ids: bool, caller: Caller | None = None) -> None:
        """Take a file's capabilities, and with `ids` its set-id bits, away.

        Set-group-id of what its group may not execute stays if `caller` is in that group.
        """
        attr = await self.files.getattr(ino)
        await self._strip_capability(attr)
        if ids and attr.mode & _SET_IDS and not stat.S_ISDIR(attr.mode):
            if access.keeps_group_id(attr, caller):
                await self.files.setattr(ino, drop_ids=True)
            else:
                await self.files.setattr(ino, mode=stat.S_IMODE(attr.mode) & ~_SET_IDS)

    async def _strip_capability(self, attr: Attr) -> None:
        if stat.S_ISDIR(attr.mode) or _CAPABILITY not in await self.files.listxattr(attr.ino):
            return
        try:
            await self.files.removexattr(attr.ino, _CAPABILITY)
        except FsError as error:
            if error.errno != errno.ENODATA:
                raise

    # --- extended attributes

    def getxattr(self, request: Request) -> Answer:
        """GETXATTR: size 0 asks how long it is."""
        size, ino, name = request.fields[0], request.node, request.names[0]
        caller = self.caller(request)
        value = self.files.try_getxattr(ino, name, caller=caller)
        return self._getxattr(ino, name, size, caller) if value is None else _sized(value, size)

    async def _getxattr(self, ino: int, name: bytes, size: int, caller: Caller | None) -> bytes:
        return _sized(await self.files.getxattr(ino, name, caller=caller), size)

    def listxattr(self, request: Request) -> Answer:
        """LISTXATTR."""
        size, ino = request.fields[0], request.node
        caller = self.caller(request)
        names = self.files.try_listxattr(ino, caller=caller)
        return self._listxattr(ino, size, caller) if names is None else _sized(_joined(names), size)

    async def _listxattr(self, ino: int, size: int, caller: Caller | None) -> bytes:
        return _sized(_joined(await self.files.listxattr(ino, caller=caller)), size)

    def setxattr(self, request: Request) -> Answer:
        """SETXATTR."""
        (size, flags), name = request.fields, request.names[0]
        if size > len(request.data):
            raise FsError(errno.EINVAL)
        access.check_namespace(name)
        value, caller = bytes(request.data[:size]), self.caller(request)
        return self._done(self.files.setxattr(request.node, name, value, flags, caller=caller))

    @staticmethod
    async def _done(doing: Awaitable[Any]) -> bytes:
        await doing
        return DONE

    def removexattr(self, request: Request) -> Answer:
        """REMOVEXATTR."""
        name, caller = request.names[0], self.caller(request)
        return self._done(self.files.removexattr(request.node, name, caller=caller))

    # --- the file system

    def statfs(self, request: Request) -> Answer:
        """STATFS."""
        return self._statfs(request.node)

    async def _statfs(self, node: int) -> bytes:
        totals = await self.files.statfs(node)
        return message.STATFS_OUT.pack(
            totals.capacity // BLOCK, totals.free // BLOCK, totals.available // BLOCK,
            totals.inodes_max, totals.inodes_max - totals.inodes,
            BLOCK, NAME_BYTES_MAX, BLOCK, 0,
        )  # fmt: skip

    def syncfs(self, request: Request) -> Answer:
        """SYNCFS: commit everything."""
        del request
        return self._syncfs()

    async def _syncfs(self) -> bytes:
        await self.files.sync()
        return DONE


def _stamp(valid: int, given: int, now: int, value: int, clock: int) -> int | None:
    if valid & now:
        return clock
    return max(TIME_MIN, min(value, TIME_MAX)) if valid & given else None


def _of_now(valid: int) -> bool:
    """Tell whether every time that is given is the present one."""
    times = valid & (_ATIME | _MTIME)
    nows = (_ATIME if valid & _ATIME_NOW else 0) | (_MTIME if valid & _MTIME_NOW else 0)
    return bool(times) and not times & ~nows


def _sized(value: bytes, size: int) -> bytes:
    if not size:
        return message.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise FsError(errno.ERANGE)
    return value


def _joined(names: frozenset[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in sorted(names))
