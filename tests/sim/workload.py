"""What the clients do: names in directories of several shards, files small and large, swaps, locks.

Every client works through `Files` in its own process; each operation and its answer go into the
history. Objects: `tree` (all names), `file N` (bytes of files that stay where they are), `swap N`
(a name whose file is replaced by rename). Locks are checked by the intervals in which they were
surely held.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections import Counter
from typing import Any

import trio

from cfs.core.errors import CfsError, FsError, Unavailable
from cfs.fs.client.ahead import SPREAD_XATTR
from cfs.fs.client.files import Files
from cfs.fs.meta.plan import home_of_directory
from tests.sim.history import History, Op

NAMES = (b"a", b"b", b"c", b"d")
ROOT = 1
LATE_S = 8.0
"""How long a client may work on to do all it owes."""
WATCHED_A_SECOND = 6.0
"""What a process that only reads reads."""
HELD_S = 6.0
"""How long a lock is held at most: longer than a session lives without its client."""
END = (1 << 63) - 1
EXPECTED = frozenset({
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL,
    errno.EPERM,
})  # fmt: skip
TREE_OPS = {
    "create": 6, "mkdir": 3, "symlink": 1, "unlink": 4, "rmdir": 2, "rename": 6, "link": 2,
    "lookup": 7, "list": 3, "syncdir": 1,
}  # fmt: skip
ON_PRESENT = frozenset({"unlink", "rename", "rmdir", "lookup"})
FILE_OPS = {"write": 5, "append": 2, "truncate": 1, "read": 6, "sync": 2}


class Plan:
    """How much of what; drawn from the seed."""

    def __init__(self, chance: random.Random) -> None:
        self.tree = chance.choice((0, 2, 4))
        self.file = chance.choice((1, 3, 5))
        self.swap = chance.choice((0, 1, 2))
        self.lock = chance.choice((0, 0, 1))
        if not (self.tree or self.lock):
            self.tree = 2
        self.files = chance.choice((2, 3, 5))
        self.bases = chance.choice((1, 2, 3))
        self.spread = chance.choice((0, 0, 1, 2))
        """Bases whose new directories lie in any shard."""
        self.names = chance.choice((2, 3, 4))
        self.workers = chance.choice((1, 1, 2, 3))
        """Processes that work at once on each client."""
        self.rate = 30.0
        """Operations a second and client, in bursts."""
        self.large = chance.choice((0.0, 0.1, 0.3))
        """Share of writes of tens to hundreds of KiB."""
        self.same = chance.choice((0.0, 0.2, 0.6))
        """Share of those that are of what others write too."""
        self.pool = [chance.randbytes(size) for size in (70_000, 90_000, 150_000)]
        self.readers = 0
        """Processes on each client that only read: from its caches, where these count."""
        self.holds = 0.0
        """Share of locks that are held for seconds."""

    def widen(self, chance: random.Random) -> None:
        """Draw what a run may have besides."""
        self.readers = chance.choice((0, 0, 0, 2))
        self.holds = chance.choice((0.0, 0.0, 0.1, 0.3))


class World:
    """What the clients of a run share."""

    def __init__(self, history: History, plan: Plan, shards: int) -> None:
        self.history = history
        self.plan = plan
        self.bases: list[int] = []
        self.base_names = [name_in(n % shards, shards, b"base%d" % n) for n in range(plan.bases)]
        self.files: list[int] = []
        self.swap_dir = 0
        self.lock_files: list[int] = []
        self.present: dict[tuple[int, bytes], None] = {}
        """Names that were there lately: what is worth changing by several at once."""
        self.stop_at = 0.0
        self.left: Counter[str] = Counter()
        """Operations that a client still owes."""
        self.held: list[tuple[int, str, float, float]] = []
        """(lock file, client, from, until): surely held."""

    def goes_on(self, client: str) -> bool:
        """Tell whether a client works on: to the end of the time, and until it did enough."""
        now = trio.current_time()
        return now < self.stop_at or (self.left[client] > 0 and now < self.stop_at + LATE_S)

    def noted(self, op: Op) -> None:
        """Learn from an answer which names are there."""
        if op.object != "tree" or op.result is None or op.kind in {"lookup", "list"}:
            return
        args = op.args[1:] if op.kind == "link" else op.args
        if op.result[0] == "ok":
            self.present.pop(args[:2], None)
            if op.kind not in {"unlink", "rmdir"}:
                self.present[args[-2:]] = None
        elif op.result[1] == errno.ENOENT:
            self.present.pop(args[:2], None)

    async def prepare(self, files: Files) -> None:
        """Make what is always there; durable on return."""
        for n, name in enumerate(self.base_names):
            attr = await files.mkdir(ROOT, name, 0o755)
            self.bases.append(attr.ino)
            if n < self.plan.spread:
                await files.setxattr(attr.ino, SPREAD_XATTR, b"1")
        holder = await files.mkdir(ROOT, b"files", 0o755)
        for n in range(self.plan.files):
            attr = await files.mknod(holder.ino, b"f%d" % n, stat.S_IFREG | 0o644)
            self.files.append(attr.ino)
        for n in range(2):
            attr = await files.mknod(holder.ino, b"lock%d" % n, stat.S_IFREG | 0o644)
            self.lock_files.append(attr.ino)
        self.swap_dir = (await files.mkdir(ROOT, b"swap", 0o755)).ino
        for n in range(2):
            fh, _ = await files.create_file(self.swap_dir, b"s%d" % n, 0o644, os.O_WRONLY)
            await files.release(fh)
        await files.sync()


def name_in(shard: int, shards: int, stem: bytes) -> bytes:
    """Give a name for a directory of the root that lies in this shard."""
    names = (b"%s.%d" % (stem, n) for n in range(1000))
    return next(n for n in names if home_of_directory(ROOT, n, shards, spread=False) == shard)


class Worker:
    """A process that works in one life of one client; `number`: which of those at once."""

    def __init__(
        self, world: World, files: Files, name: str, chance: random.Random, number: int = 0
    ) -> None:
        self.world = world
        self.history = world.history
        self.files = files
        self.name = name
        self.client = name.partition(".")[0]
        self.chance = chance
        self.directories: list[int] = []
        """Inodes of directories it made or met."""
        self.known: list[int] = []
        """Inodes of files it met."""
        self.count = number << 32
        self.number = number
        files.client.on_expired.append(lambda _shard: self.history.lost(self.name))

    async def run(self) -> None:
        """Work until the run stops, then commit everything."""
        world, plan = self.world, self.world.plan
        kinds = ["tree", "file", "swap", "lock"]
        weights = [plan.tree, plan.file, plan.swap, plan.lock]
        while world.goes_on(self.client):
            kind = self.chance.choices(kinds, weights)[0]
            await getattr(self, kind)()
            world.left[self.client] -= 1
            pause = self.chance.random() < 0.3 and trio.current_time() < world.stop_at
            await trio.sleep(self.chance.expovariate(0.3 * plan.rate) if pause else 0)

    async def watch(self, number: int) -> None:
        """Read one file, and one name, until the run stops.

        Only this: what its client has of them may be all that it can have, for as long as it may.
        """
        world, chance = self.world, self.chance
        number %= len(world.files)
        ino = world.files[number]
        parent, name = chance.choice(world.bases), self._name()
        while trio.current_time() < world.stop_at:
            if not world.plan.tree or chance.random() < 0.6:
                await self.did(f"file {number}", "read", (), lambda: self._read(ino))
            else:
                await self._lookup(parent, name)
            await trio.sleep(chance.expovariate(WATCHED_A_SECOND))

    async def finish(self) -> None:
        """Commit everything; what cannot be is said to be lost."""
        history = self.history
        keys = [key for key in history._open if key[0] == self.name]
        marked = [op for key in keys for op in history.unsynced(*key)]
        try:
            await self.files.sync()
        except CfsError as error:
            self._may_have_lost(error)
        else:
            history.synced(self.name, marked)

    def _may_have_lost(self, error: CfsError, object_: str | None = None) -> None:
        """Note what a failed sync says: EIO tells of a loss; else it is all still to be written."""
        if error.errno == errno.EIO:
            self.history.lost(self.name, object_)

    async def did(self, object_: str, kind: str, args: tuple[Any, ...], call: Any) -> Op:
        """Do one operation and note its answer."""
        op = self.history.begin(self.name, object_, kind, *args)
        try:
            value = await call()
        except FsError as error:
            expected = error.errno in EXPECTED
            self.history.end(op, ("error", error.errno) if expected else None)
            if error.errno == errno.EIO:
                self.history.lost(self.name, object_)
        except CfsError:
            self.history.end(op, None)
        else:
            self.history.end(op, ("ok", value))
        self.world.noted(op)
        return op

    # --- names

    def _parent(self) -> int:
        bases = self.world.bases
        if self.directories and self.chance.random() < 0.3:
            return self.chance.choice(self.directories[-4:])
        return self.chance.choice(bases)

    def _target(self, parent: int) -> int:
        """Choose where to rename to: rather elsewhere, which may be another shard."""
        others = [base for base in self.world.bases if base != parent]
        return (
            self.chance.choice(others) if others and self.chance.random() < 0.6 else self._parent()
        )

    def _name(self) -> bytes:
        return NAMES[self.chance.randrange(self.world.plan.names)]

    async def tree(self) -> None:
        kind = self.chance.choices(list(TREE_OPS), list(TREE_OPS.values()))[0]
        parent, name, files = self._parent(), self._name(), self.files
        present = list(self.world.present)[-8:]
        if kind in ON_PRESENT and present and self.chance.random() < 0.6:
            parent, name = self.chance.choice(present)
        match kind:
            case "create":
                await self._made(kind, parent, name, lambda: files.mknod(
                    parent, name, stat.S_IFREG | 0o644))  # fmt: skip
            case "mkdir":
                op = await self._made(kind, parent, name, lambda: files.mkdir(parent, name, 0o755))
                if op.result is not None and op.result[0] == "ok":
                    self.directories.append(op.result[1])
            case "symlink":
                await self._made(kind, parent, name, lambda: files.symlink(parent, name, b"x"))
            case "unlink" | "rmdir":
                remove = getattr(files, kind)
                await self.did("tree", kind, (parent, name), lambda: remove(parent, name))
            case "rename":
                to, new = self._target(parent), self._name()
                await self.did("tree", kind, (parent, name, to, new),
                               lambda: files.rename(parent, name, to, new))  # fmt: skip
            case "link":
                await self._link(parent, name)
            case "lookup":
                await self._lookup(parent, name)
            case "list":
                await self.did("tree", "list", (parent,), lambda: self._listed(parent))
            case "syncdir":
                await self._sync_directory(parent)

    async def _made(self, kind: str, parent: int, name: bytes, call: Any) -> Op:
        async def made() -> int:
            return (await call()).ino

        op = await self.did("tree", kind, (parent, name), made)
        if kind == "create" and op.result is not None and op.result[0] == "ok":
            self.known.append(op.result[1])
        return op

    async def _link(self, parent: int, name: bytes) -> None:
        if self.known:
            ino = self.chance.choice(self.known[-4:])

            async def linked() -> None:
                await self.files.link(ino, parent, name)

            await self.did("tree", "link", (ino, parent, name), linked)

    async def _lookup(self, parent: int, name: bytes) -> None:
        async def looked() -> tuple[str, int, int]:
            attr = await self.files.lookup(parent, name)
            kind = "d" if stat.S_ISDIR(attr.mode) else "l" if stat.S_ISLNK(attr.mode) else "f"
            if kind == "d":
                self.directories.append(attr.ino)
            elif kind == "f":
                self.known.append(attr.ino)
            return kind, attr.ino, attr.nlink

        await self.did("tree", "lookup", (parent, name), looked)

    async def _listed(self, ino: int) -> tuple[tuple[bytes, str], ...]:
        """List a directory at one moment. Raises Unavailable: it came in pieces, as it may."""
        for _ in range(5):
            entries, pieces = await self._pages(ino)
            if pieces <= 1:
                break
        else:
            raise Unavailable("listed in pieces")
        kinds = {stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFREG: "f"}
        return tuple(sorted((e.name, kinds[e.kind]) for e in entries))

    async def _pages(self, ino: int) -> tuple[list[Any], int]:
        files = self.files
        handle = await files.opendir(ino)
        entries: list[Any] = []
        pieces = 0
        try:
            while page := await files.readdir(handle, entries[-1].cookie if entries else 0):
                entries.extend(page)
                pieces += 1
        finally:
            await files.releasedir(handle)
        return entries, pieces

    async def _sync_directory(self, parent: int) -> None:
        marked = self.history.unsynced(self.name, "tree")
        own = [op for op in marked if parent in op.args]
        last = max((op.invoke for op in own), default=0.0)
        covered = own + [op for op in marked if op.ret <= last]
        try:
            handle = await self.files.opendir(parent)
        except CfsError:
            return
        try:
            await self.files.fsyncdir(handle)
        except CfsError as error:
            self._may_have_lost(error, "tree")
        else:
            if covered:
                self.history.synced(self.name, covered)
        finally:
            await self.files.releasedir(handle)

    # --- bytes

    def _bytes(self) -> bytes:
        self.count += 1
        size = self.chance.choice((1, 60, 700, 5000, 20_000))
        if self.chance.random() < self.world.plan.large:
            if self.chance.random() < self.world.plan.same:
                return self.chance.choice(self.world.plan.pool)
            size = self.chance.choice((70_000, 150_000, 300_000))
        if self.chance.random() < 0.3:
            return (b"%s.%d " % (self.name.encode(), self.count) * (size // 8 + 1))[:size]
        return self.chance.randbytes(size)

    async def file(self) -> None:
        number = self.chance.randrange(len(self.world.files))
        ino, object_ = self.world.files[number], f"file {number}"
        kind = self.chance.choices(list(FILE_OPS), list(FILE_OPS.values()))[0]
        if kind == "read":
            await self.did(object_, "read", (), lambda: self._read(ino))
        elif kind == "truncate":
            size = self.chance.choice((0, 0, 100, 6000))

            async def cut() -> None:
                await self.files.setattr(ino, size=size)

            await self.did(object_, "truncate", (size,), cut)
        else:
            await self._write(ino, object_, kind)

    async def _write(self, ino: int, object_: str, kind: str) -> None:
        files = self.files
        flags = os.O_WRONLY | (os.O_APPEND if kind == "append" else 0)
        try:
            fh = await files.open(ino, flags)
        except CfsError:
            return
        try:
            if kind != "sync":
                data = self._bytes()
                offset = 0 if self.chance.random() < 0.5 else self.chance.choice((10, 4096, 9000))
                args = (data,) if kind == "append" else (offset, data)

                async def written() -> None:
                    assert await files.write(fh, offset, data) == len(data)

                await self.did(object_, kind, args, written)
            if kind == "sync" or self.chance.random() < 0.3:
                await self._sync_file(fh, object_)
        finally:
            with trio.CancelScope(shield=False):
                await files.release(fh)

    async def _sync_file(self, fh: int, object_: str) -> bool:
        marked = self.history.unsynced(self.name, object_)
        try:
            await self.files.fsync(fh)
        except CfsError as error:
            self._may_have_lost(error, object_)
            return False
        self.history.synced(self.name, marked)
        self.history.trace.counts["fsync acknowledged"] += 1
        return True

    async def _read(self, ino: int) -> bytes:
        fh = await self.files.open(ino, os.O_RDONLY)
        try:
            return await self.files.read(fh, 0, 1 << 26)
        finally:
            await self.files.release(fh)

    # --- replacing by rename

    async def swap(self) -> None:
        number = self.chance.randrange(2)
        name, object_ = b"s%d" % number, f"swap {number}"
        if self.chance.random() < 0.5:
            await self.did(object_, "read", (), lambda: self._read_name(name))
            return
        data = self._bytes()
        self.count += 1
        temporary = b"%s.%d" % (self.name.encode(), self.count)
        sync = self.chance.random() < 0.4
        kept: list[int] = []

        async def replaced() -> None:
            files = self.files
            fh, _ = await files.create_file(self.world.swap_dir, temporary, 0o644, os.O_WRONLY)
            try:
                await files.write(fh, 0, data)
                await files.rename(self.world.swap_dir, temporary, self.world.swap_dir, name)
                if sync:
                    await files.fsync(fh)
                    kept.append(fh)
            finally:
                await files.release(fh)

        op = await self.did(object_, "replace", (data,), replaced)
        if kept and op.result is not None:
            before = self.history.unsynced(self.name, object_)
            self.history.synced(self.name, [op, *(o for o in before if o.ret <= op.invoke)])

    async def _read_name(self, name: bytes) -> bytes:
        for _ in range(50):
            attr = await self.files.lookup(self.world.swap_dir, name)
            try:
                return await self._read(attr.ino)
            except FsError as error:
                if error.errno != errno.ENOENT:
                    raise
        raise FsError(errno.EIO, "replaced too often to be read")

    # --- locks

    async def lock(self) -> None:
        """Hold an exclusive lock for a while, and note for how long that was sure."""
        files, chance = self.files, self.chance
        number = chance.randrange(len(self.world.lock_files))
        ino, flock = self.world.lock_files[number], number == 1
        owner = self.count = self.count + 1
        shard = files.client.cache.node(ino).shard
        counts = self.history.trace.counts
        try:
            with trio.move_on_after(3) as scope:
                wait = chance.random() < 0.7
                await files.setlk(ino, owner, 0, END, 1, owner, wait=wait, flock=flock)
        except CfsError:
            counts["lock refused"] += 1
            return
        if scope.cancelled_caught:
            return
        counts["lock taken"] += 1
        began = until = trio.current_time()
        long = self.world.plan.holds and chance.random() < self.world.plan.holds
        over = began + (HELD_S * chance.random() if long else 0.0)
        for turn in range(1000 if long else chance.randrange(1, 6)):
            if not files.client.session.trusted(shard) or not files.holds_locks(ino):
                break
            until = trio.current_time()
            if turn and long and (until > over or until > self.world.stop_at):
                break
            await trio.sleep(0.02 * chance.random())
        counts["lock held for seconds"] += until - began > 1
        self.world.held.append((ino, f"{self.name}/{self.number}", began, until))
        try:
            await files.setlk(ino, owner, 0, END, 2, owner, wait=False, flock=flock)
        except CfsError:
            counts["unlock failed"] += 1
