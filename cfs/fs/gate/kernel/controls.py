"""CFS's own calls on an open file or directory: ioctl(2).

    SYNC   _IO(0xCF, 1)   commit everything done through this mount: the kernel sends FUSE no syncfs

Others are answered ENOTTY.
"""

from __future__ import annotations

import errno
from struct import Struct

from cfs.core.errors import FsError
from cfs.fs.gate.kernel.message import Request
from cfs.fs.gate.kernel.replies import Answer
from cfs.fs.gate.kernel.spans import Spans

SYNC = 0xCF01
_OUT = Struct("=iIII")
"""Result, flags, and two counts that only unrestricted calls have."""


class Controls(Spans):
    """The handler of IOCTL."""

    def ioctl(self, request: Request) -> Answer:
        """IOCTL."""
        if request.fields[2] != SYNC:
            raise FsError(errno.ENOTTY)
        return self._sync()

    async def _sync(self) -> bytes:
        await self.files.sync()
        return _OUT.pack(0, 0, 0, 0)
