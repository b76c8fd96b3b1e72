"""Tells the kernel what to drop or to take in, without being asked.

    INVAL_INODE  u64 ino, i64 offset (negative: attributes only), i64 length (0: to the end)
    INVAL_ENTRY  u64 parent, u32 name length, u32 flags; name, NUL
    STORE        u64 ino, u64 offset, u32 size, u32 -; bytes
    DELETE       u64 parent, u64 child, u32 name length, u32 -; name, NUL
    RESEND       nothing: requests read and not answered are to be read again (since 7.40)
    INC_EPOCH    nothing: every name given before it is looked up again (since 7.44)

All but the last two may wait: for pages that are locked, or for the directory's lock, which a
request that waits for an answer may hold. So they are called from a thread of their own, never
from the event loop that gives the answers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from struct import Struct

from cfs.fs.gate.kernel.message import OUT

INVAL_INODE, INVAL_ENTRY, STORE, DELETE, RESEND, INC_EPOCH = 2, 3, 4, 6, 7, 8
EXPIRE_ONLY = 1
"""Of INVAL_ENTRY (since 7.38): ask again, but throw nothing away."""
_INODE = Struct("=Qqq")
_ENTRY = Struct("=QII")
_STORE = Struct("=QQII")
_DELETE = Struct("=QQII")


def invalidate_inode(ino: int, *, attributes_only: bool) -> bytes:
    """Give the notification that drops attributes and, unless told not to, all pages."""
    return _framed(INVAL_INODE, _INODE.pack(ino, -1 if attributes_only else 0, 0))


def invalidate_entry(parent: int, name: bytes, flags: int = 0) -> bytes:
    """Give the notification that drops a name."""
    return _framed(INVAL_ENTRY, _ENTRY.pack(parent, len(name), flags) + name + b"\0")


def store(ino: int, offset: int, data: bytes) -> bytes:
    """Give the notification that puts bytes into the page cache."""
    return _framed(STORE, _STORE.pack(ino, offset, len(data), 0) + data)


def delete(parent: int, child: int, name: bytes) -> bytes:
    """Give the notification that a name has gone, so that watchers hear of it."""
    return _framed(DELETE, _DELETE.pack(parent, child, len(name), 0) + name + b"\0")


def next_epoch() -> bytes:
    """Give the notification that ends the life of every name in the kernel."""
    return _framed(INC_EPOCH, b"")


def _framed(code: int, body: bytes) -> bytes:
    return OUT.pack(OUT.size + len(body), code, 0) + body


class Notifier:
    """Writes notifications to one connection."""

    def __init__(self, device: int) -> None:
        self._device = device

    def drop(self, ino: int, attributes_only: bool) -> None:  # noqa: FBT001 the port's shape
        """Drop what is cached of an inode. Raises FileNotFoundError when it is not there."""
        os.write(self._device, invalidate_inode(ino, attributes_only=attributes_only))

    def expire(self, parent: int, names: Collection[bytes]) -> None:
        """End the lifetimes of names; waits for the directory's lock."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.write(self._device, invalidate_entry(parent, name, EXPIRE_ONLY))

    def drop_attributes(self, inos: Iterable[int]) -> None:
        """Drop the attributes of inodes; those that are not there need nothing."""
        for ino in inos:
            with contextlib.suppress(FileNotFoundError):
                self.drop(ino, attributes_only=True)

    def resend(self) -> None:
        """Have requests that were read and not answered come again."""
        os.write(self._device, _framed(RESEND, b""))
