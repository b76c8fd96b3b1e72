"""Sharing a quota out among shards: the real worker over real shards in memory."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cfs.core.api.meta import Acquire, Create, SetAttr
from cfs.core.api.methods import InternalReply
from cfs.core.api.quota import USER, Domain, MakeRoom, Want
from cfs.core.errors import FsError, Refused, Unavailable, from_wire
from cfs.core.kv import MemoryStore
from cfs.core.meta import needs, queries, quota
from cfs.core.meta.commands import MakeInode, TxnFinish, TxnPrepare
from cfs.core.meta.results import Failed
from cfs.core.root import quotas
from cfs.core.root.quotas import QuotaPhase, QuotaRecord
from cfs.fs.root.quotas import LOOK_S, Quotas
from cfs.fs.root.workers import Worker
from tests.model.shard_world import DIR, REG, World, check

SHARDS = 4
LIMIT = 10_000
ALICE = Domain(USER, 1000)


class Replica:
    """The root group's part in quotas."""

    def __init__(self) -> None:
        self.state = MemoryStore()
        self.term = 3

    def require(self) -> Replica:
        return self

    async def propose(self, command: Any) -> int:
        await trio.lowlevel.checkpoint()
        if isinstance(command, quotas.PutQuota):
            return quotas.put(self.state, command)
        if isinstance(command, quotas.RaiseTerm):
            return quotas.raise_term(self.state, command)
        return quotas.forget(self.state, command)


class Shards:
    """Leaders of shards, at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fails_after = -1
        """The command after so many gets no answer."""

    async def command(self, group: int, command: Any, *, timeout_s: float) -> Any:
        await trio.lowlevel.checkpoint()
        self.fails_after -= 1
        if self.fails_after == -1:
            raise Unavailable("nobody answers")
        result = self.world.apply(group - 1, command)[0]
        if isinstance(result, Failed):
            raise from_wire(result.error)
        return result

    async def call(self, group: int, method: str, request: Any, *, timeout_s: float) -> Any:
        await trio.lowlevel.checkpoint()
        return InternalReply(result=queries.answer(self.world.kvs[group - 1], request.command))


class Site:
    """Shards with a file each for the user, and the worker."""

    def __init__(self, replica: Replica | None = None) -> None:
        self.world = World(SHARDS)
        self.shards = Shards(self.world)
        self.replica = replica or Replica()
        self.worker = self.leader()
        self.files = [self._file(shard) for shard in range(SHARDS)]

    def leader(self) -> Quotas:
        async def hold_still(_epoch: int, act: Any) -> None:
            await act()

        return Quotas(
            replica=self.replica, view=SimpleNamespace(map=SimpleNamespace(shard_count=SHARDS)),
            shards=self.shards, clock=SimpleNamespace(time_ns=lambda: 10**18),
            hold_still=hold_still, worker=Worker("quotas", "m1"),
        )  # type: ignore[arg-type]  # fmt: skip

    def _file(self, shard: int) -> int:
        step = MakeInode(parent=1, mode=DIR | 0o755, uid=0, gid=0)
        made = self.world.one(shard, TxnPrepare(txid=b"make", coordinator=0, steps=(step,)))
        self.world.one(shard, TxnFinish(txid=b"make", commit=True))
        op = Create(parent=made.inos[0], name=b"f", mode=REG, uid=1000, gid=0, lease=2)
        ino = self.world.op(op, shard=shard)[0].ino
        self.world.op(Acquire(ino=ino), shard=shard)
        return ino

    async def limit(self, size: int = LIMIT) -> None:
        record = QuotaRecord(domain=ALICE, name="alice", phase=QuotaPhase.LIMITING, bytes_hard=size)
        await self.worker.enforce(await self.worker.put(record))

    async def resize(self, shard: int, size: int) -> bool:
        """Do as a shard's leader does; tell whether it was allowed."""
        op = SetAttr(ino=self.files[shard], size=size)
        wants = needs.lacking(self.world.kvs[shard], [op])
        if wants:
            await self.worker.make_room(MakeRoom(shard=shard, wants=wants))
        try:
            self.world.op(op, shard=shard)
        except FsError:
            return False
        return True

    def used(self) -> int:
        return sum(quota.usage(kv, ALICE).bytes for kv in self.world.kvs)

    def caps(self) -> int:
        return sum(quota.usage(kv, ALICE).cap_bytes for kv in self.world.kvs)


def test_a_quota_is_used_to_the_last_byte_wherever_it_is_wanted():
    async def main() -> None:
        site = Site()
        await site.limit()
        assert await site.resize(0, LIMIT)
        assert not await site.resize(3, 1)
        assert await site.resize(0, 1)
        assert await site.resize(3, LIMIT - 1)
        assert not await site.resize(1, 1)
        assert site.used() == site.caps() == LIMIT

    trio.run(main)


@pytest.mark.parametrize("seed", range(5))
def test_what_fits_is_allowed_and_what_does_not_is_refused(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        site = Site()
        await site.limit()
        sizes = [0] * SHARDS
        for _ in range(150):
            shard, size = chance.randrange(SHARDS), chance.randrange(LIMIT // 2)
            fits = size <= sizes[shard] or sum(sizes) - sizes[shard] + size <= LIMIT
            assert await site.resize(shard, size) == fits
            if fits:
                sizes[shard] = size
            assert site.used() == sum(sizes)
            assert site.caps() <= LIMIT
        check(site.world, unlocked=False)  # the directories have no names

    trio.run(main)


def test_a_limit_below_what_is_used_lets_nothing_in_and_a_removed_one_everything():
    async def main() -> None:
        site = Site()
        assert await site.resize(2, 500)
        await site.limit(100)
        assert not await site.resize(0, 1)
        record = quotas.require(site.replica.state, ALICE)
        record = await site.worker.put(record, bytes_hard=501)
        await site.worker.renew(record)
        assert await site.resize(0, 1)
        await site.worker.lift(ALICE)
        assert await site.resize(1, 1 << 30)

    trio.run(main)


def test_a_leader_of_before_gives_nothing_out_and_one_after_a_restore_does():
    async def main() -> None:
        site = Site()
        await site.limit()
        want = Want(domain=ALICE, bytes=5000, inodes=0)
        site.replica.term = 4
        assert await site.worker.make_room(MakeRoom(shard=0, wants=(want,)))
        # restored: the root group begins with an earlier term than the shards know of
        site.replica.term = 2
        with pytest.raises(Unavailable):
            await site.worker.make_room(MakeRoom(shard=1, wants=(want,)))
        assert await site.worker.make_room(MakeRoom(shard=1, wants=(want,)))
        # a leader that was deposed cannot propose, so it stays out

        async def deposed(_command: Any) -> int:
            await trio.lowlevel.checkpoint()
            raise Refused("not the leader")

        site.replica.propose = deposed  # type: ignore[method-assign]
        site.replica.term = 1
        with pytest.raises(Refused):
            await site.worker.make_room(MakeRoom(shard=2, wants=(want,)))

    trio.run(main)


def test_a_soft_limit_alone_is_known_to_shards_before_it_holds():
    async def main() -> None:
        site = Site()
        record = QuotaRecord(
            domain=ALICE, name="alice", phase=QuotaPhase.LIMITING, bytes_soft=100, grace_s=0
        )
        record = await site.worker.enforce(await site.worker.put(record))
        assert all(quota.is_limited(quota.usage(kv, ALICE)) for kv in site.world.kvs)
        assert await site.resize(0, 5000)
        record = await site.worker.put(quotas.noted(record, (5000, 0), 1))
        await site.worker.renew(record)
        assert not await site.resize(1, 1)
        assert await site.resize(0, 10)
        record = await site.worker.put(quotas.noted(record, (10, 0), 2))
        await site.worker.renew(record)
        assert await site.resize(1, 1)

    trio.run(main)


@pytest.mark.parametrize("answered", range(3 * SHARDS))
def test_a_soft_limit_holds_though_a_shard_was_silent_when_its_grace_ended(answered):
    async def main() -> None:
        site = Site()
        record = QuotaRecord(
            domain=ALICE, name="alice", phase=QuotaPhase.LIMITING, bytes_soft=100, grace_s=0
        )
        await site.worker.enforce(await site.worker.put(record))
        assert await site.resize(0, 5000)
        site.shards.fails_after = answered
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.worker.run)
            await trio.sleep(5 * LOOK_S)
            assert not await site.resize(1, 1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
