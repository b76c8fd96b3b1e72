"""Numbers the mutations of one session in one shard, batches them, repeats them until answered.

A shard has two lanes. *names* carries what may have to wait for another client's recall; *data*
carries commits and size changes of files whose WRITE lease is held here, which never wait for
anybody. So a flush that somebody's operation waits for is never behind an operation that waits for
somebody. Both share one numbering.

While a batch is on its way the next ones gather behind it; when it stalls (a recall), they go past
it: operations issued at the same time have no order among them, and whoever needs one waits for
the first before issuing the second. On the data lane nothing overtakes: size and bytes of a file
are applied in the order they were given. A number, once sent, is repeated until it is answered,
also when its caller gave up: no number is ever left open.

*Chained* operations are those already shown as done (`queue`): each is right only if all before it
were. They travel apart from others, and the first that fails takes every chained one behind it
along, here and at the shard. Those alone may also be *lazy*: sent when a batch is full, when
somebody waits (`hurry`), or after a moment.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from cfs.core.api import meta
from cfs.core.errors import (
    CfsError,
    DeadlineExceeded,
    FsError,
    Locked,
    NotLeader,
    Retryable,
    SessionExpired,
    StaleEpoch,
    Unavailable,
    from_wire,
)
from cfs.fs.client.limits import Limits

OPEN_CODES = frozenset(
    kind.code for kind in (Retryable, NotLeader, StaleEpoch, Unavailable, Locked, SessionExpired)
)
"""Refusals that are no answer: the operation did not take effect, and its number stays open."""
PAUSE_MIN_S = 0.005
PAUSE_MAX_S = 0.2
"""Between attempts at what was refused for the moment."""

Send = Callable[[meta.Mutate], Awaitable[meta.MutateReply]]


class Numbers:
    """The numbering of one session in one shard."""

    __slots__ = ("_open", "held", "next")

    def __init__(self, first: int = 1) -> None:
        self.next = first
        self.held = False
        """Nothing is to be numbered: another process may go on with the session."""
        self._open: dict[int, None] = {}

    @property
    def open(self) -> bool:
        """Tell whether answers are missing."""
        return bool(self._open)

    def take(self, count: int) -> tuple[int, int]:
        """Take `count` numbers; give the first, and that below which all are answered."""
        first = self.next
        self.next += count
        self._open[first] = None
        return first, next(iter(self._open))

    def answered(self, first: int) -> None:
        """Say that the batch that began at `first` is answered."""
        del self._open[first]


class Waiting:
    """An operation and, later, its answer."""

    __slots__ = (
        "abandoned", "at", "chained", "done", "error", "op", "result", "size", "told", "withdrawn",
    )  # fmt: skip

    def __init__(
        self, op: Any, *, chained: bool = False, told: Callable[[Waiting], None] | None = None
    ) -> None:
        self.op = op
        self.chained = chained
        self.told = told
        self.done = trio.Event()
        self.abandoned = False
        self.withdrawn = False
        """It was never sent, and will not be."""
        self.at = 0
        self.result: meta.OpResult | None = None
        self.error: CfsError | None = None
        self.size = _size_of(op)

    def settle(self) -> None:
        """Say that the answer is here."""
        self.done.set()
        if self.told is not None:
            self.told(self)

    @property
    def over(self) -> bool:
        """Whether it can have no effect from now on."""
        return self.withdrawn or self.done.is_set()

    @property
    def failure(self) -> CfsError | None:
        """The error it was answered with, if it was."""
        if self.error is not None or self.result is None or self.result.error is None:
            return self.error
        return from_wire(self.result.error)


class Lane:
    """One ordered stream of mutations into a shard."""

    def __init__(
        self,
        *,
        shard: int,
        session: int,
        numbers: Numbers,
        send: Send,
        nursery: trio.Nursery,
        limits: Limits,
        overtake: bool,
        abandoned: Callable[[Any], None],
    ) -> None:
        self._shard = shard
        self._session = session
        self._numbers = numbers
        self._send = send
        self._nursery = nursery
        self._limits = limits
        self._overtake = overtake
        self._abandoned = abandoned
        self._queue: deque[Waiting] = deque()
        self._sent_at: dict[int, float] = {}
        self._watching = False
        self._urgent = False
        self._ready = trio.Event()

    def enqueue(
        self,
        op: Any,
        *,
        chained: bool = False,
        lazy: bool = False,
        told: Callable[[Waiting], None] | None = None,
    ) -> Waiting:
        """Put an operation in line; `answer` gives its answer, `told` is called with it."""
        waiting = Waiting(op, chained=chained, told=told)
        self._queue.append(waiting)
        if not lazy:
            self._urgent = True
        if not lazy or len(self._queue) >= self._limits.batch_ops:
            self._ready.set()
        self._pump()
        return waiting

    def hurry(self) -> None:
        """Send what is in line without waiting for more."""
        self._urgent = bool(self._queue)
        self._ready.set()

    async def answer(self, waiting: Waiting, *, deadline: float) -> tuple[int, meta.OpResult]:
        """Wait until an operation was applied, exactly once; give (applied index, result).

        Raises the operation's own error; DeadlineExceeded past `deadline`: not applied when it was
        still queued here, unknown otherwise. Cancellation leaves it to take effect or not. An
        operation that takes effect when nobody waits for it any more is told to `abandoned`.
        """
        try:
            with trio.move_on_at(deadline):
                await waiting.done.wait()
        finally:
            waiting.abandoned = not waiting.done.is_set()
            if waiting.abandoned and waiting in self._queue:
                self._queue.remove(waiting)
                waiting.withdrawn = True
        if waiting.error is not None:
            raise waiting.error
        if waiting.result is None:
            op = type(waiting.op).__name__
            raise DeadlineExceeded(f"{op}: shard {self._shard} gave no answer")
        if waiting.result.error is not None:
            raise from_wire(waiting.result.error)
        return waiting.at, waiting.result

    def resume(self) -> None:
        """Send what was put in line while nothing was numbered."""
        self._pump()

    def _pump(self) -> None:
        if not self._queue or self._numbers.held:
            return
        if self._sent_at:
            if not self._overtake or len(self._sent_at) >= self._limits.in_flight:
                return
            stalled = max(self._sent_at.values()) + self._limits.stall_s
            if trio.current_time() < stalled:
                if not self._watching:
                    self._watching = True
                    self._nursery.start_soon(self._watch, stalled)
                return
        self._nursery.start_soon(self._run)
        self._sent_at[0] = trio.current_time()  # until `_run` has numbered its batch

    async def _watch(self, until: float) -> None:
        await trio.sleep_until(until)
        self._watching = False
        self._pump()

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size = 0
        while self._queue and len(batch) < self._limits.batch_ops:
            size += self._queue[0].size
            if batch and size > self._limits.batch_bytes:
                break
            if batch and self._queue[0].chained != batch[0].chained:
                break
            batch.append(self._queue.popleft())
        if not self._queue:
            self._urgent = False
        return batch

    async def _gather(self) -> None:
        """Let lazy operations gather."""
        if self._urgent or len(self._queue) >= self._limits.batch_ops:
            return
        self._ready = trio.Event()
        with trio.move_on_after(self._limits.linger_s):
            await self._ready.wait()

    async def _run(self) -> None:
        if not self._overtake:
            await self._gather()
        self._sent_at.pop(0, None)
        while self._queue and not self._numbers.held:
            batch = self._take()
            first, acked = self._numbers.take(len(batch))
            self._sent_at[first] = trio.current_time()
            try:
                await self._answer(batch, first, acked)
            finally:
                self._numbers.answered(first)
                del self._sent_at[first]
            if self._sent_at:
                break
            if self._queue and not self._overtake:
                self._sent_at[0] = trio.current_time()
                await self._gather()
                self._sent_at.pop(0, None)
        self._pump()

    async def _answer(self, batch: list[Waiting], first: int, acked: int) -> None:
        """Send a batch until all of it is answered; a rest refused for now keeps its numbers."""
        pause_s = PAUSE_MIN_S
        done = 0
        while done < len(batch):
            request = meta.Mutate(
                shard=self._shard,
                session=self._session,
                first_seq=first + done,
                acked=acked,
                ops=tuple(w.op for w in batch[done:]),
                chained=batch[0].chained,
            )
            try:
                reply = await self._send(request)
            except CfsError as error:
                self._fail(batch[done:], error)
                return
            before = done
            for result in reply.results:
                if result.error is not None and result.error[0] in OPEN_CODES:
                    break
                waiting = batch[done]
                waiting.at = reply.at
                waiting.result = result
                waiting.settle()
                done += 1
                if waiting.abandoned and result.error is None:
                    self._abandoned(waiting.op)
            if done < len(batch):
                pause_s = PAUSE_MIN_S if done > before else min(PAUSE_MAX_S, pause_s * 2)
                await trio.sleep(pause_s)
        if batch[0].chained and batch[-1].failure is not None:
            self._break_chain()  # the first failure took all behind it along

    def _fail(self, batch: list[Waiting], error: CfsError) -> None:
        """Answer operations with an error that does not say whether they took effect."""
        for waiting in batch:
            waiting.error = error
            waiting.settle()
            if not waiting.chained:
                self._abandoned(waiting.op)
        if batch[0].chained:
            self._break_chain()

    def _break_chain(self) -> None:
        """Fail what is chained behind a failure; none of it was sent."""
        broken = [w for w in self._queue if w.chained]
        self._queue = deque(w for w in self._queue if not w.chained)
        for waiting in broken:
            waiting.error = FsError(errno.EIO, "an operation before it failed")
            waiting.settle()


class Follow:
    """An operation on a file's attributes that may go in one round with the file's commit."""

    __slots__ = ("_lane", "_waiting", "op")

    def __init__(self, op: meta.SetAttr) -> None:
        self.op = op
        self._lane: Lane | None = None
        self._waiting: Waiting | None = None

    @property
    def begun(self) -> bool:
        """Tell whether it is in line already."""
        return self._waiting is not None

    def begin(self, lane: Lane) -> None:
        """Put it in line, once."""
        if self._waiting is None:
            self._lane, self._waiting = lane, lane.enqueue(self.op)

    async def answer(self, deadline: float) -> tuple[int, meta.OpResult]:
        """Give its answer, as `Lane.answer`. Call after `begin`."""
        assert self._lane is not None
        assert self._waiting is not None
        return await self._lane.answer(self._waiting, deadline=deadline)


def _size_of(op: Any) -> int:
    if isinstance(op, meta.Commit):
        return sum(128 + len(e.inline) for e in op.extents)
    if isinstance(op, meta.SetXattr):
        return 128 + len(op.value)
    return 128
