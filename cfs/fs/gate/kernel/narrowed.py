"""Mounts that show or allow less than all: a sub-directory, no changes.

Both are tables of handlers around the table of `operations`, so whole mounts pay nothing.

A mount of a sub-directory has that directory for its root: the kernel's node 1. It is served only
nodes that it was given by name before, so no number leads to what lies outside; file handles
(EXPORT_SUPPORT), which are numbers, are not offered. What somebody moves out of the directory while
this kernel knows it stays reachable by what is open, as with a bind mount.
"""

from __future__ import annotations

import errno
import os

from cfs.core.errors import FsError
from cfs.fs.gate.callers import ROOT_NODE
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.kernel.message import Request
from cfs.fs.gate.kernel.opcodes import Opcode
from cfs.fs.gate.kernel.replies import Answer, Handler

_DOTS = frozenset({b".", b".."})
_CHANGES = (
    Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR,
    Opcode.RENAME, Opcode.RENAME2, Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR,
    Opcode.CREATE, Opcode.TMPFILE, Opcode.FALLOCATE, Opcode.COPY_FILE_RANGE,
    Opcode.COPY_FILE_RANGE_64,
)  # fmt: skip
_WITH_NODE = frozenset({Opcode.LINK, Opcode.RENAME, Opcode.RENAME2})
"""Requests whose body begins with another node."""
_FREE = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET})


def read_only(table: dict[int, Handler]) -> dict[int, Handler]:
    """Answer EROFS to every change, whatever the kernel lets through (a remount)."""

    def refuse(request: Request) -> Answer:
        del request
        raise FsError(errno.EROFS)

    opens = table[Opcode.OPEN]

    def open_to_read(request: Request) -> Answer:
        flags = request.fields[0]
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise FsError(errno.EROFS)
        return opens(request)

    return {**table, **dict.fromkeys(_CHANGES, refuse), Opcode.OPEN: open_to_read}


def confined(table: dict[int, Handler], root: int, inodes: Inodes) -> dict[int, Handler]:
    """Let the kernel's root be the directory `root`, and nothing be reached that is not below."""
    return {
        opcode: handler if opcode in _FREE else _confine(opcode, handler, root, inodes)
        for opcode, handler in table.items()
    }


def _confine(opcode: int, handler: Handler, root: int, inodes: Inodes) -> Handler:
    def inner(node: int) -> int:
        if node == ROOT_NODE:
            return root
        if not inodes.known(node):
            raise FsError(errno.ESTALE)
        return node

    def confine(request: Request) -> Answer:
        request.node = inner(request.node)
        if opcode in _WITH_NODE:
            request.fields = (inner(request.fields[0]), *request.fields[1:])
        elif opcode == Opcode.LOOKUP and request.names[0] in _DOTS:
            raise FsError(errno.ESTALE)
        return handler(request)

    return confine
