"""A mount that has the file system for itself alone, and whom it keeps out."""

import os
import sys

import pytest

from tests.system.cluster import cfs, full, run, until

OPERATIONS = full(100_000, 1_500)


@pytest.fixture
def alone(cluster, tmp_path):
    """(client directory, mount point); nothing else is mounted."""
    directory, point = cluster.state / "client-alone", tmp_path / "mnt"
    point.mkdir()
    token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", "client")
    cfs("node", "join", "--token", token.stdout.strip(), "--dir", directory, "--name", "alone")
    done = cfs("mount", "--exclusive", "--dir", directory, point, check=False)
    assert done.returncode
    assert "EBUSY" in done.stderr
    assert "client has it mounted" in done.stderr
    cfs("umount", cluster.mount)
    yield directory, point
    cfs("umount", point, check=False)
    run("umount", "-l", point, check=False)
    cfs("mount", "--dir", cluster.state / "client", cluster.mount)


def test_exclusive(cluster, alone, tmp_path):
    directory, point = alone
    local = tmp_path / "fsx"
    cfs("mount", "--exclusive", "--dir", directory, point)
    others = cluster.state / "client"
    done = cfs("mount", "--dir", others, cluster.mount, check=False)
    assert done.returncode
    assert "EBUSY" in done.stderr
    assert "alone has it mounted for itself alone" in done.stderr
    with (point / "log").open("ab") as log:
        for number in range(500):
            log.write(b"%04d\n" % number)
            log.flush()
    assert (point / "log").read_bytes() == b"".join(b"%04d\n" % n for n in range(500))
    descriptor = os.open(point / "part", os.O_WRONLY | os.O_CREAT)
    os.pwrite(descriptor, b"x" * 10_000, 0)
    os.pwrite(descriptor, b"y", 4_999)  # the kernel reads the page through a write-only file
    os.utime(point / "part", (1_000, 2_000))
    os.fsync(descriptor)
    os.close(descriptor)
    (point / "part").rename(point / "whole")
    cfs("remount", point)
    done = cfs("mount", "--dir", others, cluster.mount, check=False)
    assert "EBUSY" in done.stderr
    words = (sys.executable, "-m", "tests.system.fsx", point / "fsx", local, 1, OPERATIONS)
    assert "equal" in run(*words, timeout=300).stdout
    (point / "last").write_bytes(b"written back when it is unmounted")
    cfs("umount", point)
    cfs("mount", "--dir", others, cluster.mount)
    assert (cluster.mount / "last").read_bytes() == b"written back when it is unmounted"
    assert (cluster.mount / "whole").read_bytes() == b"x" * 4_999 + b"y" + b"x" * 5_000
    assert (cluster.mount / "whole").stat().st_mtime == 2_000
    until(lambda: (cluster.mount / "log").stat().st_size == 2_500, seconds=5, what="the log")
    cfs("umount", cluster.mount)
