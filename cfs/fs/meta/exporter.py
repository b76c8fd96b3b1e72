"""Streams a group's state to a backup: one instant of it, piece by piece, asked for one by one.

A stream begins at a leader that has applied all that is committed; the instant is LMDB's, so what
is changed meanwhile is not seen. A stream nobody asks of for `IDLE_S` is closed: it keeps old pages
from being reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from cfs.core.api.insight import ExportState, ExportStateReply
from cfs.core.errors import NotFound, Unavailable
from cfs.fs.meta.host import Host
from cfs.fs.meta.snapshot import Outgoing
from cfs.net.handlers import Context, Handler

STREAMS_MAX = 256
IDLE_S = 120.0


class _Stream(msgspec.Struct, kw_only=True):
    out: Outgoing
    used_at: float
    sequence: int = 0
    busy: bool = False


class Exporter:
    """Answers `meta.export`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._streams: dict[int, _Stream] = {}
        self._token = 0
        self.handlers: Mapping[str, Handler] = {"meta.export": self._export}

    async def run(self) -> None:
        """Close idle streams until cancelled."""
        try:
            while True:
                await trio.sleep(IDLE_S / 4)
                horizon = trio.current_time() - IDLE_S
                for token, stream in list(self._streams.items()):
                    if stream.used_at < horizon and not stream.busy:
                        self._close(token)
        finally:
            for token in list(self._streams):
                self._close(token)

    async def _export(
        self, _context: Context, request: ExportState, _payload: Any
    ) -> tuple[ExportStateReply, bytes]:
        if not request.token:
            return await self._begin(request.group), b""
        stream = self._streams.get(request.token)
        if stream is None or stream.busy or stream.sequence != request.sequence:
            raise NotFound("no such stream of a group's state is open: begin the backup again")
        stream.busy = True
        try:
            piece = await self._host.threads.run(stream.out.next_piece)
        except BaseException:
            self._close(request.token)
            raise
        stream.busy = False
        stream.sequence += 1
        stream.used_at = trio.current_time()
        if not piece:
            self._close(request.token)
        return ExportStateReply(token=request.token, end=not piece), piece

    async def _begin(self, number: int) -> ExportStateReply:
        host = self._host
        group = host.groups.get(number)
        if group is None:
            raise NotFound(f"group {number} has no replica on node {host.node}")
        if len(self._streams) >= STREAMS_MAX:
            raise Unavailable("too many streams of state are open: end other backups first")
        await group.read_barrier()
        await host.flush()
        out = await host.threads.run(Outgoing, host.state.store, number)
        self._token += 1
        self._streams[self._token] = _Stream(out=out, used_at=trio.current_time())
        return ExportStateReply(token=self._token, header=out.header)

    def _close(self, token: int) -> None:
        self._streams.pop(token).out.close()
