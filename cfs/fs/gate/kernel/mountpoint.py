"""A mount point and the connection behind it: made, watched over, taken away.

Root calls mount(2); anybody else asks `fusermount3`, which mounts and sends the descriptor of
/dev/fuse back over a socket (SCM_RIGHTS). A *guard*, a shell that reads a pipe this process holds,
takes the mount away when the process dies without having done so: nobody is left with ENOTCONN.

A mount that is handed to another process (`door`) takes along the device and the guard's pipe. The
kernel keeps requests that nobody has read meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import subprocess
from pathlib import Path

import structlog

from cfs.core.errors import Refused
from cfs.fs.gate.attachment import MountOptions

_LOG = structlog.get_logger()

DEVICE = "/dev/fuse"
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_DETACH = 2
_FUSERMOUNT = "fusermount3"
_GUARD = 'if read -r _; then exit 0; fi; "$@" >/dev/null 2>&1'
"""A line means: unmounted, go; the end of the pipe means: the process is gone."""

_libc = ctypes.CDLL(None, use_errno=True)


class Mountpoint:
    """A mount that this process serves."""

    def __init__(self, path: str, device: int, *, guard: int | None = None) -> None:
        self.path = path
        self.device = device
        """The open /dev/fuse."""
        self.guard = guard
        """What keeps the guard quiet as long as it is open: a pipe's end."""
        self._child: subprocess.Popen[bytes] | None = None
        if guard is None:
            self._child = _start_guard(path)
            if self._child is not None and self._child.stdin is not None:
                self.guard = self._child.stdin.fileno()

    def descriptors(self) -> tuple[int, ...]:
        """Give what another process needs to go on with the mount: device, guard's pipe."""
        return (self.device,) if self.guard is None else (self.device, self.guard)

    def unmount(self) -> None:
        """Detach the mount if it is there, and end the connection."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            _unmount(self.path)
        with contextlib.suppress(OSError):
            os.close(self.device)
        self.dismiss()

    def gone(self) -> None:
        """End what is left of a mount that somebody unmounted."""
        with contextlib.suppress(OSError):
            os.close(self.device)
        self.dismiss()

    def dismiss(self) -> None:
        """Let the guard go."""
        guard, self.guard = self.guard, None
        if guard is None:
            return
        with contextlib.suppress(OSError):
            os.write(guard, b"\n")
            if self._child is None:
                os.close(guard)
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
            self._child.wait()


def attach(path: str, options: MountOptions) -> Mountpoint:
    """Mount. Raises OSError, Refused."""
    device = _mount(path, options) if os.geteuid() == 0 else _ask_fusermount(path, options)
    os.set_blocking(device, False)
    return Mountpoint(path, device)


def _mount(path: str, options: MountOptions) -> int:
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = stat.S_IFMT(Path(path).stat().st_mode)
        words = [f"fd={device}", f"rootmode={kind:o}", f"user_id={os.getuid()}"]
        words += [f"group_id={os.getgid()}", "default_permissions"]
        if options.allow_other:
            words.append("allow_other")
        flags = _MS_RDONLY if options.read_only else 0
        if "nosuid" in options.words():
            flags |= _MS_NOSUID | _MS_NODEV
        _mount_2(options.name, path, flags, ",".join(words))
    except BaseException:
        os.close(device)
        raise
    return device


def _mount_2(name: str, path: str, flags: int, words: str) -> None:
    done = _libc.mount(
        os.fsencode(name), os.fsencode(path), b"fuse.cfs", ctypes.c_ulong(flags), os.fsencode(words)
    )
    if done:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _ask_fusermount(path: str, options: MountOptions) -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [_FUSERMOUNT, "-o", ",".join(sorted(options.words())), "--", path]
        done = subprocess.run(  # noqa: S603 fixed words and a path
            command, env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}, check=False,
            pass_fds=(theirs.fileno(),), capture_output=True, text=True,
        )  # fmt: skip
        theirs.close()
        if done.returncode:
            raise Refused(f"{path} was not mounted: {done.stderr.strip()}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise Refused(f"{path} was not mounted: {_FUSERMOUNT} sent no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _unmount(path: str) -> None:
    if os.geteuid() == 0:
        _libc.umount2(os.fsencode(path), _MNT_DETACH)
    else:
        command = [_FUSERMOUNT, "-u", "-z", "--", path]
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603 a path


def _start_guard(path: str) -> subprocess.Popen[bytes] | None:
    unmounting = ["umount", "-l"] if os.geteuid() == 0 else [_FUSERMOUNT, "-u", "-z"]
    command = ["/bin/sh", "-c", _GUARD, "cfs-guard", *unmounting, "--", path]
    try:
        return subprocess.Popen(  # noqa: S603 fixed words and a path
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
        )  # fmt: skip
    except OSError as error:
        _LOG.warning("mount_unguarded", mountpoint=path, error=str(error))
        return None
