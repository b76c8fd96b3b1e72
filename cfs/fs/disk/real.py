"""The disk port on a real directory.

Decides how each port call maps to Linux system calls. Invariants: every descriptor is
close-on-exec; one process at a time owns a directory (flock on the directory itself, released by
the kernel when the process dies); names that start with `.cfs-tmp-` are unfinished `write_whole`
files, removed when the directory is opened. What to do about a failing call is left to the caller:
every OSError passes through.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cfs.core.errors import Refused

IOV_MAX = 1024
"""Buffers Linux takes in one writev (limits.h, UIO_MAXIOV)."""

_TEMPORARY = ".cfs-tmp-"
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

_NOT_NOW = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EBADF})
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


class RealFile:
    """`port.File` on a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, parts: Sequence[bytes | bytearray | memoryview]) -> int:
        """See the port; one writev in the common case."""
        descriptor = self._descriptor
        start = os.fstat(descriptor).st_size
        pending: list[memoryview] | None = None
        for first in range(0, len(parts), IOV_MAX):
            group = parts[first : first + IOV_MAX]
            total = sum(map(len, group))
            written = os.writev(descriptor, group)
            if written == total:
                continue
            pending = [memoryview(part).cast("B") for part in group]
            while total:
                pending = _skip(pending, written)
                total -= written
                if total:
                    written = os.writev(descriptor, pending)
        return start

    def pread(self, offset: int, length: int) -> bytes:
        """See the port."""
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]
        got = len(data)
        while got < length and (data := os.pread(self._descriptor, length - got, offset + got)):
            pieces.append(data)
            got += len(data)
        return b"".join(pieces)

    def pread_now(self, offset: int, length: int) -> bytes | bytearray | None:
        """Read what the page cache holds; None when the disk would have to be waited for."""
        buffer = bytearray(length)
        try:
            if os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT) == length:
                return buffer
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise
        return None

    def forget(self, offset: int, length: int) -> None:
        """Let the page cache give up synced bytes: their memory serves the next writes."""
        os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """See the port."""
        os.fdatasync(self._descriptor)

    def punch(self, offset: int, length: int) -> None:
        """See the port. EOPNOTSUPP where the file system cannot."""
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        while _fallocate(self._descriptor, mode, offset, length) != 0:
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))

    def truncate(self, size: int) -> None:
        """See the port."""
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        """See the port."""
        return os.fstat(self._descriptor).st_size

    def allocated(self) -> int:
        """See the port."""
        return os.fstat(self._descriptor).st_blocks * 512

    def close(self) -> None:
        """See the port; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RealDirectory:
    """`port.Directory` on a path, created when missing.

    Raises Refused when another process (or another object of this one) has it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        _make_directories(self.path)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise Refused(
                f"{self.path} is in use by another process: stop it or choose another directory"
            ) from None
        for name in self.names():
            if name.startswith(_TEMPORARY):
                self.remove(name)

    def open(self, name: str, *, create: bool = False) -> RealFile:
        """See the port."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        if create:
            flags |= os.O_CREAT
        return RealFile(os.open(name, flags, 0o600, dir_fd=self._descriptor))

    def names(self) -> list[str]:
        """See the port."""
        with os.scandir(self._descriptor) as entries:
            return sorted(e.name for e in entries if e.is_file(follow_symlinks=False))

    def remove(self, name: str) -> None:
        """See the port."""
        os.unlink(name, dir_fd=self._descriptor)

    def rename(self, name: str, new_name: str) -> None:
        """See the port."""
        os.rename(name, new_name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def write_whole(self, name: str, data: bytes) -> None:
        """See the port."""
        temporary = _TEMPORARY + name
        descriptor = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
            0o600,
            dir_fd=self._descriptor,
        )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.rename(temporary, name)
        self.sync()

    def sync(self) -> None:
        """See the port."""
        os.fsync(self._descriptor)

    def device(self) -> str:
        """See the port."""
        info = os.fstatvfs(self._descriptor)
        return f"{_machine()} {os.fstat(self._descriptor).st_dev:x} {info.f_fsid:x}"

    def usage(self) -> tuple[int, int]:
        """See the port."""
        info = os.fstatvfs(self._descriptor)
        return info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize

    def close(self) -> None:
        """Let another process have the directory; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _skip(parts: list[memoryview], count: int) -> list[memoryview]:
    for index, part in enumerate(parts):
        if count < len(part):
            return [part[count:], *parts[index + 1 :]]
        count -= len(part)
    return []


def _make_directories(path: Path) -> None:
    """Make `path` and its parents, each name durable in the directory above."""
    missing: list[Path] = []
    probe = path.absolute()
    while not probe.exists():
        missing.append(probe)
        probe = probe.parent
    if not stat.S_ISDIR(probe.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(probe))
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
        above = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(above)
        finally:
            os.close(above)


@functools.cache
def _machine() -> str:
    """Name this machine: its machine-id(5), else its host name."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or os.uname().nodename
    except (OSError, UnicodeDecodeError):
        return os.uname().nodename
