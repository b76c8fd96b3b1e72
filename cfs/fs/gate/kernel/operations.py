"""The table of handlers: which method answers which request."""

from __future__ import annotations

import os

from cfs.fs.gate.kernel.controls import Controls
from cfs.fs.gate.kernel.door import State
from cfs.fs.gate.kernel.flags import Init
from cfs.fs.gate.kernel.opcodes import Opcode
from cfs.fs.gate.kernel.replies import Handler


class Operations(Controls):
    """All handlers."""

    flags = 0

    def restore(self, state: State) -> None:
        """Go on with what another process gave the kernel below."""
        self.agreed(state.agreed)
        self.inodes.restore(state.counts, state.tainted)
        for handle, ino in state.files.directories:
            self.listed(handle, ino)

    def agreed(self, flags: int) -> None:
        """Take in what kernel and daemon have agreed on."""
        # the kernel lets root pass where a squashed one must not
        self.flags = flags
        self.open_flags = ~os.O_APPEND if flags & Init.WRITEBACK_CACHE else -1
        self.entries.enabled = bool(flags & Init.HAS_EXPIRE_ONLY) and not self.callers.squash

    def table(self) -> dict[int, Handler]:
        """Give the handlers by opcode. What has none is answered ENOSYS."""
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.READLINK: self.readlink,
            Opcode.SYMLINK: self.symlink,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.LINK: self.link,
            Opcode.OPEN: self.open,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.STATFS: self.statfs,
            Opcode.RELEASE: self.release,
            Opcode.FSYNC: self.fsync,
            Opcode.SETXATTR: self.setxattr,
            Opcode.GETXATTR: self.getxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
            Opcode.FLUSH: self.flush,
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.FSYNCDIR: self.fsyncdir,
            Opcode.GETLK: self.getlk,
            Opcode.SETLK: self.setlk,
            Opcode.SETLKW: self.setlk,
            Opcode.ACCESS: self.unsupported,
            Opcode.CREATE: self.create,
            Opcode.BMAP: self.unsupported,
            Opcode.IOCTL: self.ioctl,
            Opcode.POLL: self.unsupported,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RENAME2: self.rename2,
            Opcode.LSEEK: self.lseek,
            Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.SYNCFS: self.syncfs,
            Opcode.TMPFILE: self.tmpfile,
            Opcode.STATX: self.statx,
            Opcode.COPY_FILE_RANGE_64: self.copy_file_range,
        }
