"""The handlers of a read-only pyfuse3 mount: EROFS to every change, whatever the kernel lets pass.

The kernel refuses changes first; a remount may lift that, and it does not lift this.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pyfuse3

from cfs.fs.gate.fuse_handlers import Gate

CHANGES = (
    "setattr", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "create", "write",
    "setxattr", "removexattr",
)  # fmt: skip


async def _refuse(_gate: Gate, *_arguments: Any) -> None:
    raise pyfuse3.FUSEError(errno.EROFS)


class ReadOnlyGate(Gate):
    """The request handlers that change nothing."""

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        """Open a file to read it."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise pyfuse3.FUSEError(errno.EROFS)
        return await super().open(inode, flags, ctx)


for _name in CHANGES:
    setattr(ReadOnlyGate, _name, _refuse)
