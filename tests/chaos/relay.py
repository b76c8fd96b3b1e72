"""The relay: carries a namespace's redirected connections, and is slow or breaks them as told.

    python -m tests.chaos.relay

Each line of standard input is a JSON object that replaces the settings: `delay_ms` and `jitter_ms`
for every piece, each way; `rate`, bytes a second for each connection and way; `break_every_s`, how
long a connection lives on average before it is reset in the middle of what is under way. Where a
connection was going is asked of the kernel (SO_ORIGINAL_DST).
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
from collections import deque

import trio

from tests.chaos.wires import RELAY_MARK, RELAY_PORT

SO_ORIGINAL_DST, SO_MARK = 80, 36
PIECE = 1 << 16
HELD_MAX = 64
"""Pieces on their way in one direction; the sender waits above."""


class Relay:
    """All connections and what is done to them."""

    def __init__(self) -> None:
        self.settings = {"delay_ms": 0.0, "jitter_ms": 0.0, "rate": 0.0, "break_every_s": 0.0}
        self.chance = random.Random(1)

    async def run(self) -> None:
        listener = trio.socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listener.bind(("0.0.0.0", RELAY_PORT))
        listener.listen(256)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_orders, nursery.cancel_scope)
            print("ready", flush=True)
            while True:
                accepted, _ = await listener.accept()
                nursery.start_soon(self._carry, accepted)

    async def _take_orders(self, scope: trio.CancelScope) -> None:
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            self.settings = {**dict.fromkeys(self.settings, 0.0), **json.loads(line)}
        scope.cancel()

    async def _carry(self, near: trio.socket.SocketType) -> None:
        raw = near.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, packed = struct.unpack("!2xH4s8x", raw)
        far = trio.socket.socket()
        far.setsockopt(socket.SOL_SOCKET, SO_MARK, RELAY_MARK)
        try:
            with trio.fail_after(10):
                await far.connect((socket.inet_ntoa(packed), port))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end, near, far, nursery.cancel_scope)
                async with trio.open_nursery() as ways:
                    ways.start_soon(self._way, near, far)
                    ways.start_soon(self._way, far, near)
                nursery.cancel_scope.cancel()
        except* (OSError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # an end that went: the other is told by the close below
        finally:
            near.close()
            far.close()

    async def _end(self, near, far, scope) -> None:
        """Reset the connection when its time has come."""
        while True:
            mean_s = self.settings["break_every_s"]
            if mean_s and self.chance.random() < 0.1 / mean_s:
                for end in (near, far):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                scope.cancel()
            await trio.sleep(0.1)

    async def _way(self, source, target) -> None:
        """Carry bytes one way; each piece leaves when it is due."""
        held: deque[tuple[float, bytes]] = deque()
        wake, room = trio.Event(), trio.Event()
        ended = False

        async def leave() -> None:
            nonlocal wake, room
            while True:
                while not held:
                    if ended:
                        target.shutdown(socket.SHUT_WR)
                        return
                    wake = trio.Event()
                    await wake.wait()
                due, piece = held[0]
                await trio.sleep_until(due)
                view = memoryview(piece)
                while view:
                    view = view[await target.send(view) :]
                held.popleft()
                room.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            last = 0.0
            while piece := await source.recv(PIECE):
                now = trio.current_time()
                chosen = self.settings
                wait_s = (chosen["delay_ms"] + chosen["jitter_ms"] * self.chance.random()) / 1000
                if chosen["rate"]:
                    last = max(last, now) + len(piece) / chosen["rate"]
                last = max(last, now + wait_s)  # in order, as TCP
                held.append((last, piece))
                wake.set()
                while len(held) >= HELD_MAX:
                    room = trio.Event()
                    await room.wait()
            ended = True
            wake.set()


if __name__ == "__main__":
    trio.run(Relay().run)
