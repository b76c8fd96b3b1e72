"""The sending side of a connection: an ordered, bounded queue of parts and the task draining it.

Frames leave in the order they were pushed. What is pushed while nothing waits is sent straight from
the caller, as far as the socket takes it, without waking a task; what is pushed while `corked`, or
while something waits, is gathered and leaves in one send. A part that was tried once is never
shortened before it is tried again (TLS has its record ready by then).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from cfs.core.errors import Unavailable
from cfs.net.frame import Buffer

if TYPE_CHECKING:
    from cfs.net.ports import Connection

QUEUE_BYTES_MAX = 16 << 20
"""One largest payload; above it callers wait and one-way messages are refused."""
DIRECT_BYTES_MAX = 128 << 10
"""Longer frames are the writer's, so that one caller does not hold the event loop."""
GATHER_BYTES = 64 << 10
"""Small parts are joined up to here: a few TLS records, one system call each."""
JOIN_BYTES_MAX = 16 << 10
"""Longer parts are sent as they are: copying them would cost more than a send."""

PIECE_BYTES = 256 << 10
"""Longer parts are sent piece by piece, so that progress shows on slow links (128 KiB/s)."""
PROGRESS_BYTES = 64 << 10
"""A send of at least this, taken by the kernel, shows a peer that reads, if over a slow link."""

SendNow = Callable[[Buffer], int]


class Outbox:
    """Queue and writer. `failed` is called once, with the error, when sending fails.

    `last_progress` is the trio time at which much was last taken from a backlog.
    """

    def __init__(self, connection: Connection, failed: Callable[[Unavailable], None]) -> None:
        self._connection = connection
        self._failed = failed
        self._send_now: SendNow | None = getattr(connection, "send_now", None)
        self._parts: deque[Buffer] = deque()
        self._sending = False
        self._closed = False
        self._writer: trio.lowlevel.Task | None = None
        self._room = trio.lowlevel.ParkingLot()
        self.bytes_queued = 0
        self.corked = False
        self.last_progress = -math.inf

    @property
    def full(self) -> bool:
        """Tell whether more should wait."""
        return self.bytes_queued >= QUEUE_BYTES_MAX

    def push(self, head: Buffer, payload: Buffer = b"", *, gather: bool = False) -> None:
        """Send or queue one frame. `gather`: more is likely to follow within this turn."""
        if self._closed:
            return
        size = len(head) + len(payload)
        parts = self._parts
        direct = not (parts or self._sending or self.corked or gather)
        parts.append(head)
        if payload:
            parts.append(payload)
        self.bytes_queued += size
        if direct and size <= DIRECT_BYTES_MAX and self._send_now is not None:
            self.flush()
        elif not self.corked:
            self._wake()

    def uncork(self) -> None:
        """Let go what was gathered."""
        self.corked = False
        if self._parts and not self._sending:
            if self.bytes_queued <= DIRECT_BYTES_MAX and self._send_now is not None:
                self.flush()
            else:
                self._wake()

    def flush(self) -> None:
        """Send what the socket takes now; leave the rest to the writer."""
        assert self._send_now is not None
        parts = self._parts
        try:
            while parts:
                part = self._gathered()
                sent = self._send_now(part)
                self._release(sent)
                if sent < len(part):
                    parts.appendleft(memoryview(part)[sent:] if sent else part)
                    self._wake()
                    return
        except Unavailable as error:
            self.close()
            self._failed(error)

    async def wait_room(self) -> None:
        """Wait until the queue is below its bound, or closed."""
        while self.full and not self._closed:
            await self._room.park()

    async def run(self) -> None:
        """Drain the queue for as long as the connection lives."""
        parts = self._parts
        try:
            while not self._closed:
                self._sending = True
                while parts:
                    part = self._gathered()
                    if len(part) <= PIECE_BYTES:
                        await self._send(part)
                        continue
                    whole = memoryview(part)
                    for at in range(0, len(whole), PIECE_BYTES):
                        await self._send(whole[at : at + PIECE_BYTES])
                self._sending = False
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
        except Unavailable as error:
            self.close()
            self._failed(error)

    async def _send(self, part: Buffer) -> None:
        """Send one part; what others push meanwhile queues behind it."""
        size = len(part)
        await self._connection.send([part])
        self._release(size)
        if size >= PROGRESS_BYTES:
            self.last_progress = trio.current_time()

    def close(self) -> None:
        """Drop everything."""
        self._closed = True
        self._parts.clear()
        self.bytes_queued = 0
        self._room.unpark_all()
        self._wake()

    def _gathered(self) -> Buffer:
        """Take the next part, joined with the small ones that follow it."""
        parts = self._parts
        first = parts.popleft()
        if not parts or len(first) > JOIN_BYTES_MAX or len(parts[0]) > JOIN_BYTES_MAX:
            return first
        size = len(first)
        joined = [first]
        while parts and len(parts[0]) <= JOIN_BYTES_MAX and size < GATHER_BYTES:
            joined.append(part := parts.popleft())
            size += len(part)
        return b"".join(joined)

    def _release(self, count: int) -> None:
        was_full = self.full
        self.bytes_queued = max(0, self.bytes_queued - count)
        if was_full and not self.full:
            self._room.unpark_all()

    def _wake(self) -> None:
        if self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED
