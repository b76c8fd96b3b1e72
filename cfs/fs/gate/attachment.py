"""How a mount is attached to the machine, whichever binding serves it: options, device, its end.

Nothing here asks the mount itself anything, except where its daemon is known to answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import msgspec
import structlog
import trio

_LOG = structlog.get_logger()

READAHEAD_KIB = 4096


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to mount."""

    allow_other: bool = True
    read_only: bool = False
    name: str = "cfs"
    """Shown as the device in the mount table."""
    root: int = 1
    """Inode of the directory that is the mount's root."""
    root_squash: bool = False
    """User 0 and group 0 are nobody's here."""
    exclusive: bool = False
    """Nobody else has the file system: the kernel may write back in its own time."""
    signals: bool = True
    """Unmount on SIGTERM and SIGINT, everything committed. Without it whoever ends the process
    must unmount first: cancelled together with what `files` runs on, the mount cannot commit."""

    def words(self) -> set[str]:
        """Give the options in the words of libfuse and fusermount3."""
        name = self.name.replace("\\", "\\\\").replace(",", "\\,")
        words = {"default_permissions", f"fsname={name}", "subtype=cfs", "nosuid", "nodev"}
        if os.geteuid() == 0:
            words -= {"nosuid", "nodev"}
            words |= {"suid", "dev"}
        if self.allow_other:
            words.add("allow_other")
        if self.read_only:
            words.add("ro")
        return words


def device_of(mountpoint: str) -> str | None:
    """Give `major:minor` of a mount without asking the mount itself."""
    path = str(Path(mountpoint).absolute())
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4].encode().decode("unicode_escape") == path:
            found = fields[2]
    return found


async def raise_readahead(mountpoint: str, device: str | None) -> None:
    """Let the kernel read ahead in large requests; only root may, and it is only faster."""
    # the kernel sets its own figure when the connection is made: an answer proves that it was
    with contextlib.suppress(OSError):
        await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
        if device is not None:
            knob = trio.Path(f"/sys/class/bdi/{device}/read_ahead_kb")
            await knob.write_text(str(READAHEAD_KIB))


async def clear_dead_mount(mountpoint: str) -> None:
    """Detach a mount whose process was killed: it answers ENOTCONN to everything."""
    try:
        await trio.to_thread.run_sync(os.stat, mountpoint)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        _LOG.warning("dead_mount_detached", mountpoint=mountpoint)
        command = ["fusermount3", "-u", "-z", mountpoint]
        await trio.run_process(command, check=False, capture_stderr=True)


def abort(device: str | None) -> None:
    """Break the connection to the kernel: whoever waits in it gets ENOTCONN."""
    if device is not None:
        minor = device.partition(":")[2]
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
