"""The reaper: inodes without a name go once nobody has them open; cut files are trimmed.

A worker of each led shard. Right after the shard changed hands it waits until every session had
the chance to reassert its OPEN pins. Removal is in bounded steps, each a log entry.
"""

from __future__ import annotations

import structlog
import trio

from cfs.core.errors import Retryable
from cfs.core.meta import commands, read, results
from cfs.fs.meta.led import ORPHANS_MAX, LedShard

_LOG = structlog.get_logger()

STEP_RECORDS = 512
BATCH = 64
"""Orphans in one log entry."""
RESCAN_S = 30.0


async def reap(led: LedShard) -> None:
    """Reclaim orphans for as long as the shard is led here."""
    await trio.sleep_until(led.recalls.term_over_at)
    untold: set[int] = set()
    rescan_at = trio.current_time() + RESCAN_S
    while True:
        led.reap = trio.Event()
        try:
            await _round(led)
            while _trimming(led):
                await led.propose()  # every entry trims some of what was cut short or deleted
        except Retryable as error:
            _LOG.info("reap_failed", shard=led.shard, error=str(error))
            await trio.sleep(1)
        with trio.move_on_at(rescan_at):
            await led.reap.wait()
        if trio.current_time() >= rescan_at:
            untold = _rescan(led, untold)
            rescan_at += RESCAN_S


def _rescan(led: LedShard, before: set[int]) -> set[int]:
    """Take in orphans that nobody told of: a request given up after it was proposed cannot.

    Those alone that were there a rescan `before`, too: one just made may not be pinned yet.
    """
    untold = set(read.orphans(led.group.state, 0, ORPHANS_MAX)) - led.orphans
    led.orphans.update(untold & before)
    return untold


def _trimming(led: LedShard) -> bool:
    totals = read.totals(led.group.state)
    return totals.doomed > 0 or totals.trims > 0


async def _round(led: LedShard) -> None:
    while True:
        free = [ino for ino in led.orphans if not led.table.opened(ino)][:BATCH]
        if not free:
            return
        _, done = await led.propose(
            *(commands.Reclaim(ino=ino, budget=STEP_RECORDS) for ino in free)
        )
        for ino, result in zip(free, done, strict=True):
            if not isinstance(result, results.Reclaimed) or result.done:
                led.orphans.discard(ino)
