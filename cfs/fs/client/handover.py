"""Handing a client's session on to another process, open files and locks included.

What the new process must have of the old one is small, because everything else is the cluster's or
can be learnt again: the session with its numbering in every shard, which files and directories are
open, and what each owner has locked. Before, everything written is committed and every open file
pinned, so a file without a name stays. Leases that the shards still count for the session are
recalled from the new process, which has nothing under them, when somebody wants them.

Until the new process has said that it goes on (`Handed` was taken in), the old one can: nothing is
numbered while a session is held.
"""

from __future__ import annotations

import errno
import itertools

import msgspec
import trio

from cfs.core.errors import CfsError, DeadlineExceeded, FsError
from cfs.core.meta.records import Range
from cfs.fs.client.contents import Handle
from cfs.fs.client.instant import Instant
from cfs.fs.client.listing import Directory
from cfs.fs.client.locking import Owned

QUIET_S = 0.01
"""Between looks for operations whose answer is not here yet."""


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """An open file; `error`: errno of a loss that it has not reported."""

    fh: int
    ino: int
    flags: int
    error: int = 0


class Locked(msgspec.Struct, frozen=True, array_like=True):
    """What one owner has locked of one file; see `locking.Owned`."""

    ino: int
    flock: bool
    owner: int
    ranges: tuple[Range, ...]
    fhs: tuple[int, ...]
    unsure: bool


class Handed(msgspec.Struct, frozen=True, array_like=True):
    """A client between two processes."""

    session: int
    numbering: dict[int, int]
    """By shard, the next number."""
    files: tuple[Opened, ...]
    directories: tuple[tuple[int, int], ...]
    """Handle and inode."""
    locks: tuple[Locked, ...]
    next_handle: int
    next_ticket: int


class Handover(Instant):
    """Giving a session away, and taking one."""

    async def hand_over(self, deadline: float) -> Handed:
        """Commit everything, hold the session, and give what another process needs to go on.

        Nobody may use this client meanwhile, nor afterwards, except `keep_on`. Raises what could
        not be committed; the client goes on then.
        """
        client = self.client
        try:
            await client.writeback.flush_all(deadline)
            await client.queue.drained(deadline)
            for file in list(client.writeback.files.values()):
                if file.opens and not file.pinned:
                    await client.pin(file.ino, deadline)
            while not client.session.hold():
                if trio.current_time() > deadline:
                    raise DeadlineExceeded("the cluster does not answer all operations")
                await trio.sleep(QUIET_S)
        except CfsError:
            self.keep_on()
            raise
        return Handed(
            session=client.session.id,
            numbering=client.session.numbering(),
            files=tuple(self._opened_file(fh, h) for fh, h in self._handles.items()),
            directories=tuple((fh, d.ino) for fh, d in self._directories.items()),
            locks=tuple(
                Locked(ino, flock, owner, own.ranges, tuple(own.fhs), own.unsure)
                for ino, owned in self._owned.items()
                for (flock, owner), own in owned.items()
            ),
            next_handle=self._next_fh,
            next_ticket=next(self._tickets),
        )

    def keep_on(self) -> None:
        """Take the session up again: nobody took it over."""
        self.client.session.go_on()

    def take_over(self, handed: Handed) -> None:
        """Go on where another process stopped; before anything else is done with this client."""
        client = self.client
        client.session.adopt(handed.numbering)
        self._next_fh = handed.next_handle
        self._tickets = itertools.count(handed.next_ticket)
        for opened in handed.files:
            file = client.writeback.file(opened.ino)
            file.opens += 1
            file.pinned = True
            if opened.error and file.error is None:
                file.fail(FsError(opened.error, "lost before the daemon was replaced"))
            handle = Handle(file=file, flags=opened.flags, errors_seen=0)
            self._handles[opened.fh] = handle
        lost = {opened.fh for opened in handed.files if opened.error}
        for fh, handle in self._handles.items():
            if fh not in lost:
                handle.errors_seen = handle.file.error_count
        for fh, ino in handed.directories:
            self._directories[fh] = Directory(ino)
        for locked in handed.locks:
            own = Owned()
            own.ranges = locked.ranges
            own.fhs = set(locked.fhs)
            own.unsure = locked.unsure
            self._owned.setdefault(locked.ino, {})[locked.flock, locked.owner] = own

    @staticmethod
    def _opened_file(fh: int, handle: Handle) -> Opened:
        file = handle.file
        if handle.errors_seen == file.error_count:
            return Opened(fh, file.ino, handle.flags)
        number = file.error.errno if isinstance(file.error, FsError) else None
        return Opened(fh, file.ino, handle.flags, number or errno.EIO)
