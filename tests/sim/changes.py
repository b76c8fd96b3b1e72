"""What an operator does, and what is replaced, while clients work: kinds of `faults`.

Nodes join and leave, a disk is lost for good, data is rebalanced, snapshots are taken.
"""

from __future__ import annotations

import random
from typing import Any

import trio

from cfs.core.errors import CfsError
from tests.sim.disks import SimDisk
from tests.sim.history import History
from tests.sim.operator import Operator

STORAGES_MAX = 10


class Changes:
    """The part of `Nemesis` that changes the cluster."""

    cluster: Any
    counts: Any
    history: History
    operator: Operator
    damaged: str | None
    _joined: int
    _leaving: trio.Lock
    _down: Any

    async def _join(self, chance: random.Random, length: float) -> None:
        del length
        if len(self.cluster.storages()) < STORAGES_MAX:
            self._joined += 1
            await self.cluster.admit("storage", f"joined{self._joined}")
            if chance.random() < 0.7:
                await self.operator.job("rebalance")

    async def _leave(self, chance: random.Random, length: float) -> None:
        """Drain a storage node and take it away; it stays if there would be too few."""
        del length
        async with self._leaving:
            machine = chance.choice(self.cluster.storages())
            state = await self.operator.job("drain", node=machine.name)
            if state.startswith("not started"):
                return
            try:
                if state == "done":
                    await self.operator.command("node_remove", node=machine.name)
            except CfsError:
                state = "not removed"
            if state == "done":
                self.cluster.take_away(machine)
                return
            try:
                await self.operator.command("drain_undo", node=machine.name)
            except CfsError as error:
                self.cluster.trace.line(f"drain not undone: {error}")
                if "there is no node" in str(error):  # it was removed, only nobody heard so
                    self.cluster.take_away(machine)

    async def _disk_lost(self, chance: random.Random, length: float) -> None:
        """Give a storage node an empty disk in place of the one it had."""
        stores = [m for m in self.cluster.storages() if self.damaged in (None, m.name)]
        if not stores or self.counts["disks lost"]:
            return
        machine = chance.choice(stores)
        self.damaged = machine.name
        self.counts["disks lost"] += 1
        machine.cut_power(None)
        machine.disk = SimDisk(f"{machine.name}.new", capacity=machine.disk.capacity)
        machine.pairs.clear()
        await self._down([machine], length)

    async def _rebalance(self, chance: random.Random, length: float) -> None:
        del chance, length
        await self.operator.job("rebalance")

    async def _snapshot(self, chance: random.Random, length: float) -> None:
        del length
        name = f"s{chance.randrange(1 << 30)}"
        began = trio.current_time()
        try:
            await self.operator.command("snapshot_create", name=name)
        except CfsError as error:
            self.cluster.trace.line(f"no snapshot: {error}")
        else:
            self.history.snapshots.append((name, began, trio.current_time()))
