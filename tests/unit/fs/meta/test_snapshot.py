"""Snapshots below the host, and the sender over a pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from cfs.core.api.methods import RaftMessages, SnapshotChunk
from cfs.core.errors import Corrupt, Malformed, Unavailable
from cfs.core.raft.message import Config
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.meta.group_record import encode_group, meta_key, slot_range
from cfs.fs.meta.peers import MESSAGE_BYTES_MAX, PoolSender
from cfs.fs.meta.snapshot import PIECE_BYTES, Incoming, Outgoing, check_digest, wipe_orphans
from cfs.fs.meta.state import GroupState, State


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    made = LmdbStore(tmp_path, sync=False)
    yield made
    made.close()


def fill(state: State, count: int) -> GroupState:
    group = state.create(7, Config(voters=(1, 2, 3)))
    transaction = group.transaction()
    for number in range(count):
        transaction.put(b"key%06d" % number, b"v" * 100)
    transaction.commit()
    group.advance(1, 3)
    assert state.begin_flush()
    state.commit_flush()
    state.end_flush()
    return group


def pieces_of(outgoing: Outgoing) -> list[bytes]:
    pieces = []
    while piece := outgoing.next_piece():
        assert len(piece) <= PIECE_BYTES
        pieces.append(piece)
    return pieces


def test_a_snapshot_survives_changes_at_its_source(store: LmdbStore, tmp_path: Path) -> None:
    state = State(store)
    group = fill(state, 20_000)
    before = list(group.scan(b"", b"\xff"))
    outgoing = Outgoing(store, 7)
    first = outgoing.next_piece()
    transaction = group.transaction()
    transaction.delete(b"key019999")
    transaction.commit()
    group.advance(2, 3)
    assert state.begin_flush()
    state.commit_flush()
    state.end_flush()
    pieces = [first, *pieces_of(outgoing)]
    outgoing.close()
    assert len(pieces) >= 3
    target = LmdbStore(tmp_path / "target", sync=False)
    incoming = Incoming(target, 5, outgoing.header)
    for piece in pieces:
        incoming.take(piece)
    target.write([(meta_key(7), encode_group(incoming.record()))], sync=True)
    arrived = State(target).groups[7]
    assert list(arrived.scan(b"", b"\xff")) == before
    assert (arrived.applied, arrived.term, arrived.slot) == (1, 3, 5)
    assert arrived.config == Config(voters=(1, 2, 3))
    target.close()


def test_lost_or_changed_pieces_are_refused(store: LmdbStore, tmp_path: Path) -> None:
    fill(State(store), 20_000)
    outgoing = Outgoing(store, 7)
    pieces = pieces_of(outgoing)
    outgoing.close()
    target = LmdbStore(tmp_path / "target", sync=False)
    incoming = Incoming(target, 5, outgoing.header)
    incoming.take(pieces[0])
    with pytest.raises(Corrupt):
        incoming.record()
    for bad in (pieces[1][:-1], pieces[1][:5], b"\xff" * 8, bytes(8)):
        with pytest.raises(Malformed):
            incoming.take(bad)
    with pytest.raises(Malformed):
        Incoming(target, 5, b"\xc1")
    wipe_orphans(target, set())
    assert list(target.scan(b"", b"\xff")) == []
    target.close()


def test_orphans_are_wiped_and_others_stay(store: LmdbStore) -> None:
    group = fill(State(store), 10)
    store.write([(slot_range(slot)[0] + b"x", b"1") for slot in (3, 4, 9)], sync=True)
    wipe_orphans(store, {group.slot, 4})
    assert {int.from_bytes(k[:2], "big") for k, _ in store.scan(b"", b"\xff\xff")} == {0, 4}
    state = State(store)
    assert len(list(state.groups[7].scan(b"", b"\xff"))) == 10
    assert state.free_slot() == 1


def test_a_record_made_absent_is_noticed(store: LmdbStore) -> None:
    group = fill(State(store), 300)
    meta = check_digest(store, 7)
    assert meta is not None
    assert meta.index == 1
    assert check_digest(store, 8) is None
    key = slot_range(group.slot)[0] + b"key000100"
    kept = store.get(key)
    assert kept is not None
    for damage in (None, kept + b"x"):
        store.write([(key, damage)], sync=True)
        with pytest.raises(Corrupt, match="group 7"):
            check_digest(store, 7)
    store.write([(key, kept)], sync=True)
    assert check_digest(store, 7) == meta


class Pool:
    """Takes what is posted, or is down."""

    def __init__(self) -> None:
        self.posted: list[RaftMessages] = []
        self.down = False

    def post(self, node: int, method: str, request: Any, payload: bytes = b"") -> None:
        assert (node, method, payload) == (2, "raft.messages", b"")
        if self.down:
            raise Unavailable("down")
        self.posted.append(request)

    async def call(
        self, node: int, method: str, request: Any, payload: bytes = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        assert (node, method) == (2, "raft.snapshot")
        assert timeout_s > 0
        if self.down:
            raise Unavailable("down")
        return request, payload


def test_sender_batches_splits_and_drops() -> None:
    pool = Pool()
    sender = PoolSender(node=1, pool=pool)
    sender.send(2, [b"a", b"b"])
    assert pool.posted == [RaftMessages(sender=1, messages=(b"a", b"b"))]
    half = bytes(MESSAGE_BYTES_MAX // 2)
    sender.send(2, [half, half, half, b"x"])
    assert [len(r.messages) for r in pool.posted[1:]] == [2, 2]
    pool.down = True
    sender.send(2, [b"a", b"b"])
    assert sender.dropped == 2
    chunk = SnapshotChunk(group=1, term=1, index=1, sequence=0, last=True, sender=1)
    with pytest.raises(Unavailable):
        trio.run(sender.send_snapshot, 2, chunk, b"")
