"""Every request of the FUSE protocol and its layout: linux/fuse.h, 7.31 to 7.45.

A request is a header (`message`), the structure of its row, `names` strings that end in NUL, and
data. Numbers are in the machine's own byte order, every structure is padded to eight bytes.
Structures and their fields in order:

    FORGET       nlookup
    GETATTR      flags, -, fh
    SETATTR      valid, -, fh, size, lock owner, atime, mtime, ctime (s), atime, mtime, ctime (ns),
                 mode, -, uid, gid, -
    MKNOD        mode, rdev, umask, -                 MKDIR  mode, umask
    RENAME       new parent                           RENAME2  new parent, flags, -
    LINK         old inode                            OPEN, OPENDIR  flags, open flags
    CREATE, TMPFILE  flags, mode, umask, open flags
    READ, READDIR, READDIRPLUS, WRITE  fh, offset, size, read or write flags, lock owner, flags, -
    RELEASE, RELEASEDIR  fh, flags, release flags, lock owner
    FLUSH        fh, -, -, lock owner                 FSYNC, FSYNCDIR  fh, flags, -
    SETXATTR     size, flags                          GETXATTR, LISTXATTR  size, -
    INIT         major, minor, max readahead, flags; then, since 7.36, flags2 and eleven words
    GETLK, SETLK, SETLKW  fh, owner, start, end, kind, pid, flags, -
    ACCESS       mask, -                              INTERRUPT  unique
    BMAP         block, block size, -                 POLL  fh, kh, flags, events
    IOCTL        fh, flags, command, argument, size in, size out
    BATCH_FORGET count, -; then `count` of (inode, nlookup)
    FALLOCATE    fh, offset, length, mode, -          LSEEK  fh, offset, whence, -
    COPY_FILE_RANGE, _64  fh, offset, inode out, fh out, offset out, length, flags
    SYNCFS       -                                    STATX  flags, -, fh, statx flags, mask
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple


class Opcode(IntEnum):
    """What a request wants."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Layout(NamedTuple):
    """What follows the header: a structure, then strings; what is left is data."""

    body: Struct | None = None
    names: int = 0


_CREATE = Struct("=IIII")
_HANDLE = Struct("=QIIQ")
_LOCK = Struct("=QQQQIIII")
_OPEN = Struct("=II")
_PAIR = Struct("=II")
_SYNC = Struct("=QII")
SPAN = Struct("=QQIIQII")
_WORD = Struct("=Q")
_COPY = Struct("=QQQQQQQ")

LAYOUTS: dict[int, Layout] = {
    Opcode.LOOKUP: Layout(names=1),
    Opcode.FORGET: Layout(_WORD),
    Opcode.GETATTR: Layout(Struct("=IIQ")),
    Opcode.SETATTR: Layout(Struct("=IIQQQqqqIIIIIIII")),
    Opcode.READLINK: Layout(),
    Opcode.SYMLINK: Layout(names=2),
    Opcode.MKNOD: Layout(Struct("=IIII"), names=1),
    Opcode.MKDIR: Layout(_PAIR, names=1),
    Opcode.UNLINK: Layout(names=1),
    Opcode.RMDIR: Layout(names=1),
    Opcode.RENAME: Layout(_WORD, names=2),
    Opcode.LINK: Layout(_WORD, names=1),
    Opcode.OPEN: Layout(_OPEN),
    Opcode.READ: Layout(SPAN),
    Opcode.WRITE: Layout(SPAN),
    Opcode.STATFS: Layout(),
    Opcode.RELEASE: Layout(_HANDLE),
    Opcode.FSYNC: Layout(_SYNC),
    Opcode.SETXATTR: Layout(_PAIR, names=1),
    Opcode.GETXATTR: Layout(_PAIR, names=1),
    Opcode.LISTXATTR: Layout(_PAIR),
    Opcode.REMOVEXATTR: Layout(names=1),
    Opcode.FLUSH: Layout(_HANDLE),
    Opcode.INIT: Layout(Struct("=IIII")),
    Opcode.OPENDIR: Layout(_OPEN),
    Opcode.READDIR: Layout(SPAN),
    Opcode.RELEASEDIR: Layout(_HANDLE),
    Opcode.FSYNCDIR: Layout(_SYNC),
    Opcode.GETLK: Layout(_LOCK),
    Opcode.SETLK: Layout(_LOCK),
    Opcode.SETLKW: Layout(_LOCK),
    Opcode.ACCESS: Layout(_PAIR),
    Opcode.CREATE: Layout(_CREATE, names=1),
    Opcode.INTERRUPT: Layout(_WORD),
    Opcode.BMAP: Layout(_SYNC),
    Opcode.DESTROY: Layout(),
    Opcode.IOCTL: Layout(Struct("=QIIQII")),
    Opcode.POLL: Layout(Struct("=QQII")),
    Opcode.BATCH_FORGET: Layout(_PAIR),
    Opcode.FALLOCATE: Layout(Struct("=QQQII")),
    Opcode.READDIRPLUS: Layout(SPAN),
    Opcode.RENAME2: Layout(Struct("=QII"), names=2),
    Opcode.LSEEK: Layout(Struct("=QqII")),
    Opcode.COPY_FILE_RANGE: Layout(_COPY),
    Opcode.SYNCFS: Layout(_WORD),
    Opcode.TMPFILE: Layout(_CREATE, names=1),
    Opcode.STATX: Layout(Struct("=IIQII")),
    Opcode.COPY_FILE_RANGE_64: Layout(_COPY),
}
"""Requests without a row are answered ENOSYS."""

UNANSWERED = frozenset(
    {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY, Opcode.DESTROY}
)
"""The kernel waits for no answer to these, or may not be there any more to take it."""
