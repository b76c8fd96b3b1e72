"""One simulated cluster with the fixed tree on it, booted once; a client that waits for a case.

Three metadata nodes, three storage nodes, two shards. The layouts' directories are top-level names
chosen so that *near* has both in one shard and *far* in two. The client has made and removed names
in the near ones: they are delegated to it.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import Counter
from typing import Any

import trio

from cfs.core.ids import Ino, shard_of
from cfs.fs.client.files import Files
from tests.crash import points
from tests.crash.table import BAR, FOO, Op, data_of
from tests.sim.cluster import Cluster, Shape
from tests.sim.trace import Trace

ROOT = 1
QUIET_S = 3.0
SHAPE = Shape(metas=3, storages=3, clients=1, shards=2, groups=4)
CLIENT, READER = "client1", "reader"


class Stem:
    """The cluster, the places of the layouts, and the client's work."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.trace = Trace(clock)
        self.cluster = Cluster(seed="crash", shape=SHAPE, clock=clock, trace=self.trace)
        self.places: dict[str, dict[str, bytes]] = {}
        self.given = trio.Event()
        self.prepared = trio.Event()
        self.go = trio.Event()
        self.finished = trio.Event()
        self.layout = ""
        self.before: tuple[Op, ...] = ()
        self.ops: tuple[Op, ...] = ()
        self.begun = 0
        self.acked = 0
        self.files: Files
        self.sent: Counter[str] = Counter()
        """Bytes sent, by who sent them."""
        network = self.cluster.network
        plain = network.sent

        def sent(pipe: Any, piece: bytes) -> None:
            self.sent[pipe.source] += len(piece)
            plain(pipe, piece)

        network.sent = sent  # type: ignore[method-assign]

    async def boot(self, nursery: trio.Nursery) -> None:
        """Make all of it; on return nothing is under way."""
        await self.cluster.make(nursery)
        await self.cluster.client(self.cluster.new_client("operator"), self._prepare)
        machine = self.cluster.new_client(CLIENT)
        waiting = trio.Event()

        async def work(files: Files, _life: Any) -> None:
            self.files = files
            await self._warm(files)
            waiting.set()
            await self._work(files)

        nursery.start_soon(self.cluster.client, machine, work)
        await waiting.wait()
        await self.quiet()
        assert not machine.failures, machine.failures

    @staticmethod
    async def quiet() -> None:
        """Wait until nothing has become durable for a while: nothing is under way."""
        with trio.fail_after(120):
            before = -1
            while before != points.count:
                before = points.count
                await trio.sleep(QUIET_S)

    async def _prepare(self, files: Files, _life: Any) -> None:
        homes: dict[int, list[bytes]] = {0: [], 1: []}
        for number in itertools.count():
            name = b"t%d" % number
            shard = shard_of(Ino((await files.mkdir(ROOT, name, 0o755)).ino))
            homes[shard].append(name)
            if len(homes[0]) > 2 and homes[1]:
                break
        self.places = {
            "near": {"A": homes[0][0], "B": homes[0][1]},
            "far": {"A": homes[0][2], "B": homes[1][0]},
        }
        for place in self.places.values():
            await files.write_file(b"/%s/foo" % place["A"], FOO)
            await files.write_file(b"/%s/bar" % place["A"], BAR)
            foo = await files.walk(b"/%s/foo" % place["A"])
            await files.link(foo.ino, (await files.walk(b"/" + place["B"])).ino, b"hard")
        await files.sync()
        await files.close()

    async def _warm(self, files: Files) -> None:
        for side in ("A", "B"):
            path = b"/%s/warm" % self.places["near"][side]
            for _ in range(3):
                await files.write_file(path, b"warm")
                parent = await files.walk(path.rpartition(b"/")[0])
                await files.unlink(parent.ino, b"warm")
        await files.sync()

    async def _work(self, files: Files) -> None:
        await self.given.wait()
        for number, op in enumerate(self.before):
            await self.operate(files, number, op)
        await files.sync()
        self.prepared.set()
        await self.go.wait()
        for number, op in enumerate(self.ops):
            self.begun = number + 1
            self.trace.line(f"client begins {op}")
            await self.operate(files, number, op)
            self.acked = number + 1
            self.trace.line(f"client has done {op}")
        self.finished.set()
        await trio.sleep_forever()

    # --- operations

    def path(self, path: str) -> bytes:
        side, slash, rest = path.partition("/")
        return b"/" + self.places[self.layout].get(side, side.encode()) + (slash + rest).encode()

    async def _parent(self, files: Files, path: str) -> tuple[int, bytes]:
        above, _, name = self.path(path).rpartition(b"/")
        return (await files.walk(above or b"/")).ino, name

    async def operate(self, files: Files, number: int, op: Op) -> None:
        """Do one operation as a program would, with paths and handles."""
        args: Any = op.args
        match op.kind:
            case "create":
                fh, _ = await files.create_file(
                    *await self._parent(files, args[0]), 0o644, os.O_WRONLY | os.O_EXCL
                )
                await files.release(fh)
            case "mkdir":
                await files.mkdir(*await self._parent(files, args[0]), 0o755)
            case "symlink":
                await files.symlink(*await self._parent(files, args[0]), b"x")
            case "unlink" | "rmdir":
                await getattr(files, op.kind)(*await self._parent(files, args[0]))
            case "link":
                attr = await files.walk(self.path(args[0]))
                await files.link(attr.ino, *await self._parent(files, args[1]))
            case "rename":
                old = await self._parent(files, args[0])
                await files.rename(*old, *await self._parent(files, args[1]))
            case "truncate":
                attr = await files.walk(self.path(args[0]))
                await files.setattr(attr.ino, size=args[1])
            case "sync":
                await files.sync()
            case "fsyncdir":
                handle = await files.opendir((await files.walk(self.path(args[0]))).ino)
                await files.fsyncdir(handle)
                await files.releasedir(handle)
            case _:
                await self._on_open_file(files, number, op)

    async def _on_open_file(self, files: Files, number: int, op: Op) -> None:
        args: Any = op.args
        flags = os.O_RDWR | (os.O_APPEND if op.kind == "append" else 0)
        fh = await files.open((await files.walk(self.path(args[0]))).ino, flags)
        try:
            match op.kind:
                case "write" | "overwrite":
                    await files.write(fh, args[1], data_of(number, args[2]))
                case "append":
                    await files.write(fh, 0, data_of(number, args[1]))
                case "fallocate":
                    await files.fallocate(fh, *args[1:])
                case "fsync" | "fdatasync":
                    await files.fsync(fh, datasync=op.kind == "fdatasync")
                case _:
                    raise AssertionError(op)
            await files.flush(fh)
        finally:
            await files.release(fh)

    # --- looking

    async def look(self, files: Files) -> tuple[dict[str, tuple[str, str, int]], dict[str, bytes]]:
        """Give what is there now: see `tests.crash.model`."""
        names: dict[str, tuple[str, int, int]] = {}
        data: dict[str, bytes] = {}
        top = {name: side for side, name in self.places[self.layout].items()}
        pending = [("", b"/")]
        while pending:
            above, where = pending.pop()
            for entry in await files.list_directory(where):
                name = entry.name
                if name in (b".", b"..") or (not above and name not in top):
                    continue
                path = f"{above}/{name.decode()}" if above else top[name]
                place = where.rstrip(b"/") + b"/" + name
                attr = await files.lookup((await files.walk(where)).ino, name)
                kind = {stat.S_IFDIR: "d", stat.S_IFLNK: "l"}.get(stat.S_IFMT(attr.mode), "f")
                names[path] = kind, attr.ino, attr.nlink if kind == "f" else 0
                if kind == "d":
                    pending.append((path, place))
                elif kind == "f":
                    data[path] = await files.read_file(place)
                    if len(data[path]) != attr.size:
                        raise AssertionError(f"{path}: size {attr.size}, {len(data[path])} bytes")
                elif await files.readlink(attr.ino) != b"x":
                    raise AssertionError(f"{path} leads elsewhere")
        first: dict[int, str] = {}
        for path, (_, ino, _) in sorted(names.items()):
            first.setdefault(ino, path)
        return {p: (kind, first[ino], links) for p, (kind, ino, links) in names.items()}, data
