"""The queue of operations already shown as done, and the order between it and all others.

Under a delegation (`delegation`) an operation is answered from the cache and put in line here: the
shard's data lane, chained. What is in line for an inode is *pending*: its attributes here are newer
than any reply's, its node stays in the cache, and whoever wants to ask a shard about it waits.

Order, which is what a crash leaves a prefix of:

* within a shard the lane is first in, first out; commits of the files concerned are in it too;
* an operation for another shard is put in line when everything before it is answered;
* an operation that goes the synchronous way (`alone`) waits for everything in line, and while it
  is under way nothing that touches the same inodes is put in line.

An operation in line was validated against what nobody else may change, so it cannot fail, unless
the session expired. The lane sends it again then, and the first that fails takes along what is
behind it; the caches of all inodes concerned are dropped, and the loss is said: logged, EIO at the
next operation in a directory, fsync, close.
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import structlog
import trio

from cfs.core.api.meta import Acquire, Commit, Release, ReserveInos
from cfs.core.errors import DeadlineExceeded, FsError
from cfs.fs.client.lane import Lane, Waiting
from cfs.fs.client.limits import Limits
from cfs.fs.client.underway import Touched, Underway

_LOG = structlog.get_logger()
_FREE = (Acquire, Release, ReserveInos)
"""Operations that no other one waits for: nobody can see them."""


class Keeper(Protocol):
    """Who keeps what operations in line have made of the cache."""

    def hold(self, ino: int) -> None:
        """Keep what is known of an inode: something is pending for it."""
        ...

    def answered(self, ino: int, attr: Any) -> None:
        """End `hold`: nothing is pending any more, and these are its attributes."""
        ...

    def lost(self, ino: int, error: FsError, *, held: bool) -> None:
        """Forget an inode that an operation which failed concerns; end `hold` if `held`."""
        ...


class Queue:
    """What one client has shown as done and its shards have not answered."""

    def __init__(self, limits: Limits) -> None:
        self.keeper: Keeper
        self.pending: dict[int, Waiting] = {}
        """By inode, the last operation in line that concerns it."""
        self.made: set[int] = set()
        """Inodes the shard does not know yet."""
        self.underway = Underway()
        self._limits = limits
        self._newest: Waiting | None = None
        self._lane: Lane | None = None
        self._length = 0
        self._busy: dict[int, int] = {}

    # --- putting in line

    def admits(self, lane: Lane, inos: Iterable[int]) -> bool:
        """Tell whether an operation on `inos` may be put in line now."""
        if self._length >= self._limits.queue_ops:
            return False
        if self._length and lane is not self._lane:
            return False
        busy, underway = self._busy, self.underway.kept
        if not busy and not underway:
            return True
        inos = tuple(inos)
        if any(ino in busy or ino in underway for ino in inos):
            return False
        return not self.underway.may_end(inos)

    async def room(self, lane: Lane, deadline: float) -> None:
        """Wait until there is room, and nothing in line for another shard."""
        while self._length and (self._length >= self._limits.queue_ops or lane is not self._lane):
            await self._wait(self._newest, deadline)

    def put(self, lane: Lane, op: Any, inos: tuple[int, ...]) -> None:
        """Put an operation in line; what it makes of `inos` is in the cache already."""
        waiting = lane.enqueue(op, chained=True, lazy=True, told=self._answered)
        self._lane, self._newest = lane, waiting
        self._length += 1
        for ino in inos:
            if ino not in self.pending:
                self.keeper.hold(ino)
            self.pending[ino] = waiting

    def _answered(self, waiting: Waiting) -> None:
        self._length -= 1
        if waiting is self._newest:
            self._newest = None
        failure = waiting.failure
        op = waiting.op
        if failure is not None:
            _LOG.error(
                "operation_lost", operation=type(op).__name__, inos=_inos(op), error=str(failure)
            )
        attrs = {} if waiting.result is None else {a.ino: a for a in waiting.result.attrs}
        self.made.difference_update(attrs)
        if failure is None:
            for ino, attr in attrs.items():
                if self.pending.get(ino) is waiting:
                    del self.pending[ino]
                    self.keeper.answered(ino, attr)
            return
        error = FsError(errno.EIO, f"{type(op).__name__} was lost: {failure}")
        concerned = [ino for ino, last in self.pending.items() if last is waiting]
        for ino in {*concerned, *_inos(op)}:
            held = self.pending.get(ino) is waiting
            if held:
                del self.pending[ino]
            self.made.discard(ino)
            self.keeper.lost(ino, error, held=held)

    # --- waiting

    async def settled(self, ino: int, deadline: float = math.inf) -> None:
        """Return when nothing that concerns an inode is in line. Raises DeadlineExceeded."""
        while (waiting := self.pending.get(ino)) is not None:
            await self._wait(waiting, deadline)

    async def drained(self, deadline: float = math.inf) -> None:
        """Return when everything put in line before the call is answered."""
        await self._wait(self._newest, deadline)

    async def _wait(self, waiting: Waiting | None, deadline: float) -> None:
        if waiting is not None and not waiting.done.is_set():
            assert self._lane is not None
            self._lane.hurry()
            with trio.move_on_at(deadline):
                await waiting.done.wait()
            if not waiting.done.is_set():
                raise DeadlineExceeded("operations before this one are not answered")

    # --- the synchronous way

    async def before_read(self, request: Any, deadline: float) -> None:
        """Wait for what is in line about the inode or directory a shard is asked about."""
        if self.pending:
            for field in ("ino", "parent"):
                ino = getattr(request, field, None)
                if ino in self.pending:
                    await self.settled(ino, deadline)

    @contextlib.asynccontextmanager
    async def alone(self, op: Any, touched: Touched, deadline: float) -> AsyncIterator[None]:
        """Hold an operation that is sent synchronously in its place in the order.

        Nothing is put in line meanwhile on what it names or may end: an entry made in a directory
        that is being removed would be lost, though it was shown as made.
        """
        if isinstance(op, _FREE):
            for ino in _inos(op):
                await self.settled(ino, deadline)
            yield
            return
        busy = self._busy
        inos = {*_inos(op), *touched.kept}
        self.underway.ending(touched.ends)
        for ino in inos:
            busy[ino] = busy.get(ino, 0) + 1
        try:
            if self._length:
                await self.drained(deadline)
            yield
        finally:
            self.underway.ended(touched.ends)
            for ino in inos:
                if busy[ino] == 1:
                    del busy[ino]
                else:
                    busy[ino] -= 1


def _inos(op: Any) -> tuple[int, ...]:
    """List the inodes an operation names."""
    if isinstance(op, Commit):
        return (op.ino,)
    found = (getattr(op, field, 0) for field in ("parent", "new_parent", "ino"))
    return tuple(dict.fromkeys(ino for ino in found if ino))
