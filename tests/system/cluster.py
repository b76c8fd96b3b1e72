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


def run(*words, check=True, timeout=120, **options):
    """Run a program; give its completed process with text output."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    if check and done.returncode:
        raise AssertionError(f"{command} gave {done.returncode}: {done.stdout}{done.stderr}")
    return done


def cfs(*arguments, **options):
    """Run the cfs command; give its completed process with text output."""
    return run(sys.executable, "-m", "cfs.cli.main", *arguments, **options)


def until(condition, *, seconds, what):
    """Poll until `condition()` holds; its last value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"not within {seconds} s: {said}")
        time.sleep(0.1)


class Cluster:
    """`cfs up` in a directory of its own."""

    def __init__(self, state: Path, mount: Path):
        self.state = state
        self.mount = mount
        self._mounts: list[Path] = []

    def up(self, *options):
        cfs("up", "--state", self.state, "--mount", self.mount, *options, timeout=300)

    def down(self):
        """End every process and mount at once; what ends politely is tested where it matters."""
        self.kill_all()
        for mount in (self.mount, *self._mounts):
            run("umount", "-l", mount, check=False)

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
        """kill -9 every process of the cluster at once, and see them gone."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self._processes(), seconds=30, what=f"{self.state} is left")

    def _processes(self):
        """Find our processes by their command lines: a node's own files may be unreadable."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes()
                if b"cfs.cli.main" in words and os.fsencode(self.state) + b"/" in words:
                    found.append(int(entry.name))
        return found

    def status(self):
        return json.loads(cfs("status", "--dir", self.state / "admin", "--json").stdout)

    def leads(self):
        """Count the groups that each running meta node leads, by name."""
        return {
            node["name"]: sum(g["role"] == "leader" for g in node["heartbeat"]["groups"])
            for node in self.status()["nodes"]
            if node["role"] == "meta" and node["heartbeat"]
        }

    def settle(self, *, seconds=60):
        """Wait until every node is in and every replica has applied what is committed."""
        seen = {}

        def settled():
            seen["why"] = _unsettled(self.status())
            return not seen["why"]

        until(settled, seconds=seconds, what=lambda: seen["why"])

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


def _unsettled(status):
    """Say what in a status is not as it should be at rest; empty when all is well."""
    said = [f"{n['name']} is {n['state']}" for n in status["nodes"] if n["state"] != "in"]
    reached: dict[int, set[int]] = {}
    for node in status["nodes"]:
        for group in (node["heartbeat"] or {"groups": ()})["groups"]:
            name = f"group {group['group']} on {node['name']}"
            if group["applied"] != group["committed"]:
                said.append(f"{name} applied {group['applied']} of {group['committed']}")
            reached.setdefault(group["group"], set()).add(group["committed"])
    said += [f"group {g} is committed to {at}" for g, at in reached.items() if len(at) > 1]
    if status["health"] != "ok":
        said.append(f"{status['health']}: {status['problems']}")
    return "; ".join(said)
