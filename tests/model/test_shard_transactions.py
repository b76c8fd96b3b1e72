"""Transactions over three shards under chance: interleaved, repeated, reordered, abandoned.

Drivers plan from reads that may be stale, then send prepare, decide and finish, each perhaps twice
or late; a driver may stop anywhere, and a resolver later settles what it left at the coordinator.
Whatever happens, in the end each transaction is wholly there or not at all, and the tree is a tree.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from cfs.core.api.meta import Create, OpResult, Rename, Rmdir, Unlink
from cfs.core.errors import CfsError
from cfs.core.ids import ROOT_INO, SERIAL_BITS
from cfs.core.meta import read
from cfs.core.meta.commands import (
    Adjust,
    Attach,
    Command,
    Detach,
    Empty,
    MakeInode,
    RenameLock,
    Stay,
    Step,
    TxnDecide,
    TxnFinish,
    TxnForget,
    TxnPrepare,
)
from cfs.core.meta.intents import Phase
from cfs.core.meta.results import Decided, Failed, Prepared
from tests.model.shard_world import DIR, REG, World, check

NAMES = [b"a", b"b", b"c"]
SHARDS = 3


def home(ino: int) -> int:
    return ino >> SERIAL_BITS


class Cluster:
    """Shards, the directories and files known so far, and drivers on their way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(SHARDS)
        self.directories = [ROOT_INO]
        self.files: list[int] = []
        self.txids = 0
        self.late: list[tuple[int, Command]] = []
        self.committed: dict[bytes, bool] = {}
        self.forgotten: set[bytes] = set()
        self.counts = {"commit": 0, "abort": 0, "moved": 0}

    def send(self, shard: int, command: Command) -> Any:
        """Deliver a command: now, often again at once, and sometimes once more much later."""
        result = self.world.apply(shard, command)[0]
        if self.random.random() < 0.2:
            self.world.apply(shard, command)
        if self.random.random() < 0.2:
            self.late.append((shard, command))
        return result

    def entry(self, parent: int, name: bytes) -> Any:
        try:
            return read.lookup(self.world.kvs[home(parent)], parent, name)
        except CfsError:
            return None

    def parent(self, ino: int) -> int | None:
        try:
            return read.attr(self.world.kvs[home(ino)], ino).parent
        except CfsError:
            return None

    # --- plans: a coordinator and the steps of each shard, from reads without any lock

    def plan_rename(self) -> dict[int, list[Step]] | None:
        old, new = self.random.choice(self.directories), self.random.choice(self.directories)
        name, new_name = self.random.choice(NAMES), self.random.choice(NAMES)
        source, there = self.entry(old, name), self.entry(new, new_name)
        exchange = there is not None and self.random.random() < 0.3
        if source is None or (there is not None and there.ino == source.ino):
            return None
        plan: dict[int, list[Step]] = {}
        moves = [(source, new)] + ([(there, old)] if exchange else [])
        if old != new and any(entry.kind == DIR for entry, _ in moves):
            plan.setdefault(0, []).append(RenameLock())
            for entry, target in moves:
                if entry.kind == DIR and not self.plan_stay(plan, entry.ino, target):
                    return None
        if exchange:
            back = Attach(parent=old, name=name, ino=there.ino, kind=there.kind,
                          replaces=source.ino, exchange=True)  # fmt: skip
            plan.setdefault(home(old), []).append(back)
        else:
            detach = Detach(parent=old, name=name, ino=source.ino)
            plan.setdefault(home(old), []).append(detach)
        attach = Attach(parent=new, name=new_name, ino=source.ino, kind=source.kind,
                        replaces=there.ino if there else 0, exchange=exchange)  # fmt: skip
        plan.setdefault(home(new), []).append(attach)
        for entry, target in moves:
            step = Adjust(ino=entry.ino, parent=target if entry.kind == DIR else None)
            plan.setdefault(home(entry.ino), []).append(step)
        if there is not None and not exchange:
            gone: Step = Empty(ino=there.ino)
            if there.kind != DIR:
                gone = Adjust(ino=there.ino, nlink_delta=-1)
            plan.setdefault(home(there.ino), []).append(gone)
        return plan

    def plan_stay(self, plan: dict[int, list[Step]], moved: int, target: int) -> bool:
        """Hold every ancestor of `target`; False when `moved` is among them."""
        ino = target
        for _ in range(100):
            if ino == moved:
                return False
            if ino == ROOT_INO:
                return True
            above = self.parent(ino)
            if above is None:
                return False
            plan.setdefault(home(ino), []).append(Stay(ino=ino, parent=above))
            ino = above
        raise AssertionError("ancestors without end: a cycle")

    def plan_rmdir(self) -> dict[int, list[Step]] | None:
        parent, name = self.random.choice(self.directories), self.random.choice(NAMES)
        entry = self.entry(parent, name)
        if entry is None or entry.kind != DIR:
            return None
        plan: dict[int, list[Step]] = {}
        plan.setdefault(home(parent), []).append(Detach(parent=parent, name=name, ino=entry.ino))
        plan.setdefault(home(entry.ino), []).append(Empty(ino=entry.ino))
        return plan

    def plan_link(self) -> dict[int, list[Step]] | None:
        if not self.files:
            return None
        ino, parent = self.random.choice(self.files), self.random.choice(self.directories)
        attach = Attach(parent=parent, name=self.random.choice(NAMES), ino=ino, kind=REG)
        plan: dict[int, list[Step]] = {}
        plan.setdefault(home(parent), []).append(attach)
        plan.setdefault(home(ino), []).append(Adjust(ino=ino, nlink_delta=1))
        return plan

    # --- drivers

    def transaction(self) -> Iterator[None]:
        """Drive one transaction; yield wherever others may run or the driver may die."""
        kind = self.random.choice(["rename", "rename", "rename", "rmdir", "link", "mkdir"])
        self.txids += 1
        txid = self.txids.to_bytes(8, "big")
        plan = self.plan_mkdir() if kind == "mkdir" else getattr(self, f"plan_{kind}")()
        if not plan:
            return
        yield
        shards = list(plan)
        coordinator = shards[-1]
        own: tuple[Step, ...] = ()
        if self.random.random() < 0.5 and not any(
            isinstance(s, MakeInode) for s in plan[coordinator]
        ):
            own = tuple(plan[coordinator])
            shards = shards[:-1]
        commit, made = True, 0
        tokens: dict[int, int] = {}
        for shard in shards:
            steps = tuple(
                Attach(parent=s.parent, name=s.name, ino=made, kind=s.kind)
                if isinstance(s, Attach) and not s.ino else s
                for s in plan[shard]
            )  # fmt: skip
            result = self.send(shard, TxnPrepare(txid=txid, coordinator=coordinator, steps=steps))
            if not isinstance(result, Prepared):
                assert isinstance(result, Failed)
                commit = False
                break
            made = made or max(result.inos)
            tokens[shard] = result.token
            yield
        own = tuple(
            Attach(parent=s.parent, name=s.name, ino=made, kind=s.kind)
            if isinstance(s, Attach) and not s.ino else s
            for s in own
        )  # fmt: skip
        wish = TxnDecide(
            txid=txid, commit=commit, session=7, seq=self.world.seqs[coordinator, 7] + 1,
            answer=OpResult(), steps=own if commit else (),
        )  # fmt: skip
        decided = self.send(coordinator, wish)
        assert isinstance(decided, Decided)
        state = read.session(self.world.kvs[coordinator], 7)
        assert state is not None
        self.world.seqs[coordinator, 7] = state.applied
        self.note(txid, commit=decided.commit)
        yield
        for shard in self.random.sample(list(plan), len(plan)):
            finish = TxnFinish(txid=txid, commit=decided.commit, token=tokens.get(shard, 0))
            self.send(shard, finish)
            yield
        if decided.commit and made:
            self.directories.append(made)
        self.forgotten.add(txid)
        for shard in [coordinator, *plan]:
            self.send(shard, TxnForget(txid=txid))
            yield

    def plan_mkdir(self) -> dict[int, list[Step]]:
        parent = self.random.choice(self.directories)
        other = (home(parent) + self.random.randrange(1, SHARDS)) % SHARDS
        make = MakeInode(parent=parent, mode=DIR | 0o755, uid=0, gid=0)
        attach = Attach(parent=parent, name=self.random.choice(NAMES), ino=0, kind=DIR)
        return {other: [make], home(parent): [attach]}

    def note(self, txid: bytes, *, commit: bool) -> None:
        """A transaction is decided once."""
        assert self.committed.setdefault(txid, commit) == commit
        self.counts["commit" if commit else "abort"] += 1

    def local(self) -> None:
        """Run an operation of one shard, in the midst of the others' transactions."""
        parent, name = self.random.choice(self.directories), self.random.choice(NAMES)
        shard = home(parent)
        kind = self.random.choice(["mkdir", "file", "unlink", "rmdir", "rename", "rename"])
        if kind in {"mkdir", "file"}:
            if kind == "mkdir" and len(self.directories) > 14:
                return
            mode = DIR | 0o755 if kind == "mkdir" else REG | 0o644
            create = Create(parent=parent, name=name, mode=mode, uid=0, gid=0)
            result = self.world.ops(create, shard=shard)[0]
            if result.error is None:
                made = self.directories if kind == "mkdir" else self.files
                made.append(result.attrs[0].ino)
            return
        if kind == "unlink":
            self.world.ops(Unlink(parent=parent, name=name), shard=shard)
            return
        if kind == "rmdir":
            self.world.ops(Rmdir(parent=parent, name=name), shard=shard)
            return
        here = [d for d in self.directories if home(d) == shard]
        rename = Rename(
            parent=parent, name=name, new_parent=self.random.choice(here),
            new_name=self.random.choice(NAMES), flags=self.random.choice([0, 0, 2]),
        )  # fmt: skip
        result = self.world.ops(rename, shard=shard)[0]
        if result.error is None:
            self.counts["moved"] += 1

    def resolve(self) -> None:
        """Settle everything in doubt by asking its coordinator to abort."""
        for shard, kv in enumerate(self.world.kvs):
            for txn in read.open_transactions(kv):
                if txn.phase is not Phase.PREPARED:
                    continue
                wish = TxnDecide(txid=txn.txid, commit=False)
                decided = self.send(txn.coordinator, wish)
                if txn.txid in self.forgotten:
                    assert not decided.commit, "a late preparation only aborts"
                else:
                    assert self.committed.setdefault(txn.txid, decided.commit) == decided.commit
                finish = TxnFinish(txid=txn.txid, commit=decided.commit, token=txn.token)
                self.send(shard, finish)

    def deliver_late(self) -> None:
        late, self.late = self.late, []
        self.random.shuffle(late)
        for shard, command in late:
            wish = isinstance(command, TxnDecide) and command.seq
            if not (wish and command.txid in self.forgotten):
                self.world.apply(shard, command)

    def run(self, steps: int, *, die: float) -> None:
        drivers: list[Iterator[None]] = []
        for n in range(steps):
            action = self.random.random()
            if action < 0.12 and len(drivers) < 5:
                drivers.append(self.transaction())
            elif action < 0.4:
                self.local()
            elif drivers:
                driver = self.random.choice(drivers)
                dies = self.random.random() < die
                if dies or next(driver, StopIteration) is StopIteration:
                    drivers.remove(driver)
            if n % 40 == 39:
                self.resolve()
            if n % 70 == 69:
                self.deliver_late()
                check(self.world, unlocked=False)
        for _ in range(2):
            self.resolve()
            self.deliver_late()
        self.resolve()
        self.late.clear()
        self.resolve()
        check(self.world)
        self.forget()

    def forget(self) -> None:
        """Forget all, decisions first; nothing is left of any transaction."""
        for txid in {t.txid for kv in self.world.kvs for t in read.open_transactions(kv)}:
            order = sorted(
                range(SHARDS),
                key=lambda n: all(
                    t.decided is None
                    for t in read.open_transactions(self.world.kvs[n])
                    if t.txid == txid
                ),
            )
            for shard in order:
                self.world.one(shard, TxnForget(txid=txid))
        assert not any(read.open_transactions(kv) for kv in self.world.kvs)


@pytest.mark.parametrize("seed", range(24))
def test_transactions_are_atomic_and_the_tree_stays_a_tree(seed: int) -> None:
    cluster = Cluster(seed)
    cluster.run(1200, die=0.02)
    assert cluster.counts["commit"] > 10, cluster.counts
    assert cluster.counts["moved"] > 5, cluster.counts
