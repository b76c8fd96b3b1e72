"""MooseFS on loopback aliases: one master, three chunkservers, any goal, default durability.

MooseFS refuses 127.x between its parts, so 10.77.0.1 and .11 to .13 are added to `lo` while it
runs. Deleted files stay in its trash for a day (its default): the bricks grow with every run and
are removed with the state directory.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from bench.mounts import SystemFailedError, end, package_version, pids_of, run, unmount, until

MASTER = "10.77.0.1"
SERVERS = {i: f"10.77.0.1{i}" for i in (1, 2, 3)}
EMPTY = Path("/var/lib/mfs/metadata.mfs.empty")
_PROGRAMS = ("mfsmaster", "mfschunkserver", "mfsmount")
_MASTER = """\
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {state}/master
EXPORTS_FILENAME = {state}/etc/exports.cfg
TOPOLOGY_FILENAME = {state}/etc/topology.cfg
MATOML_LISTEN_HOST = {master}
MATOCS_LISTEN_HOST = {master}
MATOCL_LISTEN_HOST = {master}
"""
_SERVER = """\
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {state}/cs{i}
HDD_CONF_FILENAME = {state}/etc/hdd{i}.cfg
MASTER_HOST = {master}
BIND_HOST = {host}
CSSERV_LISTEN_HOST = {host}
CSSERV_LISTEN_PORT = {port}
HDD_FSYNC_BEFORE_CLOSE = 0
"""


def installed():
    return bool(shutil.which("mfsmaster") and shutil.which("mfschunkserver"))


class MooseFs:
    """A whole MooseFS, mounted; files written below its directory get `goal` copies."""

    fsync = "nothing synced anywhere (traced once: none for 20): bytes in page caches only"

    def __init__(self, state, goal=2):
        self._state, self._goal = Path(state).absolute(), goal
        self.key, self.label = f"moosefs{goal}", f"MooseFS goal {goal}"
        self._before = set()
        self._addresses = []
        self._started = False

    def start(self):
        if not installed():
            raise SystemFailedError("apt-get install moosefs-{master,chunkserver,client,cli}")
        self._before = pids_of(*_PROGRAMS)
        if self._before:
            raise SystemFailedError("a MooseFS runs already: stop it first")
        self._started = True
        self._configure()
        for host in (MASTER, *SERVERS.values()):
            if f" {host}/" not in run("ip", "-o", "addr", "show", "dev", "lo"):
                run("ip", "addr", "add", f"{host}/32", "dev", "lo")
                self._addresses.append(host)
        state = self._state
        run("mfsmaster", "-c", state / "etc/master.cfg", "start")
        for i in SERVERS:
            run("mfschunkserver", "-c", state / f"etc/cs{i}.cfg", "start")
        run("mfsmount", state / "mnt", "-H", MASTER)
        until(lambda: os.path.ismount(state / "mnt"), "MooseFS was not mounted")
        until(self._usable, "MooseFS had no space")
        time.sleep(3)  # chunkservers register their space in steps
        work = state / "mnt" / f"goal{self._goal}"
        work.mkdir(exist_ok=True)
        run("mfssetgoal", "-r", self._goal, work)
        return work

    def stop(self):
        if not self._started:
            return
        state = self._state
        unmount(state / "mnt")
        for i in SERVERS:
            run("mfschunkserver", "-c", state / f"etc/cs{i}.cfg", "stop", check=False)
        run("mfsmaster", "-c", state / "etc/master.cfg", "stop", check=False)
        end(pids_of(*_PROGRAMS) - self._before)
        for host in self._addresses:
            run("ip", "addr", "del", f"{host}/32", "dev", "lo", check=False)
        self._addresses.clear()
        self._started = False

    def version(self):
        return f"MooseFS {package_version('moosefs-master')}"

    def _configure(self):
        state = self._state
        etc = state / "etc"
        for name in ("etc", "master", "mnt"):
            (state / name).mkdir(parents=True, exist_ok=True)
        if not list((state / "master").glob("metadata.mfs*")):
            shutil.copy(EMPTY, state / "master" / "metadata.mfs")
            (state / "master" / "metadata.mfs").chmod(0o600)
        (etc / "exports.cfg").write_text("* / rw,alldirs,admin,maproot=0:0\n")
        (etc / "topology.cfg").write_text("")
        (etc / "master.cfg").write_text(_MASTER.format(state=state, master=MASTER))
        for i, host in SERVERS.items():
            for name in (f"cs{i}", f"brick{i}"):
                (state / name).mkdir(exist_ok=True)
            (etc / f"hdd{i}.cfg").write_text(f"{state}/brick{i}\n")
            text = _SERVER.format(state=state, i=i, master=MASTER, host=host, port=9424 + i)
            (etc / f"cs{i}.cfg").write_text(text)

    def _usable(self):
        listed = run("mfscli", "-H", MASTER, "-SCS", "-s|", check=False)
        space = os.statvfs(self._state / "mnt")
        return all(h in listed for h in SERVERS.values()) and space.f_blocks > 0
