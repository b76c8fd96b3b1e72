"""A bare pass-through file system on pyfuse3: what FUSE in Python costs with nothing behind it.

    python -m bench.passthrough SOURCE MOUNTPOINT

Every operation is one call on SOURCE, made where the request arrives; nothing is cached, attribute
and entry lifetimes are zero, and `fsync` is a real fsync. It answers what the benchmark asks and no
more: no extended attributes, no hard links. `fusermount3 -u MOUNTPOINT` or SIGTERM ends it.
"""

# Names are bytes and every call is on the path that is measured: `os`, not pathlib.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH115, PTH208, PTH211

from __future__ import annotations

import contextlib
import os
import stat
import sys

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, Operations

_COPIED = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_atime_ns",
           "st_mtime_ns", "st_ctime_ns")  # fmt: skip


@contextlib.contextmanager
def _errors():
    try:
        yield
    except OSError as error:
        raise FUSEError(error.errno) from None


class Passthrough(Operations):
    """The source tree; an inode is known by its parent and name, so directories may be renamed."""

    def __init__(self, source):
        super().__init__()
        self._source = os.fsencode(source)
        self._place = {}
        self._lookups = {}
        self._listing = {}

    def _path(self, inode):
        names = []
        while inode != pyfuse3.ROOT_INODE:
            inode, name = self._place[inode]
            names.append(name)
        return b"/".join([self._source, *reversed(names)])

    def _child(self, parent, name):
        return self._path(parent) + b"/" + name

    def _entry(self, status, inode=None):
        entry = EntryAttributes()
        for field in _COPIED:
            setattr(entry, field, getattr(status, field))
        entry.st_ino = inode or status.st_ino
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = 0
        entry.st_blksize, entry.st_blocks = 4096, (status.st_size + 511) // 512
        return entry

    def _remember(self, parent, name, status):
        inode = status.st_ino
        self._place[inode] = (parent, name)
        self._lookups[inode] = self._lookups.get(inode, 0) + 1
        return self._entry(status)

    async def lookup(self, parent_inode, name, ctx=None):
        del ctx
        with _errors():
            return self._remember(parent_inode, name, os.lstat(self._child(parent_inode, name)))

    async def forget(self, inode_list):
        for inode, count in inode_list:
            left = self._lookups.get(inode, 0) - count
            if left > 0:
                self._lookups[inode] = left
            else:
                self._lookups.pop(inode, None)
                self._place.pop(inode, None)

    async def getattr(self, inode, ctx=None):
        del ctx
        with _errors():
            root = inode if inode == pyfuse3.ROOT_INODE else None
            return self._entry(os.lstat(self._path(inode)), root)

    async def setattr(self, inode, attr, fields, fh, ctx):
        del fh
        with _errors():
            path = self._path(inode)
            if fields.update_size:
                os.truncate(path, attr.st_size)
            if fields.update_mode:
                os.chmod(path, stat.S_IMODE(attr.st_mode))
            if fields.update_uid or fields.update_gid:
                uid = attr.st_uid if fields.update_uid else -1
                os.chown(path, uid, attr.st_gid if fields.update_gid else -1, follow_symlinks=False)
            if fields.update_atime or fields.update_mtime:
                now = os.lstat(path)
                times = (
                    attr.st_atime_ns if fields.update_atime else now.st_atime_ns,
                    attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns,
                )
                os.utime(path, ns=times, follow_symlinks=False)
        return await self.getattr(inode, ctx)

    async def create(self, parent_inode, name, mode, flags, ctx):
        del ctx
        with _errors():
            path = self._child(parent_inode, name)
            fh = os.open(path, flags | os.O_CREAT | os.O_TRUNC, mode)
            return FileInfo(fh=fh), self._remember(parent_inode, name, os.fstat(fh))

    async def open(self, inode, flags, ctx):
        del ctx
        with _errors():
            return FileInfo(fh=os.open(self._path(inode), flags & ~os.O_CREAT))

    async def read(self, fh, off, size):
        with _errors():
            return os.pread(fh, size, off)

    async def write(self, fh, off, buf):
        with _errors():
            return os.pwrite(fh, buf, off)

    async def fsync(self, fh, datasync):
        with _errors():
            (os.fdatasync if datasync else os.fsync)(fh)

    async def flush(self, fh):
        del fh

    async def release(self, fh):
        with _errors():
            os.close(fh)

    async def mkdir(self, parent_inode, name, mode, ctx):
        del ctx
        with _errors():
            path = self._child(parent_inode, name)
            os.mkdir(path, mode)
            return self._remember(parent_inode, name, os.lstat(path))

    async def symlink(self, parent_inode, name, target, ctx):
        del ctx
        with _errors():
            path = self._child(parent_inode, name)
            os.symlink(target, path)
            return self._remember(parent_inode, name, os.lstat(path))

    async def readlink(self, inode, ctx):
        del ctx
        with _errors():
            return os.readlink(self._path(inode))

    async def unlink(self, parent_inode, name, ctx):
        del ctx
        with _errors():
            os.unlink(self._child(parent_inode, name))

    async def rmdir(self, parent_inode, name, ctx):
        del ctx
        with _errors():
            os.rmdir(self._child(parent_inode, name))

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        del flags, ctx
        with _errors():
            new = self._child(parent_inode_new, name_new)
            os.rename(self._child(parent_inode_old, name_old), new)
            inode = os.lstat(new).st_ino
        if inode in self._place:
            self._place[inode] = (parent_inode_new, name_new)

    async def opendir(self, inode, ctx):
        del ctx
        with _errors():
            fh = os.open(self._path(inode), os.O_RDONLY | os.O_DIRECTORY)
            self._listing[fh] = (inode, sorted(os.listdir(os.fsencode(f"/proc/self/fd/{fh}"))))
        return fh

    async def readdir(self, fh, start_id, token):
        inode, names = self._listing[fh]
        for index in range(start_id, len(names)):
            try:
                status = os.lstat(self._child(inode, names[index]))
            except FileNotFoundError:
                continue
            if not pyfuse3.readdir_reply(token, names[index], self._entry(status), index + 1):
                return
            self._remember(inode, names[index], status)

    async def fsyncdir(self, fh, datasync):
        await self.fsync(fh, datasync)

    async def releasedir(self, fh):
        del self._listing[fh]
        os.close(fh)

    async def statfs(self, ctx):
        del ctx
        found = os.statvfs(self._source)
        reply = pyfuse3.StatvfsData()
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files",
                      "f_ffree", "f_favail", "f_namemax"):  # fmt: skip
            setattr(reply, field, getattr(found, field))
        return reply


def main():
    source, mountpoint = sys.argv[1:]
    options = {*pyfuse3.default_options, "fsname=passthrough"}
    os.umask(0)
    pyfuse3.init(Passthrough(source), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
