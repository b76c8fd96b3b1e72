"""What the handlers build their answers from, and the rules of what the kernel may cache.

A handler is called with a request and gives an answer's bytes, or None where none is wanted, or,
when something has to be waited for, a coroutine that gives the bytes later: only then is there a
task. It takes from the request what it needs before it returns, since the next one is read into
the same buffer. Errors are raised.

Attributes live in the kernel for as long as the lease is sure to last, and not at all while an
invalidation is on its way (`invalidate`). Names, present and absent, live there for a short time
while the lease on their directory lasts (`entries`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any

from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import FsError
from cfs.fs.client.files import Files
from cfs.fs.gate.callers import Callers, Maker
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.entries import Entries
from cfs.fs.gate.kernel.message import Request

Later = Coroutine[Any, Any, bytes]
Answer = bytes | Later | None
Handler = Callable[[Request], Answer]

DONE = b""
"""The body of an answer that says only that it was done."""


class Replies:
    """The base of the handlers."""

    def __init__(
        self, files: Files, inodes: Inodes, invalidator: Invalidator, entries: Entries
    ) -> None:
        self.files = files
        self.inodes = inodes
        self.invalidator = invalidator
        self.entries = entries
        self.callers = Callers()
        self.root = 0
        """The root's inode, when the mount shows only what is below it."""

    def caller(self, request: Request) -> Caller | None:
        """Give whose rights count; None: nothing is checked."""
        return self.callers.of(request.uid, request.gid, request.pid)

    def maker(self, request: Request) -> Maker:
        """Give whose what is made becomes."""
        caller = self.callers.of(request.uid, request.gid, request.pid)
        if caller is None:
            return {"uid": request.uid, "gid": request.gid, "caller": None}
        return {"uid": caller.uid, "gid": caller.gid, "caller": caller}

    def attr_s(self, ino: int) -> float:
        """Give the lifetime of attributes in the kernel, seconds."""
        return 0.0 if self.invalidator.pending(ino) else self.files.trust_left_s(ino)

    def entry_s(self, parent: int, name: bytes, ino: int, *, raced: bool = False) -> float:
        """Give the lifetime of a name in the kernel, seconds; `ino` 0: absent.

        `raced`: the answer may be taken in without the directory's lock.
        """
        files = self.files
        if files.said(parent, name) != ino or self.invalidator.pending(parent):
            return 0.0
        return self.entries.give(parent, name, files.trust_left_s(parent), raced=raced)

    def entry(self, attr: Attr, parent: int, name: bytes, *, found: bool = False) -> bytes:
        """Encode an entry, and count it: the kernel will forget it as often as it is given.

        `found`: in answer to a LOOKUP, which may refresh a name that the kernel has.
        """
        ino = attr.ino
        raced = found and self.inodes.known(ino)
        self.inodes.looked_up(ino)
        return message.entry(attr, self.entry_s(parent, name, ino, raced=raced), self.attr_s(ino))

    def attributes(self, attr: Attr) -> bytes:
        """Encode attributes."""
        return message.attributes(attr, self.attr_s(attr.ino))

    def offered(self, name: str) -> Any:
        """Give a method of `Files` that not every one has. Raises ENOSYS."""
        method = getattr(self.files, name, None)
        if method is None:
            raise FsError(errno.ENOSYS)
        return method
