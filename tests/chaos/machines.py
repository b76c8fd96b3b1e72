"""Machines: a namespace, a disk of their own, processes of the `cfs` command; how each may fail.

A server's node directories lie on a loop-mounted file system of its own, so that its power can be
cut: `FS_IOC_SHUTDOWN` without a log flush, then SIGKILL, then mounted anew. A client's mount has
lives: each daemon that ends, however, ends one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.chaos.wires import Wires, sh

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
IMAGE_BYTES = 2 << 30  # sparse
CFS = (sys.executable, "-m", "cfs.cli.main")


class Process:
    """One process in a machine's network, started again at will."""

    def __init__(self, wires: Wires, machine: str, log: Path, *words: object) -> None:
        self._words = [*wires.inside(machine), *map(str, words)]
        self._log = log
        self.running: subprocess.Popen | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.running = subprocess.Popen(
                self._words, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.alive:
            self.running.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL and see it gone."""
        if self.running is not None:
            self.signal(signal.SIGKILL)
            self.running.wait(timeout=30)

    def end(self, patience_s: float = 20.0) -> None:
        """End it politely, else with SIGKILL."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self.running is not None:
            try:
                self.running.wait(timeout=patience_s)
            except subprocess.TimeoutExpired:
                self.kill()


class Relays:
    """A relay in a machine's network, told by its standard input."""

    def __init__(self, wires: Wires, machine: str) -> None:
        self._wires, self._machine = wires, machine
        words = [*wires.inside(machine), sys.executable, "-m", "tests.chaos.relay"]
        self._running = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._running.stdout.readline() == "ready\n", "the relay did not start"
        wires.redirect(machine, on=True)
        wires.breaking(machine, on=True)  # connections from before would go past it
        time.sleep(1.0)
        wires.breaking(machine, on=False)

    def tell(self, **settings: float) -> None:
        """Replace its settings."""
        self._running.stdin.write(json.dumps(settings) + "\n")
        self._running.stdin.flush()

    def end(self) -> None:
        """Lead connections past it again; those it carries end with it."""
        self._wires.redirect(self._machine, on=False)
        self._running.kill()
        self._running.wait()


class Server:
    """A machine with a metadata node and a storage node."""

    def __init__(self, wires: Wires, name: str, base: Path, *, kind: str) -> None:
        self.name = name
        self.address = wires.address[name]
        self.kind = kind
        self.image = base / f"{name}.img"
        self.disk = base / name
        self.disk.mkdir()
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        options = ("-E", "lazy_itable_init=1") if kind == "ext4" else ()
        sh(f"mkfs.{kind}", "-q", *options, self.image)
        self._attach()
        self.processes = [
            Process(wires, name, base / f"{name}-{role}.log", *CFS, "serve", role,
                    "--dir", self.disk / role)
            for role in ("meta", "storage")
        ]  # fmt: skip

    def _attach(self) -> None:
        sh("mount", "-o", "loop", self.image, self.disk)

    def start(self) -> None:
        for process in self.processes:
            if not process.alive:
                process.start()

    def kill(self) -> None:
        """End both processes as SIGKILL does."""
        for process in self.processes:
            process.signal(signal.SIGKILL)
        for process in self.processes:
            process.kill()

    def signal(self, number: int) -> None:
        for process in self.processes:
            process.signal(number)

    def cut_power(self) -> None:
        """End the machine as power loss does: nothing more reaches its disk, not even a journal."""
        fd = os.open(self.disk, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)
        self.kill()
        sh("umount", self.disk)
        self._attach()

    def fill(self, *, leave: int) -> None:
        """Use the disk up but for some bytes."""
        free = os.statvfs(self.disk)
        count = free.f_bavail * free.f_frsize - leave
        with (self.disk / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, count))

    def unfill(self) -> None:
        (self.disk / "filler").unlink(missing_ok=True)

    def remove(self) -> None:
        for process in self.processes:
            process.kill()
        sh("umount", "-l", self.disk, check=False)
        self.image.unlink(missing_ok=True)


class Client:
    """A machine with a mount; `life` names the daemon that runs."""

    def __init__(self, wires: Wires, name: str, base: Path) -> None:
        self.name = name
        self.directory = base / f"{name}-client"
        self.mount = base / f"{name}-mnt"
        self.log = base / f"{name}-mount.log"
        self.mount.mkdir()
        self.number = 0
        self.ready = threading.Event()
        self.process = Process(
            wires,
            name,
            self.log,
            *CFS,
            "mount",
            "--foreground",
            "--dir",
            self.directory,
            self.mount,
        )

    @property
    def life(self) -> str:
        return f"{self.name}.{self.number}"

    def start(self, seconds: float = 90.0) -> None:
        """Mount, and wait until it is."""
        deadline = time.monotonic() + seconds
        self.number += 1
        self.process.start()
        while not os.path.ismount(self.mount):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} has not mounted: {self.log.read_text()[-2000:]}")
            if not self.process.alive:
                self.process.start()
            time.sleep(0.1)
        self.ready.set()

    def kill(self) -> None:
        """End the daemon as SIGKILL does; every open file of the mount is dead."""
        self.ready.clear()
        self.process.signal(signal.SIGKILL)
        # a thread that is telling the kernel something may wait for a page that a request of the
        # mount holds: the process ends only once the connection is aborted
        sh("umount", "-f", self.mount, check=False)
        self.process.kill()
        sh("umount", "-l", self.mount, check=False)

    def remove(self) -> None:
        if self.process.alive:
            self.process.signal(signal.SIGCONT)
            sh("umount", self.mount, check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.running.wait(timeout=15)
        self.kill()
