"""What tests of repair and rebalance do as an operator would, and the load that runs meanwhile."""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import threading

from tests.system.cluster import cfs, until
from tests.system.nodes import runs


def admin(cluster, *words, **options):
    """Run `cfs admin ...` as the administrator."""
    return cfs("admin", *words, "--dir", cluster.state / "admin", **options)


def jobs(cluster, kind=""):
    """Every job, oldest first; no answer (a leader is being elected) counts as none."""
    done = admin(cluster, "jobs", "--json", "--all", check=False)
    found = json.loads(done.stdout) if done.returncode == 0 else []
    return [j for j in found if kind in ("", j["kind"])]


def nodes(cluster):
    """What `cfs admin node list` says, by name."""
    return {n["name"]: n for n in json.loads(admin(cluster, "node", "list", "--json").stdout)}


def state_of(cluster, name):
    with contextlib.suppress(AssertionError):
        return nodes(cluster)[name]["state"]
    return ""


def start(cluster, name):
    """Start one node that was ended, and wait until its process is there."""
    directory = cluster.state / name
    role = name.rstrip("0123456789")
    words = [sys.executable, "-m", "cfs.cli.main", "serve", role, "--dir", str(directory)]
    with (directory / "log" / "output.log").open("ab") as log:
        subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    until(lambda: runs(cluster, name), seconds=180, what=f"{name} runs")


def add(cluster, name, *, port, role="storage"):
    """Let a node join, and start it."""
    directory = cluster.state / name
    admin(cluster, "node", "add", name, "--role", role, "--node-dir", directory,
          "--port", port, "--log-file", "log/node.log")  # fmt: skip
    (directory / "log").mkdir(exist_ok=True)
    start(cluster, name)
    until(lambda: state_of(cluster, name) == "in", seconds=180, what=f"{name} is in")


class Load(threading.Thread):
    """Writes files, overwrites and deletes some, until it is stopped; knows what must be there."""

    def __init__(self, root, *, seed, pause_s=0.05):
        super().__init__(daemon=True)
        self.root = root
        self.digests = {}
        self.error = None
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        self._ended = threading.Event()

    def run(self):
        try:
            self.root.mkdir(exist_ok=True)
            while not self._ended.wait(self._pause_s):
                self._one()
        except Exception as error:  # noqa: BLE001 - told by `end`
            self.error = error

    def _one(self):
        chance = self._chance
        name = f"f{chance.randrange(200)}"
        path = self.root / name
        if name in self.digests and chance.random() < 0.2:
            del self.digests[name]
            path.unlink()
            return
        content = chance.randbytes(chance.choice((100, 30_000, 200_000, 900_000)))
        self.digests.pop(name, None)
        with path.open("wb") as file:
            file.write(content)
            if chance.random() < 0.3:
                os.fsync(file.fileno())
        self.digests[name] = hashlib.sha256(content).hexdigest()

    def end(self):
        """Stop, and fail if an operation failed."""
        self._ended.set()
        self.join(120)
        assert not self.is_alive(), "an operation of the load hangs"
        assert self.error is None, f"the load failed: {self.error!r}"

    def verify(self):
        """Hash every file again."""
        assert {p.name for p in self.root.iterdir()} == set(self.digests)
        wrong = [n for n, d in self.digests.items() if digest_of(self.root / n) != d]
        assert not wrong


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def remount(cluster):
    """Unmount and mount again, so that nothing is cached; starts nothing that is down."""
    cfs("umount", cluster.mount)
    cfs("mount", "--dir", cluster.state / "client", cluster.mount)
