"""Exactly once: repeats, refusals that are no answers, expiry and return."""

from __future__ import annotations

import errno

import pytest

from cfs.core.api.meta import Acquire, Commit, Create, OpResult, Release, Unlink
from cfs.core.errors import FsError, Malformed, SessionExpired, Unavailable, from_wire
from cfs.core.meta import read
from cfs.core.meta.commands import (
    Batch,
    ClientOps,
    ExpireSession,
    OpenSession,
    Refuse,
    encode_batch,
)
from cfs.core.meta.results import Done, Failed, Opened
from tests.model.shard_world import REG, SESSION, World, check, chunk

OTHER = 8


def ops(seq: int, *wanted, acked: int = 0, session: int = SESSION) -> ClientOps:
    return ClientOps(session=session, first_seq=seq, acked=acked, ops=wanted)


def create(name: bytes) -> Create:
    return Create(parent=1, name=name, mode=REG | 0o644, uid=0, gid=0)


def error_of(result: OpResult) -> Exception:
    assert result.error is not None
    return from_wire(result.error)


def test_a_repeat_has_the_same_answer_and_no_effect() -> None:
    world = World()
    first = world.apply(0, ops(1, create(b"a"), create(b"a"), Unlink(parent=1, name=b"a")))[0]
    snapshot = [*world.kvs[0].scan(b"", b"\xff")]
    again = world.apply(0, ops(1, create(b"a"), create(b"a"), Unlink(parent=1, name=b"a")))[0]
    assert again == first
    changed = {k for k, _ in set(world.kvs[0].scan(b"", b"\xff")) ^ set(snapshot)}
    assert changed <= {b"m"}
    assert error_of(first[1]).errno == errno.EEXIST
    assert first[1].attrs == ()


def test_numbers_may_come_out_of_order_each_once() -> None:
    world = World()
    world.apply(0, ops(3, create(b"c")))
    world.apply(0, ops(1, create(b"a"), create(b"b"), create(b"c")))
    assert read.attr(world.kvs[0], 1).size == 3
    session = read.session(world.kvs[0], SESSION)
    assert session is not None
    assert session.applied == 3


def test_answers_seen_are_forgotten_and_not_applied_again() -> None:
    world = World()
    world.apply(0, ops(1, create(b"a"), create(b"b")))
    world.apply(0, ops(3, create(b"c"), acked=3))
    kv = world.kvs[0]
    assert read.answer(kv, SESSION, 2) is None
    assert read.answer(kv, SESSION, 3) is not None
    world.apply(0, ops(4, Unlink(parent=1, name=b"a"), acked=3))
    late = world.apply(0, ops(1, create(b"a")))[0]
    assert isinstance(error_of(late[0]), Malformed)
    assert read.attr(kv, 1).size == 2


def test_a_lease_held_by_another_refuses_without_an_answer() -> None:
    world = World()
    world.one(0, OpenSession(session=OTHER))
    ino = world.op(create(b"a"))[0].ino
    world.op(Acquire(ino=ino))
    refused = world.apply(0, ops(1, Acquire(ino=ino), create(b"b"), session=OTHER))[0]
    assert [type(error_of(r)) for r in refused] == [Unavailable] * 2
    assert read.answer(world.kvs[0], OTHER, 1) is None
    commit = Commit(ino=ino, extents=(chunk(0, 5, 1),))
    with pytest.raises(FsError) as stale:
        world.op(commit, session=OTHER)
    assert stale.value.errno == errno.ESTALE
    world.op(Release(inos=(ino, 999)))
    results = world.ops(Acquire(ino=ino), commit, create(b"b"), session=OTHER)
    assert [r.error for r in results] == [None] * 3
    check(world)


def test_expiry_takes_leases_and_refuses_until_the_session_returns() -> None:
    world = World()
    ino = world.op(create(b"a"))[0].ino
    world.op(Acquire(ino=ino))
    assert world.one(0, ExpireSession(session=SESSION)) == Done()
    assert read.write_lease(world.kvs[0], ino) is None
    refused = world.apply(0, ops(3, create(b"b")))[0]
    assert isinstance(error_of(refused[0]), SessionExpired)
    assert read.answer(world.kvs[0], SESSION, 3) is None
    assert world.one(0, ExpireSession(session=99)) == Done()
    opened = world.one(0, OpenSession(session=SESSION))
    assert opened == Opened(applied_seq=2, expired=True, leases=())
    assert world.apply(0, ops(2, Acquire(ino=ino)))[0][0].error is None
    assert read.write_lease(world.kvs[0], ino) is None, "answered as before, not acquired again"
    assert world.apply(0, ops(3, create(b"b")))[0][0].error is None
    check(world)


def test_opening_again_says_what_is_held() -> None:
    world = World()
    ino = world.op(create(b"a"))[0].ino
    world.op(Acquire(ino=ino))
    again = world.one(0, OpenSession(session=SESSION))
    assert again == Opened(applied_seq=2, expired=False, leases=(ino,))


def test_an_unknown_session_is_expired() -> None:
    world = World()
    refused = world.apply(0, ops(1, create(b"a"), session=55))[0]
    assert isinstance(error_of(refused[0]), SessionExpired)


def test_a_refusal_before_the_log_is_an_answer_once() -> None:
    world = World()
    no = OpResult(error=FsError(errno.ELOOP).to_wire())
    assert world.one(0, Refuse(session=SESSION, seq=1, answer=no)).answer == no
    yes = world.apply(0, ops(1, create(b"a")))[0][0]
    assert yes == no
    world.apply(0, ops(2, create(b"a")))
    kept = world.one(0, Refuse(session=SESSION, seq=2, answer=no)).answer
    assert kept.error is None


def test_replicas_reach_the_same_state_from_the_same_entries() -> None:
    entries = [
        Batch(5, (OpenSession(session=1),)),
        Batch(3, (ClientOps(session=1, first_seq=1, acked=1, ops=(create(b"a"), create(b"b"))),)),
    ]
    worlds = [World(), World()]
    for world in worlds:
        for n, entry in enumerate(entries):
            world.shards[0].apply(world.kvs[0], n, encode_batch(entry))
    left, right = ([*w.kvs[0].scan(b"", b"\xff")] for w in worlds)
    assert left == right


def test_garbage_is_refused_and_changes_nothing() -> None:
    world = World()
    before = [*world.kvs[0].scan(b"", b"\xff")]
    results = world.shards[0].apply(world.kvs[0], 9, b"\x93garbage")
    assert len(results) == 1
    assert isinstance(results[0], Failed)
    assert [*world.kvs[0].scan(b"", b"\xff")] == before
