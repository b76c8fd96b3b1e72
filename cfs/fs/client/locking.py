"""The locks that programs put on files: `flock`, POSIX byte ranges, OFD locks.

Taking a lock is one numbered operation in the file's shard. Who may wait and is refused waits for
its turn at the shard's leader, then tries again. What each owner has locked is also remembered
here: to give it up when the owner closes the file, to undo a lock whose taker was interrupted while
it was on its way, and to say so when locks were lost with the session: every open file of such an
inode then reports EIO once, as for lost bytes.

Operations on locks go through the data lane, in which nothing overtakes: an unlock that is sent
after a lock is applied after it.
"""

from __future__ import annotations

import errno
import itertools
from collections import Counter
from typing import Any

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.locking import OFFSET_MAX
from cfs.core.api.meta import Lock, LockKind, LockWait
from cfs.core.errors import CfsError, DeadlineExceeded, FsError, from_wire
from cfs.core.ids import Ino, shard_of
from cfs.core.meta.file_locks import set_range
from cfs.core.meta.records import Range
from cfs.fs.client.contents import Contents
from cfs.fs.client.file import File

_LOG = structlog.get_logger()
_NONE = int(LockKind.NONE)

Owner = tuple[bool, int]
"""Flock or not, and the kernel's number."""


class Owned:
    """What one owner has locked of one file, as it believes."""

    __slots__ = ("busy", "fhs", "ranges", "unsure")

    def __init__(self) -> None:
        self.ranges: tuple[Range, ...] = ()
        self.fhs: set[int] = set()
        """Open files through which it was locked, as far as they were named."""
        self.busy = 0
        """Requests under way."""
        self.unsure = False
        """An interrupted lock was undone, unseen: unlock it all once more at the end."""


class Locking(Contents):
    """Lock operations of `Files`."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._owned: dict[int, dict[Owner, Owned]] = {}
        self._tickets = itertools.count(1)
        self._waiters = 0
        self._expiries: Counter[int] = Counter()
        """How often each shard's leader gave the session's locks away."""
        client.on_expired.append(self._locks_lost)

    # --- the operations

    async def setlk(
        self, ino: int, owner: int, start: int, end: int, kind: int, pid: int, *, wait: bool,
        flock: bool = False, fh: int | None = None,
    ) -> None:  # fmt: skip
        """Lock, convert or unlock `[start, end]`, both ends in it; `kind` 0 read, 1 write, 2 none.

        `wait`: block, in line, until it can be had; cancelling gives the place up. A flock is of
        the whole file. What was locked naming `fh` is released with it. Raises EAGAIN, EDEADLK
        (POSIX), EINVAL, ENOLCK, ENOENT, ETIMEDOUT (no leader).
        """
        if flock:
            start, end = 0, OFFSET_MAX
        if kind == _NONE:
            await self._unlock(ino, owner, start, end, flock=flock)
            return
        key = (flock, owner)
        own = self._owned.setdefault(ino, {}).setdefault(key, Owned())
        if fh is not None:
            own.fhs.add(fh)
        op = Lock(
            ino=ino, owner=owner, kind=kind, start=start, end=min(end, OFFSET_MAX), pid=pid,
            flock=flock, waits=wait,
        )  # fmt: skip
        own.busy += 1
        try:
            if not await self._take(op, own, wait=wait):
                await self._take_in_turn(op, own)
        finally:
            own.busy -= 1
            self._tidy(ino, key, own)

    async def getlk(
        self, ino: int, owner: int, start: int, end: int, kind: int, pid: int = 0, *,
        flock: bool = False,
    ) -> tuple[int, int, int, int] | None:  # fmt: skip
        """Give `(start, end, kind, pid)` of a lock in the way, or None; pid 0: another client's."""
        del pid
        client = self.client
        shard = shard_of(Ino(ino))
        request = meta.GetLock(
            shard=shard, session=client.session.id, ino=ino, owner=owner, kind=kind, start=start,
            end=min(end, OFFSET_MAX), flock=flock,
        )  # fmt: skip
        reply: meta.GetLockReply = await client.session.read(
            shard, "meta.getlock", request, deadline=client.deadline()
        )
        holder = reply.holder
        if holder is None:
            return None
        pid = holder.pid if holder.session == client.session.id else 0
        return holder.start, holder.end, holder.kind, pid

    def holds_locks(self, ino: int, owner: int | None = None) -> bool:
        """Tell whether an owner of POSIX locks, or anyone here, may have locked the file."""
        owned = self._owned.get(ino)
        return owned is not None and (owner is None or (False, owner) in owned)

    async def flush(self, fh: int, owner: int | None = None) -> None:
        """Release the POSIX locks of `owner`; report, at close(2), bytes that were lost."""
        if owner is not None and self._owned:
            ino = self.handle(fh).file.ino
            if self.holds_locks(ino, owner):
                await self._unlock(ino, owner, 0, OFFSET_MAX, flock=False)
        await super().flush(fh)

    async def release(self, fh: int) -> None:
        """Close a handle and release what was locked through it: flocks, OFD locks."""
        file = self.handle(fh).file
        if file.ino not in self._owned:
            await super().release(fh)
            return
        del self._handles[fh]
        try:
            for flock, owner in self._left(file.ino):
                await self._unlock_later(file.ino, owner, flock)
        finally:
            self.closed(file)

    def closed(self, file: File) -> None:
        """Count one use of a file's state less; locks whose last handle went are released."""
        super().closed(file)
        if file.ino in self._owned:
            assert self.client.nursery is not None
            for flock, owner in self._left(file.ino):
                self.client.nursery.start_soon(self._unlock_later, file.ino, owner, flock)

    # --- taking

    async def _take(self, op: Lock, own: Owned, *, wait: bool) -> bool:
        """Take a lock; False when it is held and `wait` says that this is no error."""
        client = self.client
        deadline = client.deadline()
        shard = shard_of(Ino(op.ino))
        lane = await client.session.data_lane(shard, deadline)
        # what others may lock at once cannot be had back: see it through
        weakens = any(
            r.kind > op.kind and r.start <= op.end and op.start <= r.end for r in own.ranges
        )
        try:
            expiries = -1
            while expiries != self._expiries[shard]:
                # an answer that crossed the session's end may be of a lock that went with it
                expiries = self._expiries[shard]
                with trio.CancelScope(shield=weakens):
                    await lane.answer(lane.enqueue(op), deadline=deadline)
        except FsError as error:
            if wait and error.errno == errno.EAGAIN:
                return False
            raise
        except BaseException:
            # it may take effect yet: what follows it in the lane makes that undone
            for undo in _restoring(op, own.ranges):
                lane.enqueue(undo)
            own.unsure = True
            raise
        own.ranges = set_range(own.ranges, op.start, op.end, op.kind, op.pid)
        return True

    async def _take_in_turn(self, op: Lock, own: Owned) -> None:
        client = self.client
        if self._waiters >= client.limits.lock_waiters:
            raise FsError(errno.ENOLCK, f"{self._waiters} locks are waited for already")
        shard = shard_of(Ino(op.ino))
        ticket, began = next(self._tickets), trio.current_time()

        def request(*, leave: bool = False) -> LockWait:
            return LockWait(
                shard=shard, session=client.session.id, ticket=ticket, ino=op.ino, owner=op.owner,
                kind=op.kind, start=op.start, end=op.end, flock=op.flock, leave=leave,
                waited_ms=int((trio.current_time() - began) * 1000),
            )  # fmt: skip

        taken = False
        self._waiters += 1
        try:
            while not taken:
                if op.flock and own.ranges:
                    # as flock(2) says: a conversion that must wait gives up what it has
                    await self._unlock(op.ino, op.owner, op.start, op.end, flock=True)
                reply: meta.LockWaitReply = await client.session.read(
                    shard, "meta.lockwait", request(), deadline=client.deadline()
                )
                taken = reply.granted and await self._take(op, own, wait=True)
        finally:
            self._waiters -= 1
            if not taken:
                assert client.nursery is not None
                client.nursery.start_soon(self._leave, request(leave=True))

    async def _leave(self, request: LockWait) -> None:
        try:
            await self.client.session.read(
                request.shard, "meta.lockwait", request, deadline=self.client.deadline()
            )
        except CfsError as error:
            _LOG.info("lock_place_lapses", ino=request.ino, error=str(error))

    # --- giving up

    async def _unlock(self, ino: int, owner: int, start: int, end: int, *, flock: bool) -> None:
        """Unlock a range; on its way it is not called back, whatever becomes of the caller."""
        key = (flock, owner)
        own = self._owned.get(ino, {}).get(key)
        if own is None:
            return  # nothing was ever locked
        if start < 0 or end < start:
            raise FsError(errno.EINVAL)
        left = set_range(own.ranges, start, end, _NONE, 0)
        if left == own.ranges and not own.busy and not own.unsure:
            self._tidy(ino, key, own)
            return
        client = self.client
        deadline = client.deadline()
        op = Lock(ino=ino, owner=owner, kind=_NONE, start=start, end=end, flock=flock)
        own.ranges = left
        own.busy += 1
        try:
            with trio.CancelScope(shield=True):
                lane = await client.session.data_lane(shard_of(Ino(ino)), deadline)
            waiting = lane.enqueue(op)
            with trio.move_on_at(deadline) as scope:
                await waiting.done.wait()
            if scope.cancelled_caught:
                raise DeadlineExceeded(f"inode {ino}: the shard gave no answer to an unlock")
            if waiting.error is not None:
                raise waiting.error
            if waiting.result is not None and waiting.result.error is not None:
                raise from_wire(waiting.result.error)
            own.unsure = own.unsure and (start, end) != (0, OFFSET_MAX)
        finally:
            own.busy -= 1
            self._tidy(ino, key, own)

    async def _unlock_later(self, ino: int, owner: int, flock: bool) -> None:  # noqa: FBT001
        try:
            await self._unlock(ino, owner, 0, OFFSET_MAX, flock=flock)
        except CfsError as error:
            _LOG.warning("unlock_failed", ino=ino, error=str(error))

    def _left(self, ino: int) -> list[Owner]:
        """List the owners with locks that have no handle open any more."""
        file = self.client.writeback.files.get(ino)
        is_open = file is not None and file.opens > 0
        left: list[Owner] = []
        for key, own in self._owned.get(ino, {}).items():
            named = bool(own.fhs)
            own.fhs = {fh for fh in own.fhs if fh in self._handles}
            if (own.ranges or own.unsure) and not own.fhs and (named or not is_open):
                left.append(key)
        return left

    def _tidy(self, ino: int, key: Owner, own: Owned) -> None:
        if own.ranges or own.busy or own.unsure:
            return
        owned = self._owned.get(ino)
        if owned is not None and owned.get(key) is own:
            del owned[key]
            if not owned:
                del self._owned[ino]

    def _locks_lost(self, shard: int) -> None:
        """Take in that the session's locks in a shard are gone."""
        self._expiries[shard] += 1
        for ino, owned in self._owned.items():
            if shard_of(Ino(ino)) != shard or not any(own.ranges for own in owned.values()):
                continue
            for own in owned.values():
                own.ranges = ()
            _LOG.error("locks_lost", ino=ino)
            file = self.client.writeback.files.get(ino)
            if file is not None and file.opens:
                file.fail(FsError(errno.EIO, f"inode {ino}: its locks were lost with the session"))


def _restoring(op: Lock, ranges: tuple[Range, ...]) -> list[Lock]:
    """Give the operations that make `op`'s range what it was."""
    pieces: list[Lock] = []
    at = op.start

    def piece(start: int, end: int, kind: int, pid: int) -> None:
        pieces.append(
            Lock(ino=op.ino, owner=op.owner, kind=kind, start=start, end=end, pid=pid,
                 flock=op.flock)
        )  # fmt: skip

    for r in ranges:
        low, high = max(r.start, op.start), min(r.end, op.end)
        if low > high:
            continue
        if at < low:
            piece(at, low - 1, _NONE, 0)
        piece(low, high, r.kind, r.pid)
        at = high + 1
    if at <= op.end:
        piece(at, op.end, _NONE, 0)
    return pieces
