"""A real cluster for a test: real processes started by the `cfs` command, real mounts.

Everything goes through the command line an operator has; what a test ends, it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FULL = bool(os.environ.get("CFS_FULL_SIZE"))
LENIENT = 1 if FULL else 5
"""CI allows five times the bound."""


def full(size, cut):
    """Choose a size: the real one for `make acceptance`, a cut one for CI."""
    return size if FULL else cut


def cfs(*arguments, check=True, timeout=120, **options):
    """Run the cfs command; give its completed process with text output."""
    command = [sys.executable, "-m", "cfs.cli.main", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    if check and done.returncode:
        raise AssertionError(f"cfs {arguments} gave {done.returncode}: {done.stdout}{done.stderr}")
    return done


def until(condition, *, seconds, what):
    """Poll until `condition()` holds; its last value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Cluster:
    """`cfs up` in a directory of its own."""

    def __init__(self, state: Path, mount: Path):
        self.state = state
        self.mount = mount
        self._mounts: list[Path] = []

    def up(self, *options):
        cfs("up", "--state", self.state, "--mount", self.mount, *options)

    def down(self):
        for mount in self._mounts:
            cfs("umount", mount, check=False)
        done = cfs("down", "--state", self.state, check=False)
        if done.returncode:
            self.kill_all()
            subprocess.run(["umount", "-l", self.mount], check=False, capture_output=True)

    def nodes(self, prefix=""):
        """Names of node directories with that prefix: meta1, storage1, client..."""
        found = [p.name for p in self.state.iterdir() if (p / "cfs.toml").exists()]
        return sorted(n for n in found if n.startswith(prefix))

    def pid(self, name):
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self.state / name / "run.pid").read_text().split()[0])
        return None

    def kill(self, name, number=signal.SIGKILL):
        pid = self.pid(name)
        assert pid, f"{name} is not running"
        os.kill(pid, number)

    def kill_all(self):
        for name in self.nodes():
            pid = self.pid(name)
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def status(self):
        return json.loads(cfs("status", "--dir", self.state / "admin", "--json").stdout)

    def second_mount(self, mount: Path):
        """Mount again with an identity of its own."""
        mount.mkdir(exist_ok=True)
        directory = self.state / f"client-{mount.name}"
        admin = self.state / "admin"
        token = cfs("node", "token", "--dir", admin, "--role", "client").stdout.strip()
        cfs("node", "join", "--token", token, "--dir", directory, "--name", mount.name)
        cfs("mount", "--dir", directory, mount)
        self._mounts.append(mount)
        return mount

    def rss_anon(self, name):
        """Anonymous memory of a node's process, bytes."""
        for line in Path(f"/proc/{self.pid(name)}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")
