"""The mount, by pyfuse3: options, start, end. The handlers are in `fuse_handlers`.

pyfuse3 keeps one session a process, so a process has one mount, and one `Files` of its own: the
kernel caches what this `Files` holds leases for, and is not told of changes made through the same
`Files` by others.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
from pathlib import Path

import msgspec
import pyfuse3
import structlog
import trio

from cfs.fs.client.client import NoKernel
from cfs.fs.client.files import Files
from cfs.fs.gate.fuse_handlers import Gate

__all__ = ["Gate", "MountOptions", "serve_mount"]

_LOG = structlog.get_logger()

READAHEAD_KIB = 4096
IDLE_TASKS = 2
"""Workers that wait for requests when there are none."""
TASKS_MAX = 256
"""Requests in progress: one that waits for a recall must not keep others out."""


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to mount."""

    allow_other: bool = True
    read_only: bool = False
    name: str = "cfs"
    """Shown as the device in the mount table."""
    signals: bool = True
    """Unmount on SIGTERM and SIGINT, everything committed. Without it whoever ends the process
    must unmount first: cancelled together with what `files` runs on, the mount cannot commit."""

    def words(self) -> set[str]:
        """Give libfuse's options."""
        words = {"default_permissions", f"fsname={self.name}", "subtype=cfs", "nosuid", "nodev"}
        if os.geteuid() == 0:
            words -= {"nosuid", "nodev"}
            words |= {"suid", "dev"}
        if self.allow_other:
            words.add("allow_other")
        if self.read_only:
            words.add("ro")
        return words


async def serve_mount(
    files: Files,
    mountpoint: str,
    *,
    options: MountOptions,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount `files` and serve until unmounted, SIGTERM, SIGINT or cancelled.

    Returns unmounted, with everything committed. Raises OSError or RuntimeError when the mount is
    refused, and what could not be committed. `files` is closed on return: its nursery may end.
    """
    await _clear_dead_mount(mountpoint)
    gate = Gate(files)
    pyfuse3.init(gate, mountpoint, options.words())
    device = _device_of(mountpoint)
    try:
        async with trio.open_nursery() as nursery:
            gate.invalidator.start(nursery)
            files.attach(gate.invalidator)
            if options.signals:
                await nursery.start(_end_on_signal)
            nursery.start_soon(_raise_readahead, mountpoint, device)
            task_status.started()
            await pyfuse3.main(min_tasks=IDLE_TASKS, max_tasks=TASKS_MAX)
            files.attach(NoKernel())
            await gate.invalidator.stop(functools.partial(_abort, device))
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            files.attach(NoKernel())
            await gate.invalidator.stop(functools.partial(_abort, device))
            pyfuse3.close(unmount=True)
            await files.close()


async def _end_on_signal(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _LOG.info("mount_ends", signal=signal.Signals(number).name)
            pyfuse3.terminate()


def _device_of(mountpoint: str) -> str | None:
    """Give `major:minor` of a mount without asking the mount itself."""
    path = str(Path(mountpoint).absolute())
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4].encode().decode("unicode_escape") == path:
            found = fields[2]
    return found


async def _raise_readahead(mountpoint: str, device: str | None) -> None:
    """Let the kernel read ahead in large requests; only root may, and it is only faster."""
    # the kernel sets its own figure when the connection is made: an answer proves that it was
    with contextlib.suppress(OSError):
        await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
        if device is not None:
            knob = trio.Path(f"/sys/class/bdi/{device}/read_ahead_kb")
            await knob.write_text(str(READAHEAD_KIB))


async def _clear_dead_mount(mountpoint: str) -> None:
    """Detach a mount whose process was killed: it answers ENOTCONN to everything."""
    try:
        await trio.to_thread.run_sync(os.stat, mountpoint)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        _LOG.warning("dead_mount_detached", mountpoint=mountpoint)
        command = ["fusermount3", "-u", "-z", mountpoint]
        await trio.run_process(command, check=False, capture_stderr=True)


def _abort(device: str | None) -> None:
    """Break the connection to the kernel: whoever waits in it gets ENOTCONN."""
    if device is not None:
        minor = device.partition(":")[2]
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
