"""A disk against a dict: random puts, deletes, checkpoints, rebuilds, power lost at any disk call.

The model knows for each fragment which states are possible: one after an answer, two after a call
that failed or was cut off by a power loss. A reopened disk must show a possible one, which is then
the only one.
"""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.errors import CfsError, NoSpace
from cfs.fs.store.engine import Disk
from cfs.fs.store.jobs import Delete
from tests.unit.fs.store.rig import Rig, listing, make_put, read, segment_of

KEYS = 12
STEPS = 40


class Model:
    """Drives one disk from one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rig = Rig(capacity=600_000, reserve=40_000, volume=150_000)
        self.possible: dict[tuple[int, int], set[bytes | None]] = {}
        self.disk: Disk = self.rig.open()
        self.ghosts: dict[tuple[int, int], set[bytes]] = {}

    def step(self) -> None:
        """Do one thing, perhaps while the power fails."""
        chance = self.chance
        directory = self.rig.directory
        if chance.random() < 0.2:
            code = chance.choice([errno.EIO, errno.EIO, errno.ENOSPC])
            for_ever = chance.random() < 0.8
            directory.fail(chance.randrange(1, 14), code, for_ever=for_ever)
        action = chance.choices(
            [self.put, self.delete, self.checkpoint, self.rebuild, self.lose_power],
            weights=[10, 5, 3, 0.5, 1],
        )[0]
        action()
        if self.disk.fenced or (directory.calls and chance.random() < 0.05):
            self.lose_power()
        if not directory._fail_at:
            self.check()

    def put(self) -> None:
        puts = [
            make_put(number, self.payload(number), index=self.chance.randrange(2),
                     repair=self.chance.random() < 0.3)
            for number in self.chance.sample(range(KEYS), self.chance.randrange(1, 4))
        ]  # fmt: skip
        self.disk.commit(puts, ())
        for put in puts:
            key = (int.from_bytes(put.segment, "big"), put.index)
            if put.error is None:
                self.possible[key] = {put.payload}
            elif isinstance(put.error, NoSpace):
                # Cut off, but the cut is durable only with the next sync.
                self.ghosts.setdefault(key, set()).add(put.payload)
            else:
                self.possible.setdefault(key, {None}).add(put.payload)

    def delete(self) -> None:
        numbers = self.chance.sample(range(KEYS), self.chance.randrange(1, 4))
        job = Delete(segments=tuple(segment_of(n) for n in numbers))
        self.disk.commit((), (job,))
        for number in numbers:
            for index in (0, 1):
                if job.error is None:
                    self.possible[number, index] = {None}
                elif (number, index) in self.possible:
                    self.possible[number, index].add(None)

    def checkpoint(self) -> None:
        self.disk.checkpoint()

    def rebuild(self) -> None:
        self.disk.rebuild()

    def lose_power(self) -> None:
        torn = self.chance.randrange(1 << 30) if self.chance.random() < 0.8 else None
        self.rig.crash(torn)
        if self.chance.random() < 0.2:
            self.rig.store.durable.clear()
            self.rig.store.crash()
        attempts = self.chance.randrange(0, 3)
        for _ in range(attempts):  # the power fails again while it recovers
            self.rig.directory.fail(self.chance.randrange(1, 40), errno.EIO, for_ever=True)
            try:
                self.disk = self.rig.open()
                self.disk.checkpoint()
            except OSError:
                pass
            self.rig.crash(self.chance.randrange(1 << 30))
        self.disk = self.rig.open()
        self.resolve()

    def resolve(self) -> None:
        seen = dict.fromkeys(listing(self.disk))
        for key in set(self.possible) | set(seen):
            found = self.value(key) if key in seen else None
            allowed = self.possible.get(key, {None}) | self.ghosts.get(key, set())
            assert found in allowed, key
            self.possible[key] = {found}
        self.ghosts.clear()

    def check(self) -> None:
        """Whatever is certain reads back; the counters agree with the index."""
        for key, states in self.possible.items():
            if len(states) == 1:
                (expected,) = states
                assert (
                    self.value(key) if self.disk.find(segment_of(key[0]), key[1]) else None
                ) == (expected), key
        rows = self.disk.after(b"", 0, 1 << 30, 1 << 62)
        total = self.disk.counts().total
        assert total.fragments == len(rows)
        assert total.stored == sum(entry.length for _, _, entry in rows)
        assert total.raw == sum(entry.raw_bytes for _, index, entry in rows if index == 0)

    def finish(self) -> None:
        """At rest, blocks are held by live records, tombstones and damage only."""
        self.rig.directory.heal()
        if self.disk.fenced:
            self.lose_power()
        for number in range(KEYS):
            job = Delete(segments=(segment_of(number),))
            self.disk.commit((), (job,))
            assert job.error is None
        for _ in range(3):
            self.disk.checkpoint()
        assert listing(self.disk) == []
        self.possible = {(99, 0): {b"z" * 100_000}}
        put = make_put(99, b"z" * 100_000)
        self.disk.commit([put], ())
        assert put.error is None, "space came back without a restart"
        self.lose_power()

    def value(self, key: tuple[int, int]) -> bytes:
        return read(self.disk, *key)

    def payload(self, number: int) -> bytes:
        return random.Random(number).randbytes(1000 + number * 5003)


def drive(seed: int) -> None:
    model = Model(seed)
    try:
        for _ in range(STEPS):
            model.step()
        model.finish()
    except (AssertionError, CfsError, OSError) as error:
        raise AssertionError(f"seed {seed}: {error!r}") from error


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 1 << 32))
def test_a_disk_keeps_its_promises(seed: int):
    drive(seed)


@pytest.mark.parametrize("seed", range(20))
def test_known_seeds(seed: int):
    drive(seed)
