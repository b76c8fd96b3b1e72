"""What every compared system shares: a life on this machine, bounded, leaving nothing behind.

A system is started, gives the directory to work in, and stops exactly what it started. Each keeps
its state below one directory of its own.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import pyfuse3

from cfs.cli import processes

COMMAND_S = 90
CFS = [sys.executable, "-m", "cfs.cli.main"]


class SystemFailedError(Exception):
    """A compared system did not start or stop."""


class System(Protocol):
    """One column of the table."""

    key: str
    label: str
    fsync: str

    def start(self) -> Path: ...

    def stop(self) -> None: ...

    def version(self) -> str: ...


def run(*words, check=True, timeout_s=COMMAND_S):
    """Run a command to its end; its output. Raises SystemFailedError with what it said."""
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise SystemFailedError(
            f"'{' '.join(map(str, words))}' ended with {done.returncode}: {said}"
        )
    return done.stdout


def until(condition, what, patience_s=30.0):
    """Wait for `condition`; raises SystemFailedError naming `what`."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemFailedError(f"{what} in {patience_s:.0f} s")
        time.sleep(0.05)


def package_version(name):
    """Give the version of a Debian package, or ''."""
    return run("dpkg-query", "-W", "-f=${Version}", name, check=False).strip()


def unmount(mountpoint):
    if os.path.ismount(mountpoint):
        run("umount", mountpoint)


class Local:
    """A plain directory on the disk that everything else lies on too."""

    key = "local"
    fsync = "one disk synced by its own file system; one copy"

    def __init__(self, state):
        self._directory = Path(state)
        self._directory.mkdir(parents=True, exist_ok=True)
        kind = run("stat", "-f", "-c", "%T", self._directory).strip()
        self.label = f"local ({'ext4' if kind == 'ext2/ext3' else kind})"

    def start(self):
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory

    def stop(self):
        shutil.rmtree(self._directory, ignore_errors=True)

    def version(self):
        return f"kernel {os.uname().release}"


class PassthroughMount:
    """`bench.passthrough` over a directory of that disk."""

    key = "pass"
    label = "pass-through"
    fsync = "fsync of the file below; one copy"

    def __init__(self, state):
        self._state = Path(state)
        self._process = None

    def start(self):
        source, mountpoint = self._state / "src", self._state / "mnt"
        source.mkdir(parents=True, exist_ok=True)
        mountpoint.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "bench.passthrough", str(source), str(mountpoint)]
        self._process = subprocess.Popen(words, cwd=Path(__file__).parents[1])
        until(lambda: os.path.ismount(mountpoint), "the pass-through was not mounted")
        return mountpoint

    def stop(self):
        unmount(self._state / "mnt")
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
            self._process = None
        shutil.rmtree(self._state / "src", ignore_errors=True)

    def version(self):
        return f"pyfuse3 {pyfuse3.__version__}"


class Cfs:
    """What is mounted at MOUNT by the cluster of STATE, or else a fresh cluster for each run.

    Fresh, because fsbench writes the same bytes every time, and a cluster that still knows those of
    the run before would deduplicate them.
    """

    key = "cfs"
    label = "CFS"
    fsync = (
        "the bytes synced on k+m storage nodes (or, inline, in the metadata log) and the metadata "
        "synced by a majority of 3 metadata nodes, before it returns (traced once: 100 small ones "
        "gave 101 to 104 fdatasync on each metadata node)"
    )

    def __init__(self, state, mount):
        self._given, self._mount = Path(state), Path(mount)
        self._own = Path(state).absolute() / "bench" / "cfs"
        self.state = self._given

    def start(self):
        if not os.path.ismount(self._mount):
            self.state = self._own
            run(*CFS, "up", "--state", self.state, "--mount", self._mount, timeout_s=150)
        return self._mount

    def stop(self):
        if self.state == self._own:
            run(*CFS, "down", "--state", self.state, timeout_s=180)
            shutil.rmtree(self._own, ignore_errors=True)
            self.state = self._given

    def version(self):
        tree = Path(__file__).parents[1]
        commit = run("git", "-C", tree, "describe", "--always", "--dirty", check=False).strip()
        return f"{importlib.metadata.version('cfs')} {commit}".strip()

    def pids(self):
        """Name every process of the cluster on this machine."""
        found = {}
        for path in sorted(self.state.glob("*/cfs.toml")):
            pid = processes.running(path.parent)
            if pid is not None:
                found[path.parent.name] = pid
        return found


def pids_of(*names):
    """List the processes whose program is one of `names`."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _alive(entry.name):
            try:
                if (entry / "comm").read_text().strip() in names:
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def end(pids, patience_s=10.0):
    """End these processes, by force at last."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in list(pids):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pids.discard(pid)
        deadline = time.monotonic() + patience_s
        while pids and time.monotonic() < deadline:
            for pid in list(pids):
                if not _alive(pid):
                    pids.discard(pid)
            time.sleep(0.05)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
