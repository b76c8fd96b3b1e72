"""The state overlay against `MemoryStore`, through flushes, restarts and commands that scan."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cfs.core.kv import MemoryStore, Writer
from cfs.core.raft.message import Config
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.meta.group_record import record_hash
from cfs.fs.meta.state import State

KEYS = st.binary(min_size=1, max_size=3).map(lambda b: bytes(x % 4 for x in b))
VALUES = st.binary(max_size=4)
CHANGES = st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=12)
GROUPS = st.sampled_from([1, 2])


def change(kv: Writer, changes: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            kv.delete(key)
        else:
            kv.put(key, value)


def trail(kv: Writer, start: bytes, end: bytes, *, reverse: bool) -> list[tuple[bytes, bytes]]:
    """Scan while changing what lies ahead: what is seen must not depend on flushes."""
    seen = []
    for key, value in kv.scan(start, end, reverse=reverse):
        seen.append((key, value))
        kv.put(key + b"\1", b"new")
        if len(seen) % 2:
            kv.delete(key)
        if len(seen) % 3 == 0:
            kv.put(b"\2", b"changed")
    return seen


class StateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.store = LmdbStore(self.path, sync=False)
        self.state = State(self.store)
        self.models = {}
        self.durable = {}
        self.flushing = False
        for group in (1, 2):
            self.state.create(group, Config(voters=(1,)))
            self.models[group] = MemoryStore()
        self.durable = {1: (0, {}), 2: (0, {})}
        self.flush_to = dict(self.durable)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.path)

    def snapshot(self, group: int) -> tuple[int, dict[bytes, bytes]]:
        return self.state.groups[group].applied, dict(self.models[group].scan(b"", b"\xff"))

    @rule(group=GROUPS, changes=CHANGES)
    def command(self, group: int, changes: list[tuple[bytes, bytes | None]]) -> None:
        state = self.state.groups[group]
        transaction = state.transaction()
        change(transaction, changes)
        change(self.models[group], changes)
        for key, _ in changes:
            assert transaction.get(key) == self.models[group].get(key)
        transaction.commit()
        state.advance(state.applied + 1, 7)

    @rule(group=GROUPS, changes=CHANGES, start=KEYS, end=KEYS, reverse=st.booleans())
    def scanning_command(
        self, *, group: int, changes: list[tuple[bytes, bytes | None]], start: bytes, end: bytes,
        reverse: bool,
    ) -> None:  # fmt: skip
        state = self.state.groups[group]
        transaction = state.transaction()
        change(transaction, changes)
        change(self.models[group], changes)
        seen = trail(transaction, start, end, reverse=reverse)
        assert seen == trail(self.models[group], start, end, reverse=reverse)
        transaction.commit()
        state.advance(state.applied + 1, 7)

    @rule(group=GROUPS, changes=CHANGES)
    def abandoned_command(self, group: int, changes: list[tuple[bytes, bytes | None]]) -> None:
        change(self.state.groups[group].transaction(), changes)

    @precondition(lambda self: not self.flushing)
    @rule()
    def begin_flush(self) -> None:
        self.flush_to = {group: self.snapshot(group) for group in (1, 2)}
        self.flushing = self.state.begin_flush()

    @precondition(lambda self: self.flushing)
    @rule()
    def commit_flush(self) -> None:
        self.state.commit_flush()
        self.durable = dict(self.flush_to)

    @precondition(lambda self: self.flushing)
    @rule()
    def finish_flush(self) -> None:
        self.state.commit_flush()
        self.state.end_flush()
        self.flushing = False
        self.durable = dict(self.flush_to)

    @rule()
    def crash(self) -> None:
        """Lose memory: what was flushed last is there, whole commands only."""
        self.store.close()
        self.store = LmdbStore(self.path, sync=False)
        self.state = State(self.store)
        self.flushing = False
        for group, (applied, pairs) in self.durable.items():
            if group not in self.state.groups:
                assert applied == 0
                self.state.create(group, Config(voters=(1,)))
            assert self.state.groups[group].applied == applied
            self.models[group] = MemoryStore()
            self.models[group].write(pairs.items(), sync=True)

    @rule(group=GROUPS, start=KEYS, end=KEYS, reverse=st.booleans())
    def scan(self, *, group: int, start: bytes, end: bytes, reverse: bool) -> None:
        state = self.state.groups[group]
        expected = list(self.models[group].scan(start, end, reverse=reverse))
        assert list(state.scan(start, end, reverse=reverse)) == expected

    @invariant()
    def views_and_digests_agree(self) -> None:
        for group, model in self.models.items():
            pairs = list(model.scan(b"", b"\xff"))
            state = self.state.groups[group]
            assert list(state.scan(b"", b"\xff")) == pairs
            assert list(state.scan(b"", b"\xff", reverse=True)) == pairs[::-1]
            total = sum(record_hash(k, v) for k, v in pairs) % (1 << 128)
            assert state.digest == total.to_bytes(16, "little")


StateMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True
)
TestStateOverlay = StateMachine.TestCase
