"""The mount, by pyfuse3: options, start, end. The handlers are in `fuse_handlers`.

pyfuse3 keeps one session a process, so a process has one mount, and one `Files` of its own: the
kernel caches what this `Files` holds leases for, and is not told of changes made through the same
`Files` by others.
"""

from __future__ import annotations

import functools
import signal

import pyfuse3
import structlog
import trio

from cfs.fs.client.client import NoKernel
from cfs.fs.client.files import Files
from cfs.fs.gate.attachment import (
    MountOptions,
    abort,
    clear_dead_mount,
    device_of,
    raise_readahead,
)
from cfs.fs.gate.fuse_handlers import Gate
from cfs.fs.gate.fuse_read_only import ReadOnlyGate

__all__ = ["Gate", "MountOptions", "serve_mount"]

_LOG = structlog.get_logger()

IDLE_TASKS = 2
"""Workers that wait for requests when there are none."""
TASKS_MAX = 256
"""Requests in progress: one that waits for a recall must not keep others out."""


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
    await clear_dead_mount(mountpoint)
    handlers = ReadOnlyGate if options.read_only else Gate
    gate = handlers(files, root=options.root, squash=options.root_squash)
    pyfuse3.init(gate, mountpoint, options.words())
    device = device_of(mountpoint)
    try:
        async with trio.open_nursery() as nursery:
            gate.invalidator.start(nursery)
            files.attach(gate.invalidator)
            if options.signals:
                await nursery.start(_end_on_signal)
            nursery.start_soon(raise_readahead, mountpoint, device)
            task_status.started()
            await pyfuse3.main(min_tasks=IDLE_TASKS, max_tasks=TASKS_MAX)
            files.attach(NoKernel())
            await gate.invalidator.stop(functools.partial(abort, device))
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            files.attach(NoKernel())
            await gate.invalidator.stop(functools.partial(abort, device))
            pyfuse3.close(unmount=True)
            await files.close()


async def _end_on_signal(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _LOG.info("mount_ends", signal=signal.Signals(number).name)
            pyfuse3.terminate()
