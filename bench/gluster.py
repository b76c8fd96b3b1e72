"""GlusterFS on 127.0.0.1: disperse 2+1 or replica 3, three bricks on this disk.

`glusterd` runs with its working directory below the state directory. It writes its sockets and
some logs where Debian puts them all the same. A glusterd that runs already is left alone: refused.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from bench.mounts import SystemFailedError, end, package_version, pids_of, run, unmount, until

KINDS = {
    "disperse": ("gluster disperse 2+1", ("disperse", "3", "redundancy", "1")),
    "replica": ("gluster replica 3", ("replica", "3")),
}
_PROGRAMS = ("glusterd", "glusterfsd", "glusterfs")
_GLUSTERD = """\
volume management
    type mgmt/glusterd
    option working-directory {state}/lib
    option transport-type socket
    option transport.socket.bind-address 127.0.0.1
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
end-volume
"""


def installed():
    return bool(shutil.which("glusterd") and shutil.which("glusterfs"))


class Gluster:
    """One volume, mounted."""

    fsync = "fsync on each of the 3 bricks (traced once: 60 for 20); all bricks on this one disk"

    def __init__(self, state, kind="disperse"):
        self._state, self._kind = Path(state).absolute(), kind
        self.label, self._shape = KINDS[kind]
        self.key = "gluster" if kind == "disperse" else "gluster-replica"
        self._before = set()
        self._started = False

    def start(self):
        if not installed():
            raise SystemFailedError("apt-get install glusterfs-server glusterfs-client attr")
        self._before = pids_of(*_PROGRAMS)
        if pids_of("glusterd"):
            raise SystemFailedError("a glusterd runs already: stop it first")
        self._started = True
        host, state = _host(), self._state
        bricks = [state / f"{self._kind}-{i}" for i in (1, 2, 3)]
        for directory in (state / "lib", state / "mnt", *bricks):
            directory.mkdir(parents=True, exist_ok=True)
        (state / "glusterd.vol").write_text(_GLUSTERD.format(state=state))
        run("glusterd", "-f", state / "glusterd.vol", "-p", state / "glusterd.pid",
            "-l", state / "glusterd.log")  # fmt: skip
        until(self._answers, "glusterd did not answer")
        if self._kind not in run("gluster", "volume", "list", check=False).split():
            places = [f"{host}:{b}" for b in bricks]
            self._volume("create", *self._shape, "transport", "tcp", *places, "force")
        self._volume("start")
        run("mount", "-t", "glusterfs", f"127.0.0.1:/{self._kind}", state / "mnt")
        return state / "mnt"

    def stop(self):
        if not self._started:
            return
        unmount(self._state / "mnt")
        if self._answers():
            run("gluster", "--mode=script", "volume", "stop", self._kind, "force", check=False)
        end(pids_of(*_PROGRAMS) - self._before)
        self._started = False

    def version(self):
        return f"GlusterFS {package_version('glusterfs-server')}"

    def _answers(self):
        try:
            run("gluster", "volume", "list")
        except SystemFailedError as error:
            return "No volumes" in str(error)
        return True

    def _volume(self, verb, *rest):
        run("gluster", "--mode=script", "volume", verb, self._kind, *rest)


def _host():
    """Give a name of this machine that glusterd takes for a brick: not localhost, on loopback."""
    name = socket.gethostname()
    try:
        if socket.gethostbyname(name) == "127.0.0.1" and name != "localhost":
            return name
    except OSError:
        pass
    raise SystemFailedError(
        f"gluster wants a host name on 127.0.0.1: add '127.0.0.1 {name}' to hosts"
    )
