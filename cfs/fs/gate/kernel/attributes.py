"""Handlers of attributes, extended attributes and the figures of the file system.

The kernel leaves to us to take set-user-id, set-group-id and file capabilities away from a file
that is written, truncated or given to somebody else (HANDLE_KILLPRIV_V2): it would otherwise ask
for `security.capability` before every write. Write and truncate tell whether the caller may keep
the two bits; a change of owner never may. A SETATTR of nothing is a change to the owner it has.
ACLs that nobody would enforce are not stored.
"""

from __future__ import annotations

import errno
import stat

from cfs.core.api.meta import Attr
from cfs.core.errors import FsError
from cfs.fs.client.space import INODES_MAX
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.flags import Fattr
from cfs.fs.gate.kernel.message import Request
from cfs.fs.gate.kernel.replies import DONE, Answer, Replies

BLOCK = 4096
NAME_BYTES_MAX = 255
_ACL = b"system.posix_acl_"
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
_KILL = int(Fattr.KILL_SUIDGID)
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
        valid = request.fields[0]
        plain = valid & _SETTABLE and not valid & (_OWNER | _SIZE)
        changed = self._try_setattr(request.node, request.fields) if plain else None
        if changed is not None:
            return message.attributes(changed, self.attr_s(request.node))
        return self._setattr(request.node, request.fields)

    def _try_setattr(self, ino: int, fields: tuple[int, ...]) -> Attr | None:
        """Set mode and times at once, if nothing has to be waited for."""
        valid, _, _, _, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, *_ = fields
        now = self.files.client.clock.time_ns()
        return self.files.try_setattr(
            ino,
            mode=stat.S_IMODE(mode) if valid & _MODE else None,
            atime_ns=_stamp(valid, _ATIME, _ATIME_NOW, atime * _NS + atime_ns, now),
            mtime_ns=_stamp(valid, _MTIME, _MTIME_NOW, mtime * _NS + mtime_ns, now),
        )

    async def _setattr(self, ino: int, fields: tuple[int, ...]) -> bytes:
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = fields
        new_mode = stat.S_IMODE(mode) if valid & _MODE else None
        owner = valid & _OWNER or not valid & _SETTABLE
        if owner or valid & _SIZE:
            new_mode = await self._stripped(
                ino, new_mode, ids=bool(owner or valid & _KILL), capability=True
            )
        now = self.files.client.clock.time_ns()
        changed = await self.files.setattr(
            ino,
            mode=new_mode,
            uid=uid if valid & _UID else None,
            gid=gid if valid & _GID else None,
            size=size if valid & _SIZE else None,
            atime_ns=_stamp(valid, _ATIME, _ATIME_NOW, atime * _NS + atime_ns, now),
            mtime_ns=_stamp(valid, _MTIME, _MTIME_NOW, mtime * _NS + mtime_ns, now),
        )
        return self.attributes(changed)

    # --- privileges

    def privileged(self, ino: int, *, ids: bool) -> bool:
        """Tell whether a write may have to take privileges away first; False is certain."""
        node = self.files.client.cache.peek(ino)
        if node is None or node.attr is None or node.xattr_names is None:
            return True
        return (ids and bool(node.attr.mode & _SET_IDS)) or _CAPABILITY in node.xattr_names

    async def strip(self, ino: int, *, ids: bool) -> None:
        """Take a file's capabilities, and with `ids` its set-id bits, away."""
        mode = await self._stripped(ino, None, ids=ids, capability=True)
        if mode is not None:
            await self.files.setattr(ino, mode=mode)

    async def _stripped(
        self, ino: int, mode: int | None, *, ids: bool, capability: bool
    ) -> int | None:
        """Take capabilities away; give the mode to set, None to leave it."""
        attr = await self.files.getattr(ino)
        if stat.S_ISDIR(attr.mode):
            return mode
        if capability and _CAPABILITY in await self.files.listxattr(ino):
            try:
                await self.files.removexattr(ino, _CAPABILITY)
            except FsError as error:
                if error.errno != errno.ENODATA:
                    raise
        if not ids:
            return mode
        before = stat.S_IMODE(attr.mode) if mode is None else mode
        after = before & ~stat.S_ISUID
        if before & stat.S_IXGRP:
            after &= ~stat.S_ISGID
        return mode if after == before else after

    # --- extended attributes

    def getxattr(self, request: Request) -> Answer:
        """GETXATTR: size 0 asks how long it is."""
        size, ino, name = request.fields[0], request.node, request.names[0]
        _refuse_acl(name)
        value = self.files.try_getxattr(ino, name)
        return self._getxattr(ino, name, size) if value is None else _sized(value, size)

    async def _getxattr(self, ino: int, name: bytes, size: int) -> bytes:
        return _sized(await self.files.getxattr(ino, name), size)

    def listxattr(self, request: Request) -> Answer:
        """LISTXATTR."""
        size, ino = request.fields[0], request.node
        names = self.files.try_listxattr(ino)
        return self._listxattr(ino, size) if names is None else _sized(_joined(names), size)

    async def _listxattr(self, ino: int, size: int) -> bytes:
        return _sized(_joined(await self.files.listxattr(ino)), size)

    def setxattr(self, request: Request) -> Answer:
        """SETXATTR."""
        (size, flags), name = request.fields, request.names[0]
        _refuse_acl(name)
        if size > len(request.data):
            raise FsError(errno.EINVAL)
        return self._setxattr(request.node, name, bytes(request.data[:size]), flags)

    async def _setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> bytes:
        await self.files.setxattr(ino, name, value, flags)
        return DONE

    def removexattr(self, request: Request) -> Answer:
        """REMOVEXATTR."""
        _refuse_acl(request.names[0])
        return self._removexattr(request.node, request.names[0])

    async def _removexattr(self, ino: int, name: bytes) -> bytes:
        await self.files.removexattr(ino, name)
        return DONE

    # --- the file system

    def statfs(self, request: Request) -> Answer:
        """STATFS."""
        del request
        return self._statfs()

    async def _statfs(self) -> bytes:
        totals = await self.files.statfs()
        free = totals.free // BLOCK
        return message.STATFS_OUT.pack(
            totals.capacity // BLOCK, free, free, INODES_MAX, INODES_MAX - totals.inodes,
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


def _sized(value: bytes, size: int) -> bytes:
    if not size:
        return message.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise FsError(errno.ERANGE)
    return value


def _joined(names: frozenset[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in sorted(names))


def _refuse_acl(name: bytes) -> None:
    if name.startswith(_ACL):
        raise FsError(errno.EOPNOTSUPP)
