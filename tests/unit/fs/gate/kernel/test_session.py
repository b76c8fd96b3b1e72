"""The read loop against real `Files`; a socket that keeps message boundaries plays /dev/fuse."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from struct import Struct
from typing import Any

import pytest
import trio

from cfs.core.errors import Malformed
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator
from cfs.fs.gate.kernel import message, session
from cfs.fs.gate.kernel.entries import Entries
from cfs.fs.gate.kernel.flags import Init
from cfs.fs.gate.kernel.opcodes import Opcode
from cfs.fs.gate.kernel.operations import Operations
from cfs.fs.gate.kernel.session import WANTED, Session, negotiate
from tests.unit.fs.client.world import World, open_world

ENTRY = Struct("=QQQQII")
OPEN = Struct("=QII")


class Kernel:
    """The other end."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._unique = 0
        self.answers: dict[int, tuple[int, bytes]] = {}

    def send(self, opcode: int, body: bytes = b"", *, node: int = 1, pid: int = 9) -> int:
        self._unique += 2
        size = message.HEADER.size + len(body)
        self._end.send(
            message.HEADER.pack(size, opcode, self._unique, node, 0, 0, pid, 0, 0) + body
        )
        return self._unique

    def send_raw(self, data: bytes) -> None:
        self._end.send(data)

    async def answer(self, unique: int) -> tuple[int, bytes]:
        with trio.fail_after(20):
            while unique not in self.answers:
                await trio.lowlevel.wait_readable(self._end)
                data = self._end.recv(1 << 21)
                size, error, found = message.OUT.unpack_from(data)
                assert size == len(data)
                self.answers[found] = (-error, data[message.OUT.size :])
        return self.answers.pop(unique)

    async def ask(self, opcode: int, body: bytes = b"", *, node: int = 1) -> bytes:
        error, answer = await self.answer(self.send(opcode, body, node=node))
        assert not error, errno.errorcode[error]
        return answer


@contextlib.asynccontextmanager
async def serving(world: World) -> AsyncIterator[tuple[Kernel, Any]]:
    files = await world.client("a")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    ours.setblocking(False)
    inodes = Inodes()
    invalidator = Invalidator(inodes, lambda ino, only: None)
    entries = Entries(lambda parent, names: None)
    operations = Operations(files, inodes, invalidator, entries)
    served = Session(
        ours.fileno(),
        operations.table(),
        operations.landing,
        wanted=WANTED,
        agreed=operations.agreed,
    )
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            invalidator.start(nursery)
            nursery.start_soon(served.serve, nursery)
            yield Kernel(theirs), operations
            nursery.cancel_scope.cancel()


def run(scenario: Callable[[World, Kernel, Any], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_world() as world, serving(world) as (kernel, operations):
            await scenario(world, kernel, operations)

    trio.run(main)


def init(minor: int = 45, flags: int = (1 << 64) - 1) -> bytes:
    low, high = flags & 0xFFFFFFFF, flags >> 32
    return Struct("=IIIII44x").pack(7, minor, 1 << 17, low, high)


def test_init() -> None:
    body = memoryview(init())
    answer, agreed = negotiate((7, 45, 1 << 17, 0xFFFFFFFF), body[16:], WANTED)
    assert len(answer) == 64
    major, minor, readahead, flags, _, _, write_max, gran, pages, _, flags2 = Struct(
        "=IIIIHHIIHHI"
    ).unpack_from(answer)
    assert (major, minor, readahead, write_max, gran, pages) == (7, 45, 1 << 17, 1 << 20, 1, 256)
    assert flags | flags2 << 32 == agreed == WANTED
    assert not flags & Init.WRITEBACK_CACHE
    old, _ = negotiate(
        (7, 31, 1 << 17, int(Init.ASYNC_READ | Init.WRITEBACK_CACHE)), body[:0], WANTED
    )
    assert Struct("=IIII").unpack_from(old) == (7, 31, 1 << 17, Init.ASYNC_READ)
    with pytest.raises(Malformed):
        negotiate((7, 30, 0, 0), body[:0], WANTED)


def test_a_file_from_making_to_forgetting() -> None:
    async def scenario(world: World, kernel: Kernel, operations: Any) -> None:
        await kernel.ask(Opcode.INIT, init())
        made = await kernel.ask(Opcode.CREATE, Struct("=IIII").pack(2, 0o100644, 0, 0) + b"f\0")
        ino = ENTRY.unpack_from(made)[0]
        fh = OPEN.unpack_from(made, message.ENTRY_SIZE)[0]
        span = Struct("=QQIIQII")
        for number in range(4):
            body = span.pack(fh, number * 5, 5, 0, 0, 2, 0) + b"%05d" % number
            assert await kernel.ask(Opcode.WRITE, body, node=ino) == Struct("=II").pack(5, 0)
        read = span.pack(fh, 0, 4096, 0, 0, 2, 0)
        assert await kernel.ask(Opcode.READ, read, node=ino) == b"00000000010000200003"
        await kernel.ask(Opcode.FSYNC, Struct("=QII").pack(fh, 0, 0), node=ino)
        mutations = world.calls("meta.mutate", "a")
        assert await kernel.ask(Opcode.READ, read, node=ino) == b"00000000010000200003"
        handle = Struct("=QIIQ").pack(fh, 0, 0, 0)
        await kernel.ask(Opcode.FLUSH, handle, node=ino)
        await kernel.ask(Opcode.RELEASE, handle, node=ino)
        found = await kernel.ask(Opcode.LOOKUP, b"f\0")
        assert ENTRY.unpack_from(found)[0] == ino
        assert world.calls("meta.mutate", "a") == mutations
        kernel.send(Opcode.BATCH_FORGET, Struct("=II").pack(1, 0) + Struct("=QQ").pack(ino, 2))
        absent = await kernel.ask(Opcode.LOOKUP, b"g\0")  # under a lease: for some time
        assert ENTRY.unpack_from(absent)[:3] == (0, 0, 1)
        assert not operations.inodes.known(ino)

    run(scenario)


def test_an_inode_that_went_after_its_name_was_looked_up_is_stale() -> None:
    async def scenario(_world: World, kernel: Kernel, _operations: Any) -> None:
        await kernel.ask(Opcode.INIT, init())
        for opcode, error in ((Opcode.OPEN, errno.ESTALE), (Opcode.GETATTR, errno.ENOENT)):
            asked = kernel.send(opcode, bytes(16), node=4711)
            assert (await kernel.answer(asked))[0] == error

    run(scenario)


def test_listing_in_small_pages() -> None:
    async def scenario(_world: World, kernel: Kernel, operations: Any) -> None:
        names = {b"name%04d" % number for number in range(300)}
        for name in names:
            await operations.files.mknod(1, name, 0o644)
        for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
            fh = OPEN.unpack(await kernel.ask(Opcode.OPENDIR, bytes(8)))[0]
            found: list[bytes] = []
            cookie = 0
            while page := await kernel.ask(
                opcode, Struct("=QQIIQII").pack(fh, cookie, 1000, 0, 0, 0, 0)
            ):
                assert len(page) <= 1000
                at = 0
                while at < len(page):
                    at += message.ENTRY_SIZE if opcode == Opcode.READDIRPLUS else 0
                    _, cookie, length, _ = Struct("=QQII").unpack_from(page, at)
                    found.append(page[at + 24 : at + 24 + length])
                    at += (24 + length + 7) & ~7
            assert len(found) == len(set(found))
            assert set(found) == names | {b".", b".."}
            await kernel.ask(Opcode.RELEASEDIR, Struct("=QIIQ").pack(fh, 0, 0, 0))

    run(scenario)


def test_whatever_is_sent_the_next_request_is_answered() -> None:
    async def scenario(_world: World, kernel: Kernel, _operations: Any) -> None:
        chance = random.Random(20261124)
        # one shard only: no inode of another one may be named
        apart = {Opcode.INIT, Opcode.LINK, Opcode.RENAME, Opcode.RENAME2}
        harmless = [code for code in map(int, Opcode) if code not in apart]
        for _ in range(2_000):
            opcode = chance.choice([*harmless, 0, 7, 4096])
            body = chance.randbytes(chance.choice((0, 1, 8, 16, 40, 88, 130)))
            node = chance.choice((1, 1, 0, 2))
            kernel.send(opcode, body + chance.choice((b"", b"\0", b"\0\0")), node=node)
            if chance.random() < 0.2:
                kernel.send_raw(chance.randbytes(chance.randrange(1, 60)))
            if chance.random() < 0.1:
                await trio.lowlevel.checkpoint()
                await kernel.ask(Opcode.STATFS)
        assert (await kernel.answer(kernel.send(4242)))[0] == errno.ENOSYS
        assert await kernel.ask(Opcode.GETATTR, bytes(16))

    run(scenario)


def test_a_request_is_given_up_when_its_caller_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "INTERRUPT_S", 0.05)
    caller = subprocess.Popen(["sleep", "60"])

    async def scenario(world: World, kernel: Kernel, _operations: Any) -> None:
        await kernel.ask(Opcode.GETATTR, bytes(16))
        world.silent |= {1, 2}  # no metadata node answers
        body = Struct("=II").pack(0o755, 0)
        waiting = [
            kernel.send(Opcode.MKDIR, body + b"d\0", pid=os.getpid()),
            kernel.send(Opcode.MKDIR, body + b"e\0", pid=caller.pid),
        ]
        for unique in waiting:
            kernel.send(Opcode.INTERRUPT, Struct("=Q").pack(unique))
        with trio.move_on_after(0.3):
            await kernel.answer(waiting[1])
        assert not kernel.answers, "a signal alone ends nothing"
        caller.kill()
        caller.wait()
        assert await kernel.answer(waiting[1]) == (errno.EINTR, b"")
        assert not kernel.answers
        world.silent.clear()
        assert (await kernel.answer(waiting[0]))[0] == 0
        assert await kernel.ask(Opcode.STATFS)

    try:
        run(scenario)
    finally:
        caller.kill()
        caller.wait()
