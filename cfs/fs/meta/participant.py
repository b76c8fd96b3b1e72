"""A led shard's part in a transaction across shards: prepare, decide, finish.

Between prepare and finish the names and inodes of a part are locked in the state, and the inodes
stay *pending* in the lease table under session 0, so nobody is granted a lease that the finish
would break. A prepare never waits for a name latch: two transactions that wait for each other's
names would wait for ever, so the later one is told to try again.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from cfs.core.errors import Locked
from cfs.core.meta import commands, results
from cfs.core.meta.conflict import inos_of, names_of
from cfs.fs.meta.latch import ino_key, name_key
from cfs.fs.meta.led import LedShard

NOBODY = 0


async def prepare(led: LedShard, command: commands.TxnPrepare) -> results.Result:
    """Recall what conflicts with the steps, then lock them in the log."""
    if command.txid in led.open_parts:
        return await _propose(led, command)
    names = dict.fromkeys((name_key(*name) for name in names_of(command.steps)), True)
    if not led.latches.try_take(names):
        return results.failed(Locked("a name is busy; try again", txid=b"", coordinator=-1))
    inos = inos_of(command.steps)
    keys = {ino_key(i): False for i in inos}
    prepared = False
    led.table.mark_pending(NOBODY, inos)
    try:
        await led.latches.take(keys)
        try:
            await led.recalls.clear(command.session, inos)
            result = await _propose(led, command)
            prepared = isinstance(result, results.Prepared)
            if prepared:
                led.open_parts[command.txid] = inos
        finally:
            led.latches.release(keys)
    finally:
        led.latches.release(names)
        if not prepared:
            led.table.clear_pending(NOBODY, inos)
    return result


async def mark(led: LedShard, command: commands.MarkTree) -> results.Result:
    """Recall a directory, so that nobody works in it ahead of us, and mark what is in it."""
    keys = {ino_key(command.ino): False}
    led.table.mark_pending(NOBODY, (command.ino,))
    try:
        await led.latches.take(keys)
        try:
            await led.recalls.clear(NOBODY, (command.ino,))
            return await _propose(led, command)
        finally:
            led.latches.release(keys)
    finally:
        led.table.clear_pending(NOBODY, (command.ino,))


async def decide(led: LedShard, command: commands.TxnDecide) -> results.Result:
    """Settle a transaction here; a wish to abort waits for a driver that is still at work."""
    if not command.commit:
        driver = led.driving.get(command.txid)
        if driver is not None:
            await driver.wait()
        return await _decided(led, command)
    inos = inos_of(command.steps)
    keys = {ino_key(i): False for i in inos}
    led.table.mark_pending(command.session, inos)
    try:
        await led.latches.take(keys)
        try:
            await led.recalls.clear(command.session, inos)
            return await _decided(led, command)
        finally:
            led.latches.release(keys)
    finally:
        led.table.clear_pending(command.session, inos)


async def _decided(led: LedShard, command: commands.TxnDecide) -> results.Result:
    result = await _propose(led, command)
    _closed(led, command.txid)
    if isinstance(result, results.Decided):
        _note_orphans(led, result.attrs)
    return result


async def finish(led: LedShard, command: commands.TxnFinish) -> results.Result:
    """Apply or drop this shard's part."""
    result = await _propose(led, command)
    _closed(led, command.txid)
    if isinstance(result, results.Finished):
        _note_orphans(led, result.attrs)
    return result


def _closed(led: LedShard, txid: bytes) -> None:
    inos = led.open_parts.pop(txid, None)
    if inos is not None:
        led.table.clear_pending(NOBODY, inos)
    event = led.unlocked.pop(txid, None)
    if event is not None:
        event.set()


def _note_orphans(led: LedShard, attrs: Sequence[object]) -> None:
    for attr in attrs:
        if attr is not None and getattr(attr, "nlink", 1) == 0:
            led.orphaned(attr.ino)  # type: ignore[attr-defined]


async def _propose(led: LedShard, command: commands.Command) -> results.Result:
    _, (result,) = await led.propose(command)
    return result  # type: ignore[no-any-return]


async def wait_unlocked(led: LedShard, txid: bytes, patience_s: float) -> bool:
    """Wait until the part of `txid` here is finished; False when patience ran out."""
    event = led.unlocked.setdefault(txid, trio.Event())
    with trio.move_on_after(patience_s):
        await event.wait()
        return True
    return False
