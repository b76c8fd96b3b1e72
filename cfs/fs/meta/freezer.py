"""Holding a shard still, so that a snapshot shows one moment of all shards.

    open      requests pass
    draining  WRITE leases are called in, so clients commit what they hold back; only requests of
              who still holds one pass, and those that passed before come to their end
    stopped   nothing is held back anywhere, no request is under way, none passes

All shards being stopped, nothing changes anywhere: that moment is what the snapshot shows. Cross-
shard transactions whose coordinator is gone are finished before the mark is set. Reads go on.

A freeze ends by itself after `FREEZE_S_MAX`, and with the leader's term; a mark is refused then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from cfs.core.api import meta
from cfs.core.errors import Refused, from_wire
from cfs.core.meta import commands, intents, read, results
from cfs.fs.meta.host import Group
from cfs.fs.meta.recalls import Recalls

if TYPE_CHECKING:
    from cfs.fs.meta.led import LedShard

FREEZE_S_MAX = 15.0
"""Of a client's patience of 60 s."""
LEASES_AT_ONCE = 512
LOOK_S = 0.01


class Freezer:
    """The gate before the mutations of one led shard."""

    def __init__(self, *, group: Group, recalls: Recalls, propose: Callable[..., Any]) -> None:
        self._group = group
        self._recalls = recalls
        self._propose = propose
        self.epoch = 0
        """The snapshot for which the shard is being frozen; 0: it is open."""
        self._stopped = False
        self._marking = trio.Lock()
        self._inside = 0
        self._thawed = trio.Event()

    # --- the gate

    async def admitted(self, session: int, request: meta.Mutate) -> None:
        """Return when a request may pass; at once where the shard is open."""
        while self.epoch and (self._stopped or not self._helps(session, request)):
            await self._thawed.wait()

    def enter(self) -> None:
        """Count a request that has passed."""
        self._inside += 1

    def leave(self) -> None:
        """Count one out again."""
        self._inside -= 1

    def _helps(self, session: int, request: meta.Mutate) -> bool:
        """Tell whether a request may be what a recall waits for."""
        state = self._group.state
        return request.chained or any(
            isinstance(op, meta.Release)
            or (
                isinstance(op, meta.Commit | meta.SetAttr | meta.CopyRange | meta.Charge)
                and read.write_lease(state, op.ino) == session
            )
            for op in request.ops
        )

    # --- the stages

    async def freeze(self, led: LedShard, epoch: int) -> None:
        """Stop the shard for a snapshot. Raises Refused when that takes too long."""
        if self.epoch != epoch:
            self.thaw(self.epoch)
            self.epoch = epoch
            led.background(self._thaw_later, epoch)
        while not self._stopped:
            held = read.write_leases(self._group.state, LEASES_AT_ONCE)
            if held:
                await self._recalls.press(held)
            elif not self._inside:
                self._stopped = True
                break
            await trio.sleep(LOOK_S)
            if self.epoch != epoch:
                raise Refused("clients did not commit in time what they had written; try again")

    async def mark(self, epoch: int) -> None:
        """Take the snapshot of a shard that is stopped for it, durably. Raises Refused."""
        while self._holds(epoch) and _in_doubt(self._group):  # noqa: ASYNC110 - applied state
            await trio.sleep(LOOK_S)
        async with self._marking:
            if not self._holds(epoch) or _in_doubt(self._group):
                raise Refused("the shard was not held still long enough; try again")
            _, (result,) = await self._propose(commands.TakeSnapshot(epoch=epoch))
        if isinstance(result, results.Failed):
            raise from_wire(result.error)

    async def limit(self, command: commands.SetCaps) -> results.Result:
        """Set caps in a shard that is stopped for it. Raises Refused."""
        async with self._marking:
            if not self._holds(command.epoch):
                raise Refused("the shard was not held still long enough; try again")
            _, (result,) = await self._propose(command)
        return result  # type: ignore[no-any-return]

    def _holds(self, epoch: int) -> bool:
        return self.epoch == epoch and self._stopped

    def thaw(self, epoch: int) -> None:
        """Open the shard again, if it is frozen for this snapshot."""
        if epoch and self.epoch == epoch:
            self.epoch = 0
            self._stopped = False
            self._thawed.set()
            self._thawed = trio.Event()

    async def _thaw_later(self, epoch: int) -> None:
        try:
            await trio.sleep(FREEZE_S_MAX)
            async with self._marking:  # a mark on its way to the log comes first
                pass
        finally:
            self.thaw(epoch)  # with the term too: who waits must learn of the new leader


def _in_doubt(group: Group) -> bool:
    return any(part.phase is intents.Phase.PREPARED for part in read.open_transactions(group.state))
