"""Clients that may only read: their certificates say so (role `reader`), whatever they were told.

The table of methods keeps them from what changes segments, the trash or the cluster; here is what
they may put into a shard's log: locks on what they read, and leases given back. Not the claim on
the whole file system, which would keep everybody else out.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from cfs.core.api.holding import Release
from cfs.core.api.locking import Lock, LockKind
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO


def check_reader(ops: Sequence[object]) -> None:
    """Raise EROFS for operations of which one changes anything."""
    for op in ops:
        match op:
            case Release():
                continue
            case Lock(ino=ino, kind=kind) if ino != ROOT_INO or kind != LockKind.WRITE:
                continue
        name = type(op).__name__
        raise FsError(errno.EROFS, f"{name}: this client's certificate lets it only read")
