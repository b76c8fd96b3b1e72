"""Handlers of locks, holes, seeks and copies: as far as `Files` has them, else ENOSYS.

The kernel asks for what is answered ENOSYS once, and then does without: locks are its own then,
`fallocate` is refused, a seek sees no holes, a copy is read and written.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable
from typing import Any

from cfs.core.errors import FsError
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.contents import Contents
from cfs.fs.gate.kernel.flags import LOCK_FLOCK
from cfs.fs.gate.kernel.message import Request
from cfs.fs.gate.kernel.opcodes import Opcode
from cfs.fs.gate.kernel.replies import DONE, Answer

F_UNLCK = 2
COPY_BYTES_MAX = 1 << 31
"""A COPY_FILE_RANGE before 7.45 answers in 32 bits."""


class Spans(Contents):
    """Handlers of byte ranges."""

    def getlk(self, request: Request) -> Answer:
        """GETLK: who is in the way of a lock."""
        _, owner, start, end, kind, pid, _, _ = request.fields
        return self._getlk(self.offered("getlk")(request.node, owner, start, end, kind, pid))

    @staticmethod
    async def _getlk(asking: Awaitable[Any]) -> bytes:
        found = await asking
        if found is None:
            return message.LOCK_OUT.pack(0, 0, F_UNLCK, 0)
        start, end, kind, pid = found
        return message.LOCK_OUT.pack(start, end, kind, pid)

    def setlk(self, request: Request) -> Answer:
        """SETLK, SETLKW: take, change or give up a lock; the second waits for it."""
        fh, owner, start, end, kind, pid, flags, _ = request.fields
        setting = self.offered("setlk")(
            request.node, owner, start, end, kind, pid,
            wait=request.opcode == Opcode.SETLKW, flock=bool(flags & LOCK_FLOCK), fh=fh,
        )  # fmt: skip
        return self._setlk(request.node, setting)

    async def _setlk(self, ino: int, setting: Awaitable[None]) -> bytes:
        await self.released(ino)  # a lock may be had as soon as close(2) of its holder returns
        await setting
        return DONE

    def fallocate(self, request: Request) -> Answer:
        """FALLOCATE."""
        fh, offset, length, mode, _ = request.fields
        return self._done(self.offered("fallocate")(fh, mode, offset, length))

    def lseek(self, request: Request) -> Answer:
        """LSEEK: SEEK_DATA and SEEK_HOLE."""
        fh, offset, whence, _ = request.fields
        return self._number(self.offered("lseek")(fh, offset, whence))

    @staticmethod
    async def _number(asking: Awaitable[int]) -> bytes:
        return message.WORD_OUT.pack(await asking)

    def copy_file_range(self, request: Request) -> Answer:
        """COPY_FILE_RANGE, COPY_FILE_RANGE_64."""
        fh_in, offset_in, _, fh_out, offset_out, length, flags = request.fields
        copy = self.offered("copy_file_range")
        if request.opcode == Opcode.COPY_FILE_RANGE_64:
            return self._number(copy(fh_in, offset_in, fh_out, offset_out, length, flags))
        length = min(length, COPY_BYTES_MAX)
        return self._copied(copy(fh_in, offset_in, fh_out, offset_out, length, flags))

    @staticmethod
    async def _copied(copying: Awaitable[int]) -> bytes:
        return message.WRITE_OUT.pack(await copying, 0)

    @staticmethod
    def unsupported(request: Request) -> Answer:
        """ACCESS (the kernel checks), BMAP, POLL: the kernel has its own ways."""
        del request
        raise FsError(errno.ENOSYS)
