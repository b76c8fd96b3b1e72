"""Hypothesis machines for quotas: what is counted, what is refused, how limits are shared out."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cfs.core.api.meta import Commit, Create, Link, Rename, SetAttr, Unlink
from cfs.core.api.quota import GROUP, TREE, UNLIMITED, USER, Charge, Domain
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.core.meta import quota, read
from cfs.core.meta.commands import DropLeases, MarkTree, Reclaim, SetCaps, SetTrash
from cfs.core.meta.quota_commands import Cap
from cfs.core.root import quotas
from tests.model.shard_world import DIR, REG, SESSION, World, check, inline

NAMES = [b"a", b"b", b"c", b"d"]
USERS = [1, 2]
names = st.sampled_from(NAMES)
sizes = st.integers(0, 300)


class Accounting(RuleBasedStateMachine):
    """Random work in two directories, one of them a tree with a quota, by two users."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.directories = [
            self.world.op(Create(parent=ROOT_INO, name=n, mode=DIR | 0o755, uid=0, gid=0))[0].ino
            for n in (b"tree", b"beside")
        ]
        self.tree = Domain(TREE, self.directories[0])
        self.limits: dict[Domain, tuple[int, int]] = {}

    @initialize(trash=st.booleans())
    def begin(self, trash: bool) -> None:  # noqa: FBT001
        self.world.one(0, SetTrash(keep_s=60 if trash else 0))
        tree = self.tree.id
        assert self.world.one(0, MarkTree(ino=tree, project=tree, was=0)).end

    def op(self, op: Any) -> None:
        before = {d: quota.usage(self.world.kvs[0], d) for d in self.domains()}
        try:
            self.world.op(op)
        except FsError:
            assert before == {d: quota.usage(self.world.kvs[0], d) for d in self.domains()}

    def domains(self) -> list[Domain]:
        return [self.tree, *(Domain(k, n) for k in (USER, GROUP) for n in (0, *USERS))]

    def find(self, directory: int, name: bytes) -> int:
        entry = read.lookup(self.world.kvs[0], directory, name)
        return 0 if entry is None else entry.ino

    @rule(where=st.integers(0, 1), name=names, user=st.sampled_from(USERS))
    def create(self, where: int, name: bytes, user: int) -> None:
        parent = self.directories[where]
        self.op(Create(parent=parent, name=name, mode=REG | 0o644, uid=user, gid=user, lease=2))

    @rule(where=st.integers(0, 1), name=names, size=sizes, want=sizes)
    def charge(self, where: int, name: bytes, size: int, want: int) -> None:
        if ino := self.find(self.directories[where], name):
            self.op(Charge(ino=ino, size=size, want=want))

    @rule(where=st.integers(0, 1), name=names, size=st.integers(1, 300))
    def write(self, where: int, name: bytes, size: int) -> None:
        if ino := self.find(self.directories[where], name):
            self.op(Commit(ino=ino, extents=(inline(0, size, size),), size=size))

    @rule(where=st.integers(0, 1), name=names, size=sizes)
    def resize(self, where: int, name: bytes, size: int) -> None:
        if ino := self.find(self.directories[where], name):
            self.op(SetAttr(ino=ino, size=size))

    @rule(where=st.integers(0, 1), name=names, user=st.sampled_from(USERS))
    def chown(self, where: int, name: bytes, user: int) -> None:
        if ino := self.find(self.directories[where], name):
            self.op(SetAttr(ino=ino, uid=user, gid=3 - user))

    @rule(where=st.integers(0, 1), name=names)
    def unlink(self, where: int, name: bytes) -> None:
        self.op(Unlink(parent=self.directories[where], name=name))

    @rule(where=st.integers(0, 1), to=st.integers(0, 1), name=names, new=names)
    def rename(self, where: int, to: int, name: bytes, new: bytes) -> None:
        old, target = self.directories[where], self.directories[to]
        self.op(Rename(parent=old, name=name, new_parent=target, new_name=new))

    @rule(where=st.integers(0, 1), to=st.integers(0, 1), name=names, new=names)
    def link(self, where: int, to: int, name: bytes, new: bytes) -> None:
        if ino := self.find(self.directories[where], name):
            self.op(Link(ino=ino, parent=self.directories[to], name=new))

    @rule(where=st.integers(0, 1), name=names)
    def drop_lease(self, where: int, name: bytes) -> None:
        if ino := self.find(self.directories[where], name):
            self.world.one(0, DropLeases(session=SESSION, inos=(ino,)))

    @rule()
    def reclaim(self) -> None:
        for ino in read.orphans(self.world.kvs[0], 0, 10):
            self.world.one(0, Reclaim(ino=ino))

    @rule(which=st.integers(0, 6), size=st.integers(-1, 900), inodes=st.integers(-1, 8))
    def limit(self, which: int, size: int, inodes: int) -> None:
        domain = self.domains()[which]
        cap = Cap(domain=domain, bytes=size, inodes=inodes)
        row = self.world.one(0, SetCaps(term=1, caps=(cap,), version=1)).rows[0]
        self.limits[domain] = row.cap_bytes, row.cap_inodes

    @invariant()
    def exact(self) -> None:
        check(self.world)

    @invariant()
    def within(self) -> None:
        kv = self.world.kvs[0]
        for domain, (size, inodes) in self.limits.items():
            there = quota.usage(kv, domain)
            entries = sum(read.attr(kv, d).size for d in (ROOT_INO, *self.directories))
            assert size == UNLIMITED or there.bytes + there.held <= size + entries
            assert inodes == UNLIMITED or there.inodes <= inodes


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, derandomize=True
)


@given(
    limit=st.integers(0, 1000),
    shards=st.lists(st.tuples(st.integers(0, 300), st.integers(-1, 400)), min_size=1, max_size=6),
    data=st.data(),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_caps_never_add_up_to_more_than_the_limit(
    limit: int, shards: list[tuple[int, int]], data: st.DataObject
) -> None:
    taken = [used for used, _ in shards]
    before = [limit if cap == UNLIMITED else max(cap, used) for used, cap in shards]
    wanting = data.draw(st.integers(-1, len(shards) - 1))
    need = data.draw(st.integers(0, 400))
    wanted = quotas.share(limit, taken, wanting, need)
    assert all(cap >= used for cap, used in zip(wanted, taken, strict=True))
    assert sum(wanted) <= max(limit, sum(taken))
    left = limit - sum(taken)
    if wanting >= 0 and need <= left:
        assert wanted[wanting] >= taken[wanting] + need
    # a shard that used more meanwhile was not lowered all the way
    lowered = [
        max(min(cap, want), used) + data.draw(st.integers(0, max(0, cap - max(want, used))))
        for cap, want, used in zip(before, wanted, taken, strict=True)
    ]
    after = quotas.raised(limit, lowered, wanted)
    assert sum(after) <= max(limit, sum(lowered))
    assert all(new >= old for new, old in zip(after, lowered, strict=True))


def test_a_soft_limit_alone_is_a_limit_from_the_first_moment() -> None:
    record = quotas.QuotaRecord(
        domain=Domain(USER, 1), name="u", phase=quotas.QuotaPhase.ACTIVE, bytes_soft=5, grace_s=9
    )
    assert quotas.limits(record, 0) == (quotas.LIMIT_MAX, UNLIMITED)
    caps = quotas.share(quotas.LIMIT_MAX, [3, 4])
    assert UNLIMITED not in caps
    assert max(caps) < 1 << 63
    over = quotas.noted(record, (7, 0), 1000)
    assert quotas.limits(over, 10_000) == (5, UNLIMITED)


@given(
    used=st.lists(st.integers(0, 20), max_size=30), soft=st.integers(0, 20), grace=st.integers(0, 9)
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_soft_limit_holds_after_it_was_passed_for_its_grace(
    used: list[int], soft: int, grace: int
) -> None:
    record = quotas.QuotaRecord(
        domain=Domain(USER, 1), name="u", phase=quotas.QuotaPhase.ACTIVE, bytes_hard=50,
        bytes_soft=soft, grace_s=grace,
    )  # fmt: skip
    run = 0
    for second, now in enumerate(used, 1):
        record = quotas.noted(record, (now, 0), second * 1000)
        run = run + 1 if now > soft else 0
        held = run > grace
        assert quotas.limits(record, second * 1000) == (soft if held else 50, UNLIMITED)
