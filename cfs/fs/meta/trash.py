"""The trash of a led shard: showing it, emptying it when asked, and with time."""

from __future__ import annotations

from typing import Any

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.trash import ListTrash, ListTrashReply, PurgeTrash, Thrown
from cfs.core.errors import Retryable
from cfs.core.meta import commands, keys, read, results
from cfs.core.meta.trash import EMPTIED_MAX, is_due, listing
from cfs.fs.meta.led import LedShard
from cfs.net.ports import WallClock

_LOG = structlog.get_logger()

PAGE_MAX = 1024
LOOK_S = 5.0


def page(led: LedShard, request: ListTrash) -> Any:
    """Answer `ListTrash`."""
    limit = min(max(1, request.limit), PAGE_MAX)
    after = keys.trashed(request.stamp, request.ino) if request.stamp else b""

    def now() -> ListTrashReply:
        state = led.group.state
        found = list(listing(state, after, limit + 1))
        thrown = tuple(
            Thrown(stamp=t.stamp, attr=read.attr(state, t.ino), parent=t.parent, name=t.name)
            for t in found[:limit]
        )
        return ListTrashReply(thrown=thrown, end=len(found) <= limit)

    return led.serve_read(now)


async def purge(led: LedShard, request: PurgeTrash) -> meta.Empty:
    """Answer `PurgeTrash`."""
    inos = request.inos
    for start in range(0, len(inos), EMPTIED_MAX):
        await _empty(led, commands.EmptyTrash(inos=inos[start : start + EMPTIED_MAX]))
    return meta.Empty()


async def expire(led: LedShard, clock: WallClock) -> None:
    """Empty the trash of what is too old, for as long as the shard is led here."""
    while True:
        try:
            while before_ns := is_due(led.group.state, clock.time_ns()):
                await _empty(led, commands.EmptyTrash(before_ns=before_ns))
        except Retryable as error:
            _LOG.info("trash_failed", shard=led.shard, error=str(error))
        await trio.sleep(LOOK_S)


async def _empty(led: LedShard, command: commands.EmptyTrash) -> None:
    _, (result,) = await led.propose(command)
    if isinstance(result, results.Emptied):
        for ino in result.inos:
            led.orphaned(ino)
