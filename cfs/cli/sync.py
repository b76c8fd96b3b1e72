"""`cfs sync`: return when everything done so far is durable."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Annotated

import typer

from cfs.core.errors import Refused
from cfs.fs.gate.kernel.controls import SYNC


def sync(
    path: Annotated[
        Path, typer.Argument(help="A directory: its whole mount. A file: that.", parser=Path)
    ],
) -> None:
    """Make everything durable that was done through a mount, or to one file.

    sync(1) and syncfs(2) cannot: the kernel does not pass them on to FUSE.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"{path}: {os.strerror(error.errno or 0)}") from error
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)
        else:
            ctypes.CDLL(None).syncfs(descriptor)  # pages of shared mappings
            fcntl.ioctl(descriptor, SYNC)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            raise Refused(f"{path} is not on a mount of CFS by the kernel binding") from error
        raise Refused(f"{path} could not be made durable: {error.strerror}; see its log") from error
    finally:
        os.close(descriptor)
