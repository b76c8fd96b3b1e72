"""Serves `Files` at a mount point through the kernel's own protocol: start, end.

A process may have several such mounts, each with a `Files` of its own: the kernel caches what this
`Files` holds leases for, and is not told of changes made through the same `Files` by others.
"""

from __future__ import annotations

import functools
import signal

import structlog
import trio

from cfs.core.ids import ROOT_INO
from cfs.fs.client.client import NoKernel
from cfs.fs.client.files import Files
from cfs.fs.gate.attachment import (
    MountOptions,
    abort,
    clear_dead_mount,
    device_of,
    raise_readahead,
)
from cfs.fs.gate.callers import Callers, outward
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator
from cfs.fs.gate.kernel import narrowed
from cfs.fs.gate.kernel.entries import Entries
from cfs.fs.gate.kernel.flags import Init
from cfs.fs.gate.kernel.mountpoint import attach
from cfs.fs.gate.kernel.notify import Notifier
from cfs.fs.gate.kernel.operations import Operations
from cfs.fs.gate.kernel.session import LOCKS, WANTED, Session

_LOG = structlog.get_logger()

ANSWER_S = 2.0
"""What requests under way may still take when the mount ends."""


async def serve_mount(
    files: Files,
    mountpoint: str,
    *,
    options: MountOptions,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount `files` and serve until unmounted, SIGTERM, SIGINT or cancelled.

    Returns unmounted, with everything committed. Raises OSError or Refused when the mount is
    refused, and what could not be committed. `files` is closed on return: its nursery may end.
    """
    await clear_dead_mount(mountpoint)
    mounted = await trio.to_thread.run_sync(attach, mountpoint, options)
    device = device_of(mountpoint)
    inodes = Inodes(options.root)
    notifier = Notifier(mounted.device)
    entries = Entries(outward(options.root, notifier.expire))
    invalidator = Invalidator(inodes, outward(options.root, notifier.drop), entries.end)
    operations = Operations(files, inodes, invalidator, entries)
    operations.callers = Callers(squash=options.root_squash)
    wanted = WANTED | LOCKS if hasattr(files, "setlk") else WANTED
    table = operations.table()
    if options.read_only:
        table = narrowed.read_only(table)
    if options.root != ROOT_INO:
        operations.root = options.root
        table = narrowed.confined(table, options.root, inodes)
        wanted &= ~Init.EXPORT_SUPPORT
    session = Session(mounted.device, table, wanted=wanted, agreed=operations.agreed)
    try:
        async with trio.open_nursery() as nursery:
            invalidator.start(nursery)
            files.attach(invalidator)
            if options.signals:
                await nursery.start(_end_on_signal, nursery.cancel_scope)
            nursery.start_soon(raise_readahead, mountpoint, device)
            task_status.started()
            async with trio.open_nursery() as waiting:
                await session.serve(waiting)
                waiting.cancel_scope.deadline = trio.current_time() + ANSWER_S
            files.attach(NoKernel())
            await invalidator.stop(functools.partial(abort, device))
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            files.attach(NoKernel())
            await invalidator.stop(functools.partial(abort, device))
            await trio.to_thread.run_sync(mounted.unmount)
            await files.close()


async def _end_on_signal(
    serving: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _LOG.info("mount_ends", signal=signal.Signals(number).name)
            serving.cancel()
            return
