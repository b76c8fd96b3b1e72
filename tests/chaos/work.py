"""What applications do on the mounts, one thread for each mount and kind of work.

register  one value in place; append  lines at the end; set  files made, directories listed;
swap  a file replaced by rename; lock  flock held a while; bank  money moved between files under a
lock (not while clients are cut off or stopped: a lock that is lost then is told, but not before the
next operation on its file, and what was begun under it may come late).

An error says nothing about the operation; EIO also that earlier ones may be lost. Every thread
goes on with the next life of its mount when one ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.journal import Journal
from tests.chaos.machines import CFS, Client
from tests.chaos.wires import sh
from tests.sim.history import Op

KINDS = ("register", "append", "set", "swap", "lock", "bank")
ACCOUNTS, START = 4, 100
PAUSE_S = 0.08
REGISTER_BYTES = 64
CLONE_FILES = 0x400


class Over(Exception):
    """The run is over."""


def own_files() -> None:
    """Give the calling thread open files of its own.

    A program started by another thread would else inherit them, and wait, before it begins, until
    the mount has answered their closing: with it the very command that mends a link. What was open
    is closed here: the pipe of a program that was just being started would never end.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_FILES):
        raise OSError(ctypes.get_errno(), "unshare")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


class Work:
    """The threads of one run."""

    def __init__(self, clients: list[Client], journal: Journal, kinds: tuple[str, ...], seed: int):
        self._journal = journal
        self._kinds = kinds
        self._over = threading.Event()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(kind, client, random.Random(f"{seed}/{client.name}/{kind}")),
                name=f"{client.name} {kind}",
                daemon=True,
            )
            for client in clients
            for kind in kinds
        ]
        self._prepare(clients[0].mount)

    def _prepare(self, mount: Path) -> None:
        """Make what every kind of work needs; durable on return."""
        top = mount / "chaos"
        top.mkdir()
        for kind in self._kinds:
            (top / kind).mkdir()
        for name in ("register/value", "append/lines", "lock/lock", "bank/lock", "swap/value"):
            if name.partition("/")[0] in self._kinds:
                (top / name).touch()
        if "bank" in self._kinds:
            for number in range(ACCOUNTS):
                (top / f"bank/{number}").write_bytes(b"%08d" % START)
        sh(*CFS, "sync", top)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """End all threads; those that do not are failures: nothing may hang for ever."""
        self._over.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.failures.append(f"{thread.name} hangs after everything was healed")

    def _run(self, kind: str, client: Client, chance: random.Random) -> None:
        own_files()
        with contextlib.suppress(Over):
            while True:
                while not client.ready.wait(0.2):
                    self._check()
                self._check()
                worker = Worker(self._journal, client, chance, self._check)
                try:
                    with worker.opened(kind):
                        getattr(worker, kind)()
                except OSError as error:
                    name = errno.errorcode.get(error.errno or 0, "?")
                    self._journal.errors[f"{kind} {worker.doing} {name}"] += 1
                    time.sleep(0.3)
                except Over:
                    raise
                except Exception as error:
                    self.failures.append(f"{client.name} {kind}: {error!r}")
                    raise Over from error

    def _check(self) -> None:
        if self._over.is_set():
            raise Over


class Worker:
    """One kind of work on one life of a mount; ends with an error or with the run."""

    def __init__(
        self, journal: Journal, client: Client, chance: random.Random, check: Callable[[], None]
    ):
        self.journal = journal
        self.life = client.life
        self.base = client.mount / "chaos"
        self.chance = chance
        self._check = check
        self.fd = -1
        self.count = 0
        self.doing = "open"

    @contextlib.contextmanager
    def opened(self, kind: str) -> Iterator[None]:
        """Keep the file, or directory, of the work open: a loss is told once to each open file."""
        name, flags = {
            "register": ("register/value", os.O_RDWR),
            "append": ("append/lines", os.O_RDWR | os.O_APPEND),
            "set": ("set", os.O_RDONLY), "swap": ("swap", os.O_RDONLY),
            "lock": ("lock/lock", os.O_RDWR), "bank": ("bank/lock", os.O_RDWR),
        }[kind]  # fmt: skip
        self.fd = os.open(self.base / name, flags)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.close(self.fd)

    def pause(self) -> None:
        time.sleep(self.chance.expovariate(1 / PAUSE_S))
        self._check()

    def did(self, object_: str, kind: str, args: tuple[Any, ...], call: Callable[[], Any]) -> Op:
        """Do one operation and note its answer; errors are noted and raised."""
        op = self.journal.begin(self.life, object_, kind, *args)
        self.doing = kind
        try:
            value = call()
        except OSError as error:
            self.journal.end(op, None)
            if error.errno == errno.EIO:
                self.journal.lost(self.life, object_)
            raise
        self.journal.end(op, ("ok", value))
        return op

    def sync(self, object_: str, fd: int) -> None:
        marked = self.journal.unsynced(self.life, object_)
        self.doing = "fsync"
        try:
            os.fsync(fd)
        except OSError:
            self.journal.lost(self.life, object_)
            raise
        self.journal.synced(self.life, marked)

    def word(self) -> bytes:
        self.count += 1
        return f"{self.life}.{self.count}.{self.chance.getrandbits(32):08x}".encode()

    # --- kinds of work

    def register(self) -> None:
        while True:
            self.pause()
            if self.chance.random() < 0.5:
                self.did("register", "read", (), lambda: os.pread(self.fd, REGISTER_BYTES, 0))
            else:
                data = self.word().ljust(REGISTER_BYTES, b".")
                self.did(
                    "register", "replace", (data,), lambda d=data: _all(os.pwrite(self.fd, d, 0), d)
                )
                if self.chance.random() < 0.3:
                    self.sync("register", self.fd)

    def append(self) -> None:
        while True:
            self.pause()
            if self.chance.random() < 0.3:
                self.did("append", "read", (), lambda: os.pread(self.fd, 1 << 22, 0))
            else:
                data = self.word() + b"\n"
                self.did("append", "append", (data,), lambda d=data: _all(os.write(self.fd, d), d))
                if self.chance.random() < 0.3:
                    self.sync("append", self.fd)

    def set(self) -> None:
        where = self.base / "set"
        while True:
            self.pause()
            if self.chance.random() < 0.3:
                self.did("set", "read", (), lambda: frozenset(p.name for p in where.iterdir()))
            else:
                name = self.word().decode()
                self.did("set", "create", (name,), (where / name).touch)
                if self.chance.random() < 0.3:
                    self.sync("set", self.fd)

    def swap(self) -> None:
        target = self.base / "swap/value"
        while True:
            self.pause()
            if self.chance.random() < 0.5:
                self.did("swap", "read", (), target.read_bytes)
                continue
            data = self.word() * self.chance.choice((1, 20, 2000))
            new = self.base / f"swap/{self.life}.{self.count}"
            with new.open("wb") as file:

                def replaced(file: Any = file, data: bytes = data, new: Path = new) -> None:
                    file.write(data)
                    file.flush()
                    new.rename(target)

                self.did("swap", "replace", (data,), replaced)
                if self.chance.random() < 0.4:
                    self.sync("swap", file.fileno())

    def lock(self) -> None:
        while True:
            self.pause()
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            began = until = time.monotonic()
            for _ in range(self.chance.randrange(1, 6)):
                asked = time.monotonic()
                os.pwrite(self.fd, b"x", 0)  # an error when the lock was lost before
                until = asked
                time.sleep(0.03 * self.chance.random())
            self.journal.held.append((0, self.life, began, until))
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def bank(self) -> None:
        while True:
            self.pause()
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if self.chance.random() < 0.3:
                self.did("bank", "read", (), lambda: tuple(map(self._balance, range(ACCOUNTS))))
            else:
                one, other = self.chance.sample(range(ACCOUNTS), 2)
                amount = self.chance.randrange(1, 20)
                for account, change in ((one, -amount), (other, amount)):
                    self._move(account, change)
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def _balance(self, account: int) -> int:
        return int((self.base / f"bank/{account}").read_bytes())

    def _move(self, account: int, change: int) -> None:
        path = self.base / f"bank/{account}"

        def move() -> None:
            fd = os.open(path, os.O_RDWR)
            try:
                old = int(os.pread(fd, 8, 0))
                os.pwrite(fd, b"%08d" % (old + change), 0)
                os.fsync(fd)
            finally:
                os.close(fd)

        self.did("bank", "write", (account, change), move)
        self.journal.synced(self.life, self.journal.unsynced(self.life, "bank"))


def bank_step(state: tuple[int, ...], op: Op) -> tuple[int, ...] | None:
    """The model of the bank: balances; `write` moves one, `read` sees all."""
    if op.kind == "read":
        return state if op.result is not None and op.result[1] == state else None
    account, change = op.args
    return tuple(b + change if n == account else b for n, b in enumerate(state))


def _all(count: int, data: bytes) -> None:
    assert count == len(data), "a short write"
