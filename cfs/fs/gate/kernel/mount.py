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
from cfs.fs.gate.callers import ROOT_NODE, Callers, outward
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator
from cfs.fs.gate.kernel import narrowed
from cfs.fs.gate.kernel.door import PATIENCE_S, Door, State, Taken
from cfs.fs.gate.kernel.entries import Entries
from cfs.fs.gate.kernel.flags import Init
from cfs.fs.gate.kernel.mountpoint import Mountpoint, attach
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
    door: Door | None = None,
    taken: Taken | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount `files` and serve until unmounted, SIGTERM, SIGINT or cancelled.

    Through `door` another process may take the mount; this one ends then without returning. `taken`
    is what it has got: the mount goes on.

    Returns unmounted, with everything committed. Raises OSError or Refused when the mount is
    refused, and what could not be committed. `files` is closed on return: its nursery may end.
    """
    if taken is None:
        await clear_dead_mount(mountpoint)
        mounted = await trio.to_thread.run_sync(attach, mountpoint, options)
    else:
        mounted = Mountpoint(mountpoint, taken.device, guard=taken.guard)
    device = device_of(mountpoint)
    operations, session, notifier = _build(files, mounted.device, options)
    invalidator = operations.invalidator
    if taken is not None:
        operations.restore(taken.state)
    leaving = Leaving(files, operations, session, notifier)
    try:
        async with trio.open_nursery() as nursery:
            invalidator.start(nursery)
            files.attach(invalidator)
            if options.signals:
                await nursery.start(_end_on_signal, nursery.cancel_scope)
            nursery.start_soon(raise_readahead, mountpoint, device)
            task_status.started()
            if door is not None:
                await nursery.start(door.run, session.pause)
            if taken is not None:
                leaving.resend()
            async with trio.open_nursery() as waiting:
                while await session.serve(waiting):
                    assert door is not None
                    await door.hand(leaving.prepare, *mounted.descriptors())
                    leaving.stay()
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


def _build(
    files: Files, device: int, options: MountOptions
) -> tuple[Operations, Session, Notifier]:
    """Put together what serves a connection."""
    inodes = Inodes(options.root)
    notifier = Notifier(device)
    entries = Entries(outward(options.root, notifier.expire))
    invalidator = Invalidator(inodes, outward(options.root, notifier.drop), entries.end)
    operations = Operations(files, inodes, invalidator, entries)
    operations.callers = Callers(squash=options.root_squash)
    wanted = WANTED | LOCKS if hasattr(files, "setlk") else WANTED
    if options.exclusive:
        wanted = wanted | Init.WRITEBACK_CACHE
    table = operations.table()
    if options.read_only:
        table = narrowed.read_only(table)
    if options.root != ROOT_INO:
        operations.root = options.root
        table = narrowed.confined(table, options.root, inodes)
        wanted &= ~Init.EXPORT_SUPPORT
    session = Session(device, table, operations.landing, wanted=wanted, agreed=operations.agreed)
    return operations, session, notifier


async def _end_on_signal(
    serving: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _LOG.info("mount_ends", signal=signal.Signals(number).name)
            serving.cancel()
            return


class Leaving:
    """Makes a mount ready to be given to another process."""

    def __init__(
        self, files: Files, operations: Operations, session: Session, notifier: Notifier
    ) -> None:
        self._files = files
        self._operations = operations
        self._session = session
        self._notifier = notifier
        self._dropped = False

    async def prepare(self) -> State:
        """Settle what is under way, commit, drop what the kernel caches; give what is to be told.

        Raises why that is not possible now. `stay` is to follow if nobody takes it.
        """
        deadline = trio.current_time() + PATIENCE_S
        operations = self._operations
        await self._session.settle(deadline)
        self._dropped = True
        handed = await self._files.hand_over(deadline)
        counts = operations.inodes.counts()
        # no lease will be told of to whoever has the kernel below: what it may use ends now
        await trio.to_thread.run_sync(self._notifier.drop_attributes, [ROOT_NODE, *counts])
        await operations.entries.over()
        return State(
            files=handed,
            agreed=operations.flags,
            counts=counts,
            tainted=operations.inodes.doubtful(),
            root=operations.root or ROOT_INO,
        )

    def stay(self) -> None:
        """Go on: nobody has taken the mount."""
        self._files.keep_on()
        if self._dropped:
            self.resend()
        self._dropped = False

    def resend(self) -> None:
        """Have the kernel say again what was read and not answered."""
        if self._operations.flags & Init.HAS_RESEND:
            self._notifier.resend()
