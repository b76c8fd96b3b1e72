"""The metadata service over real shards, without Raft: leases, recalls, transactions."""

import errno
import inspect
import stat

import pytest
import trio
import trio.testing

from cfs.core.api import meta
from cfs.core.api.meta import Held, Lease
from cfs.core.errors import FsError, SessionExpired, Unavailable, from_wire
from cfs.core.ids import ROOT_INO, Ino, group_of, shard_of
from cfs.core.kv import MemoryStore
from cfs.core.meta import commands
from cfs.core.meta.shard import Shard
from cfs.fs.meta.leaders import Leaders
from cfs.fs.meta.service import MetaService
from cfs.net.handlers import Context

SHARDS = 4


class Group:
    """A group of one that commits at once, or when `gate` opens."""

    def __init__(self, shard):
        self.group = group_of(shard)
        self.machine = Shard(0, shard)
        self.state = MemoryStore()
        self.is_leader = self.ready = True
        self.leader, self.term, self.applied = 1, 1, 0
        self.others_over_s = trio.current_time()

    def readable(self):
        return True

    async def read_barrier(self):
        await trio.lowlevel.checkpoint()
        return self.applied

    async def propose(self, entry):
        await trio.lowlevel.checkpoint()
        self.applied += 1
        return self.applied, self.machine.apply(self.state, self.applied, entry)

    def watch(self, callback):
        pass


class Clock:
    def __init__(self):
        self.now = 10**18

    def time_ns(self):
        self.now += 1000
        return self.now


class Peer:
    """A client's end: records recalls, answers through `on_recall`."""

    def __init__(self, name):
        self.name, self.role = name, "client"
        self.closed = trio.Event()
        self.recalls = []
        self.on_recall = None

    async def call(self, method, request, payload=b"", *, timeout_s):
        assert method == "client.recall"
        self.recalls.append(request)
        if self.on_recall:
            with trio.move_on_after(timeout_s):
                await self.on_recall(request)
                return meta.Empty(), b""
            raise Unavailable("silent")
        return meta.Empty(), b""


class World:
    def __init__(self):
        groups = [Group(s) for s in range(SHARDS)]
        self.groups = {g.group: g for g in groups}
        self.host = self
        clock = Clock()
        self.service = MetaService(host=self, clock=clock, shard_count=lambda: SHARDS)
        self.service.transactions.leaders = Leaders(
            node=1, pool=None, cluster_map=lambda: None, handlers=self.service.handlers
        )
        for g in groups:
            entry = commands.Batch(1, (commands.InitShard(root=g.group == 1),))
            g.machine.apply(g.state, 0, commands.encode_batch(entry))
        self.seqs = {}

    async def ask(self, peer, method, request):
        context = Context(peer=peer, method=method, deadline=None, epoch=0)
        answer = self.service.handlers[method](context, request, b"")
        return await answer if inspect.isawaitable(answer) else answer

    async def open(self, peer, session):
        for shard in range(SHARDS):
            await self.ask(peer, "meta.session", meta.OpenSession(shard=shard, session=session))

    async def mutate(self, peer, session, shard, *ops, seq=None):
        first = seq or self.seqs.get((session, shard), 1)
        self.seqs[session, shard] = max(first + len(ops), self.seqs.get((session, shard), 1))
        reply = await self.ask(
            peer,
            "meta.mutate",
            meta.Mutate(shard=shard, session=session, first_seq=first, acked=1, ops=ops),
        )
        for result in reply.results:
            if result.error:
                raise from_wire(result.error)
        return reply.results[0].attrs

    async def lookup(self, peer, session, parent, name, *, lease=True):
        request = meta.Lookup(
            shard=shard_of(Ino(parent)), session=session, parent=parent, name=name, lease=lease
        )
        return await self.ask(peer, "meta.lookup", request)


def run(test, limit_s=60):
    async def main():
        world = World()
        async with trio.open_nursery() as nursery:
            await nursery.start(world.service.run)
            await trio.testing.wait_all_tasks_blocked()
            a, b = Peer("a"), Peer("b")
            await world.open(a, 1)
            await world.open(b, 2)
            with trio.fail_after(limit_s):
                await test(world, a, b)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def create(parent, name, mode=stat.S_IFREG | 0o644, lease=0):
    return meta.Create(parent=parent, name=name, mode=mode, uid=0, gid=0, lease=lease)


def test_a_mutation_recalls_readers_but_not_its_own_session():
    async def test(world, a, b):
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f"))
        for peer, session in ((a, 1), (b, 2)):
            reply = await world.lookup(peer, session, 1, b"f")
            assert reply.lease & Lease.READ
            assert reply.directory_lease & Lease.READ
        await world.mutate(a, 1, 0, meta.SetAttr(ino=made.ino, mode=0o600))
        assert [h.ino for r in b.recalls for h in r.leases] == [made.ino]
        assert a.recalls == []
        await world.mutate(a, 1, 0, create(1, b"g"))
        assert b.recalls[-1].leases == (Held(1, 0),)

    run(test)


def test_no_lease_is_granted_between_recall_and_change():
    async def test(world, a, b):
        await world.lookup(b, 2, 1, b"f")
        seen = []

        async def peek(_request):
            reply = await world.lookup(b, 2, 1, b"f")
            seen.append(reply)

        b.on_recall = peek
        await world.mutate(a, 1, 0, create(1, b"f"))
        assert seen[0].entry is None
        assert seen[0].directory_lease == 0
        b.on_recall = None
        assert (await world.lookup(b, 2, 1, b"f")).entry is not None

    run(test)


def test_a_read_brings_a_foreign_write_lease_down_and_sees_what_was_flushed():
    async def test(world, a, b):
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f", lease=7))

        async def flush(request):
            assert request.leases == (Held(made.ino, Lease.READ),)
            commit = meta.Commit(ino=made.ino, extents=(), size=77)
            await world.mutate(a, 1, 0, commit)

        a.on_recall = flush
        reply = await world.lookup(b, 2, 1, b"f")
        assert reply.entry.attr.size == 77
        with pytest.raises(FsError) as error:
            await world.mutate(a, 1, 0, meta.Commit(ino=made.ino, extents=(), size=78))
        assert error.value.errno == errno.ESTALE

    run(test)


def test_a_listing_recalls_a_written_file_of_two_names_once():
    async def test(world, a, b):
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f", lease=7))
        await world.mutate(a, 1, 0, meta.Link(ino=made.ino, parent=1, name=b"g"))
        for _ in range(2):
            await world.mutate(a, 1, 0, meta.Acquire(ino=made.ino))
            request = meta.ReadDir(shard=0, session=2, ino=1, cookie=0, limit=10)
            reply = await world.ask(b, "meta.readdir", request)
            assert [e.ino for e in reply.entries] == [made.ino] * 2
        assert [r.leases for r in a.recalls] == [(Held(made.ino, Lease.READ),)] * 2

    run(test)


def test_a_silent_client_loses_its_session_but_no_sooner_than_its_trust_ends():
    async def test(world, a, b):
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f", lease=7))
        a.closed.set()
        before = trio.current_time()
        reply = await world.lookup(b, 2, 1, b"f")
        assert reply.entry.ino == made.ino
        assert 2.9 < trio.current_time() - before < 5
        with pytest.raises((SessionExpired, Unavailable)):
            await world.mutate(a, 1, 0, meta.Commit(ino=made.ino, extents=(), size=1))

    run(test)


def test_the_same_number_takes_effect_once_in_any_order():
    async def test(world, a, _b):
        second = await world.mutate(a, 1, 0, create(1, b"two"), seq=2)
        first = await world.mutate(a, 1, 0, create(1, b"one"), seq=1)
        again = await world.mutate(a, 1, 0, create(1, b"two"), seq=2)
        assert again == second
        assert first[0].ino != second[0].ino

    run(test)


def test_operations_across_shards():
    async def test(world, a, b):
        homes = {}
        for i in range(12):
            name = b"dir%d" % i
            attrs = await world.mutate(a, 1, 0, create(1, name, stat.S_IFDIR | 0o755))
            assert stat.S_ISDIR(attrs[0].mode)
            assert attrs[1].ino == ROOT_INO
            homes.setdefault(shard_of(Ino(attrs[0].ino)), []).append((name, attrs[0].ino))
        assert len(homes) == SHARDS
        (x, d1), (y, d2) = homes[1][0], homes[2][0]
        (f, _) = await world.mutate(a, 1, 1, create(d1, b"f"))
        attrs = await world.mutate(a, 1, 2, meta.Link(ino=f.ino, parent=d2, name=b"l"))
        assert attrs[0].nlink == 2
        move = meta.Rename(parent=d1, name=b"f", new_parent=d2, new_name=b"g")
        await world.mutate(b, 2, 2, move)
        assert (await world.lookup(a, 1, d1, b"f")).entry is None
        assert (await world.lookup(a, 1, d2, b"g")).entry.ino == f.ino
        into_itself = meta.Rename(parent=1, name=x, new_parent=d2, new_name=b"x")
        await world.mutate(a, 1, 2, into_itself)
        back = meta.Rename(parent=1, name=y, new_parent=d1, new_name=b"y")
        with pytest.raises(FsError) as error:
            await world.mutate(a, 1, 1, back)
        assert error.value.errno == errno.EINVAL
        with pytest.raises(FsError) as error:
            await world.mutate(a, 1, 0, meta.Rmdir(parent=1, name=y))
        assert error.value.errno == errno.ENOTEMPTY
        for name in (b"g", b"l"):
            attrs = await world.mutate(a, 1, 2, meta.Unlink(parent=d2, name=name))
        assert attrs[0].nlink == 0
        await world.mutate(a, 1, 2, meta.Rmdir(parent=d2, name=b"x"))
        await world.mutate(a, 1, 0, meta.Rmdir(parent=1, name=y))
        await trio.sleep(10)
        for group in world.groups.values():
            assert not list(group.state.scan(b"t", b"u")), "every transaction is forgotten"
            assert not list(group.state.scan(b"l", b"m")), "no lock is left"
            assert not list(group.state.scan(b"o", b"p")), "orphans are reclaimed"

    run(test)


def test_an_orphan_lives_while_it_is_open():
    async def test(world, a, b):
        (made, _) = await world.mutate(a, 1, 0, create(1, b"f"))
        request = meta.GetAttr(shard=0, session=2, ino=made.ino, lease=Lease.OPEN)
        await world.ask(b, "meta.getattr", request)
        await world.mutate(a, 1, 0, meta.Unlink(parent=1, name=b"f"))
        await trio.sleep(10)
        for _ in range(3):
            renew = meta.Renew(session=2, shards=(0,))
            await world.ask(b, "meta.renew", renew)
        assert (await world.ask(b, "meta.getattr", request)).attr.nlink == 0
        drop = (Held(made.ino, Lease.OPEN),)
        await world.ask(b, "meta.renew", meta.Renew(session=2, shards=(0,), drop=drop))
        await trio.sleep(1)
        with pytest.raises(FsError):
            await world.ask(b, "meta.getattr", request)

    run(test)


def test_rival_renames_across_shards_both_end():
    async def test(world, a, b):
        d = {}
        for i in range(40):
            attrs = await world.mutate(a, 1, 0, create(1, b"d%d" % i, stat.S_IFDIR | 0o755))
            d.setdefault(shard_of(Ino(attrs[0].ino)), attrs[0].ino)
        await world.mutate(a, 1, 1, create(d[1], b"x"))
        await world.mutate(a, 1, 2, create(d[2], b"x"))
        outcomes = []

        async def one(peer, session, shard, op):
            try:
                outcomes.append(await world.mutate(peer, session, shard, op))
            except FsError as error:
                outcomes.append(error)

        for turn in range(10):
            src, dst = (b"x", b"y") if turn % 2 == 0 else (b"y", b"x")
            async with trio.open_nursery() as nursery:
                go = meta.Rename(parent=d[1], name=src, new_parent=d[2], new_name=dst)
                come = meta.Rename(parent=d[2], name=src, new_parent=d[1], new_name=dst)
                nursery.start_soon(one, a, 1, 2, go)
                nursery.start_soon(one, b, 2, 1, come)
        assert len(outcomes) == 20
        assert not any(isinstance(o, FsError) for o in outcomes)

    run(test)


def test_an_unnamed_file_gets_its_first_name_in_another_shard():
    async def scenario(world, a, b):
        here = (await world.mutate(a, 1, 0, create(ROOT_INO, b"f")))[0]
        await world.mutate(a, 1, 0, meta.Unlink(parent=ROOT_INO, name=b"f"))
        made = meta.MakeOrphan(
            parent=ROOT_INO, mode=stat.S_IFREG | 0o600, uid=0, gid=0, lease=int(Lease.OPEN)
        )
        ino = (await world.mutate(a, 1, 0, made))[0].ino
        assert ino != here.ino
        for n in range(20):
            name = b"d%d" % n
            there = (await world.mutate(a, 1, 0, create(ROOT_INO, name, stat.S_IFDIR | 0o755)))[0]
            if shard_of(Ino(there.ino)):
                break
        shard = shard_of(Ino(there.ino))
        link = meta.Link(ino=ino, parent=there.ino, name=b"named")
        assert (await world.mutate(a, 1, shard, link))[0].nlink == 1
        drop = meta.Renew(session=1, shards=(0,), drop=(Held(ino, Lease.OPEN),))
        await world.ask(a, "meta.renew", drop)
        await trio.sleep(1)
        reply = await world.lookup(b, 2, there.ino, b"named")
        assert reply.entry.ino == ino
        attr = await world.ask(b, "meta.getattr", meta.GetAttr(shard=0, session=2, ino=ino))
        assert attr.attr.nlink == 1

    run(scenario)
