"""The receiving side of one connection: bytes into frames.

Small frames are parsed out of one buffer that is used again and again; what the caller keeps is
copied out (small payloads) or decoded (msgspec copies bytes). A frame that does not fit is received
straight into memory of its own, so that a large payload is never copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from cfs.core.errors import Malformed, Unavailable
from cfs.net.frame import HEADER_BYTES, Header, Received, parse_header

if TYPE_CHECKING:
    from cfs.net.ports import Connection

BUFFER_BYTES = 128 << 10
DIRECT_BYTES = 32 << 10
"""Bodies at least this long get their own memory."""


class Receiver:
    """Frames of a connection, in order. `admit` may raise before a body is given any memory."""

    def __init__(self, connection: Connection, admit: Callable[[Header], None]) -> None:
        self._connection = connection
        self._admit = admit
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self.last_heard = trio.current_time()

    def next_buffered(self) -> tuple[Header, Received, Received] | None:
        """Give the next frame if it is wholly here and small: header, message, payload.

        The message is a view that the next receive overwrites; the payload is the caller's.
        """
        start = self._start
        if self._end - start < HEADER_BYTES:
            return None
        header = parse_header(self._view, start)
        body = start + HEADER_BYTES
        message_end = body + header.message_bytes
        end = message_end + header.payload_bytes
        if end > self._end:
            return None
        self._admit(header)
        self._start = end
        payload = self._view[message_end:end].tobytes() if header.payload_bytes else b""
        return header, self._view[body:message_end], payload

    async def next(self) -> tuple[Header, Received, Received] | None:
        """Wait for the next frame; None when the peer closed between frames."""
        while True:
            if self._end - self._start >= HEADER_BYTES:
                header = parse_header(self._view, self._start)
                if header.message_bytes + header.payload_bytes >= DIRECT_BYTES:
                    return await self._next_large(header)
                if (frame := self.next_buffered()) is not None:
                    return frame
            if not await self._fill():
                return None

    async def _fill(self) -> bool:
        """Receive more behind what is left, moved to the front."""
        rest = self._end - self._start
        if self._start:
            if rest:
                self._view[:rest] = self._view[self._start : self._end].tobytes()
            self._start, self._end = 0, rest
        count = await self._connection.receive_into(self._view[rest:])
        if count == 0:
            if rest:
                raise Malformed("the stream ended inside a frame", reason="truncated")
            return False
        self._end = rest + count
        self.last_heard = trio.current_time()
        return True

    async def _next_large(self, header: Header) -> tuple[Header, Received, Received]:
        self._admit(header)
        self._start += HEADER_BYTES
        message = await self._take(header.message_bytes)
        payload = await self._take(header.payload_bytes)
        return header, message, payload

    async def _take(self, count: int) -> memoryview:
        """Receive exactly `count` bytes into fresh memory."""
        target = memoryview(bytearray(count))
        have = min(count, self._end - self._start)
        target[:have] = self._view[self._start : self._start + have]
        self._start += have
        while have < count:
            received = await self._connection.receive_into(target[have:])
            if received == 0:
                raise Unavailable("the connection ended inside a frame")
            have += received
            self.last_heard = trio.current_time()
        return target
