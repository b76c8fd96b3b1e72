"""What a kernel is told of an error: one table for both FUSE bindings."""

from __future__ import annotations

import errno

from cfs.core.errors import CfsError, DeadlineExceeded, FsError, NoSpace, Refused, Retryable

ERRNO: tuple[tuple[type[CfsError], int | None], ...] = (
    (FsError, None),  # says it itself
    (NoSpace, errno.ENOSPC),
    (DeadlineExceeded, errno.ETIMEDOUT),
    (Retryable, errno.ETIMEDOUT),
    (Refused, errno.EACCES),
    (CfsError, errno.EIO),
)
"""The first row that fits."""

LOUD = frozenset({errno.EIO, errno.ETIMEDOUT})
"""Answers that are worth a line in the log."""


def errno_of(error: CfsError) -> int:
    """Give the errno of an error, by the table."""
    for kind, number in ERRNO:
        if isinstance(error, kind):
            return error.errno if number is None else number
    raise AssertionError("the table ends in the root of the tree")
