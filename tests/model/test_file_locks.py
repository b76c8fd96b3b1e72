"""Locks on files against a table that knows every byte: same answers, same holders."""

from __future__ import annotations

import random

import pytest

from cfs.core.api.meta import Create, Lock, LockKind
from cfs.core.errors import FsError, from_wire
from cfs.core.ids import ROOT_INO
from cfs.core.meta import file_locks, read
from cfs.core.meta.commands import ExpireSession, OpenSession
from tests.model.shard_world import REG, World, check

BYTES = 24
WHOLE = file_locks.OFFSET_MAX
READ, WRITE, NONE = LockKind.READ, LockKind.WRITE, LockKind.NONE
SESSIONS = (1, 2, 3)

Owner = tuple[int, int]


class Table:
    """For one file and flavour: what each owner has on each byte."""

    def __init__(self) -> None:
        self.bytes: list[dict[Owner, int]] = [{} for _ in range(BYTES)]

    def lock(self, owner: Owner, start: int, end: int, kind: int) -> bool:
        span = self.bytes[start : end + 1]
        if kind == NONE:
            for held in span:
                held.pop(owner, None)
            return True
        for held in span:
            for other, there in held.items():
                if other != owner and WRITE in (kind, there):
                    return False
        for held in span:
            held[owner] = kind
        return True

    def drop_session(self, session: int) -> None:
        for held in self.bytes:
            for owner in [o for o in held if o[0] == session]:
                del held[owner]


def spelled(world: World, ino: int, *, flock: bool) -> list[dict[Owner, int]]:
    """Spell the shard's records out, checking their form."""
    out: list[dict[Owner, int]] = [{} for _ in range(BYTES)]
    last: dict[Owner, tuple[int, int]] = {}
    for h in file_locks.holders(world.kvs[0], ino, flock=flock):
        owner = (h.session, h.owner)
        if owner in last:
            end, kind = last[owner]
            assert h.start > end, "in order, disjoint"
            assert h.start > end + 1 or h.kind != kind, "what touches is joined"
        last[owner] = (h.end, h.kind)
        for byte in range(h.start, min(h.end, BYTES - 1) + 1):
            out[byte][owner] = h.kind
    return out


@pytest.mark.parametrize("seed", range(8))
def test_locks_behave_as_a_table_of_bytes(seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    for session in SESSIONS:
        world.apply(0, OpenSession(session=session, name=str(session)))
    inos = [
        world.op(Create(parent=ROOT_INO, name=b"%d" % n, mode=REG | 0o644, uid=0, gid=0))[0].ino
        for n in range(2)
    ]
    tables = {(ino, flock): Table() for ino in inos for flock in (False, True)}
    refused = 0
    for step in range(600):
        ino, flock = rng.choice(inos), rng.random() < 0.2
        session, owner = rng.choice(SESSIONS), rng.randrange(2)
        if rng.random() < 0.01:
            world.apply(0, ExpireSession(session=session))
            world.apply(0, OpenSession(session=session, name=""))
            for table in tables.values():
                table.drop_session(session)
            continue
        start = 0 if flock else rng.randrange(BYTES)
        end = BYTES - 1 if flock or rng.random() < 0.1 else rng.randrange(start, BYTES)
        kind = rng.choice([READ, READ, WRITE, NONE, NONE])
        op = Lock(
            ino=ino, owner=owner, start=start, end=WHOLE if end == BYTES - 1 else end,
            kind=int(kind), pid=owner + 100, flock=flock,
        )  # fmt: skip
        table = tables[ino, flock]
        result = world.ops(op, session=session)[0]
        if table.lock((session, owner), start, end, kind):
            assert result.error is None, (step, op, result)
        else:
            refused += 1
            error = from_wire(result.error or [])
            assert isinstance(error, FsError)
            assert error.errno == 11
            there = (error.detail["session"], error.detail["owner"])
            hit = max(start, error.detail["start"])
            assert table.bytes[hit][there] == error.detail["kind"]
            found = next(
                read.locks_in_the_way(
                    world.kvs[0], ino, session, owner, op.start, op.end, op.kind, flock=flock
                )
            )
            assert (found.session, found.owner) == there
        assert spelled(world, ino, flock=flock) == table.bytes, (step, op)
        if step % 100 == 99:
            check(world)
    assert refused > 50
    for session in SESSIONS:
        world.apply(0, ExpireSession(session=session))
    assert read.totals(world.kvs[0]).file_locks == 0
    check(world)


def test_an_owner_has_so_many_ranges_and_no_more() -> None:
    world = World()
    ino = world.op(Create(parent=ROOT_INO, name=b"f", mode=REG | 0o644, uid=0, gid=0))[0].ino
    for n in range(file_locks.RANGES_MAX):
        world.op(Lock(ino=ino, owner=1, kind=0, start=2 * n, end=2 * n))
    with pytest.raises(FsError, match="has locked 1024 ranges"):
        world.op(Lock(ino=ino, owner=1, kind=0, start=1 << 40, end=1 << 40))
    world.op(Lock(ino=ino, owner=1, kind=1))
    assert len(list(file_locks.holders(world.kvs[0], ino, flock=False))) == 1
    world.op(Lock(ino=ino, owner=1, kind=2))
    assert read.totals(world.kvs[0]).file_locks == 0
