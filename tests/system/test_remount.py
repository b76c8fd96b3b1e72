"""A daemon replaced under a live mount; what `cfs sync` makes durable."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.cluster import cfs, full, run, until

HELD = full(3000, 500)

HOLDER = """
import fcntl, os, subprocess, sys, threading, time
d, held = sys.argv[1], int(sys.argv[2])
for i in range(held): open(f"{d}/x{i}", "w").close()
a = os.open(d + "/a", os.O_RDWR | os.O_CREAT); os.write(a, b"before")
u = os.open(d + "/gone", os.O_RDWR | os.O_CREAT); os.write(u, b"nameless"); os.unlink(d + "/gone")
l = os.open(d + "/lock", os.O_RDWR | os.O_CREAT); fcntl.flock(l, fcntl.LOCK_EX)
p = os.open(d + "/ranges", os.O_RDWR | os.O_CREAT); fcntl.lockf(p, fcntl.LOCK_EX, 10, 5)
take = "import fcntl,os,sys;f=os.open(sys.argv[1],os.O_RDWR);fcntl.flock(f,fcntl.LOCK_EX)"
waiter = subprocess.Popen([sys.executable, "-c", take, d + "/lock"])
listing = os.scandir(d); names = [next(listing).name for _ in range(10)]
stop, count = False, 0
def work():
    global count
    f = os.open(d + "/w", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    while not stop:
        os.write(f, b"%08d\\n" % count); count += 1
        os.mkdir(f"{d}/k"); os.rmdir(f"{d}/k"); time.sleep(0.002)
thread = threading.Thread(target=work); thread.start()
print("ready", flush=True); sys.stdin.readline()
stop = True; thread.join()
assert os.pread(a, 100, 0) == b"before"; os.write(a, b" after"); os.fsync(a)
assert os.pread(u, 100, 0) == b"nameless"; os.write(u, b"+"); assert os.fstat(u).st_nlink == 0
g = os.open(d + "/lock", os.O_RDWR)
try: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB); sys.exit("the lock was lost")
except BlockingIOError: pass
names += [e.name for e in listing]
kept = [n for n in names if n[0] == "x"]
assert len(kept) == len(set(kept)) == held, len(kept)
assert waiter.poll() is None
os.close(l); os.close(g); assert waiter.wait(30) == 0
lines = open(d + "/w", "rb").read().split()
assert lines == [b"%08d" % i for i in range(count)] and count
print("done", flush=True)
"""


@pytest.fixture
def client(cluster, tmp_path, request):
    """A mount of its own: (mount point, client directory)."""
    name = request.node.name.replace("_", "-")[:30]
    point, directory = tmp_path / "mnt", cluster.state / f"client-{name}"
    point.mkdir()
    token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", "client")
    cfs("node", "join", "--token", token.stdout.strip(), "--dir", directory, "--name", name)
    cfs("mount", "--dir", directory, point)
    yield point, directory
    cfs("umount", point, check=False)
    run("umount", "-l", point, check=False)


def pid_of(directory):
    return int((directory / "run.pid").read_text().split()[0])


def test_programs_go_on_when_the_daemon_is_replaced(client):
    point, directory = client
    place = point / "remounted"
    place.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place, str(HELD)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "ready\n"
        for _ in range(2):
            before = pid_of(directory)
            cfs("remount", point)
            assert pid_of(directory) != before
            assert not Path(f"/proc/{before}").exists() or "Z" in _state(before)
        said, _ = holder.communicate("go on\n", timeout=60)
        assert (holder.returncode, said) == (0, "done\n")
    finally:
        holder.kill()
    (place / "later").write_text("x")
    cfs("umount", point)


def _state(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def test_a_remount_that_fails_leaves_the_mount_as_it_was(client, cluster):
    point, directory = client
    with (point / "open").open("w") as file:
        kept = (directory / "cfs.toml").read_text()
        (directory / "cfs.toml").write_text(kept + "\nunknown = 1\n")
        done = cfs("remount", point, check=False)
        assert done.returncode
        (directory / "cfs.toml").write_text(kept)
        file.write("still served")
    assert (cluster.mount / "open").read_text() == "still served"
    done = cfs("remount", cluster.mount.parent, check=False)
    assert "no daemon serves" in done.stderr


def test_sync_makes_everything_durable(client, cluster):
    point, directory = client
    for number in range(50):
        (point / f"s{number}").write_bytes(b"%d" % number * 1000)
    cfs("sync", point)
    os.kill(pid_of(directory), signal.SIGKILL)
    for number in range(50):
        assert (cluster.mount / f"s{number}").read_bytes() == b"%d" % number * 1000
    until(lambda: not os.path.ismount(point), seconds=20, what="the mount stays")
    done = cfs("sync", point, check=False)
    assert done.returncode
    assert "kernel binding" in done.stderr
