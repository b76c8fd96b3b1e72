"""Full disks: writes are refused before they are accepted, everything else goes on."""

import errno
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.cluster import LENIENT, Cluster, cfs, full, until
from tests.system.nodes import configure, remount, runs, stop, storage_status

MIB = 1 << 20
SMALL_BYTES = full(400, 44) * MIB
OTHER_BYTES = full(800, 72) * MIB
META_BYTES = 96 * MIB
RESERVE_BYTES = 8 * MIB
FILE_BYTES = full(16, 3) * MIB
FILES_MAX = 2 * (SMALL_BYTES + OTHER_BYTES) // FILE_BYTES


class Image:
    """A file with a file system of its own, mounted."""

    def __init__(self, path: Path, size: int):
        self.path = path
        self.mount = path.with_suffix(".mnt")
        self.mount.mkdir()
        with path.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", path], check=True, timeout=60)
        command = ["mount", "-o", "loop", path, self.mount]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"no loop device to be had: {done.stderr.strip()}")

    def fill(self):
        """Take every block that is left; give the file that holds them."""
        filler = self.mount / "filler"
        with filler.open("wb", buffering=0) as file:
            write_until_full(file, MIB, 1 << 20)
            write_until_full(file, 4096, 1 << 20)
        return filler

    def remove(self):
        """Unmount, which detaches the loop device, too."""
        subprocess.run(["umount", "-l", self.mount], check=False, capture_output=True, timeout=60)


def write_until_full(file, size, count_max):
    """Write pieces until there is no space; give how long the refusal took, seconds."""
    for _ in range(count_max):
        began = time.monotonic()
        try:
            file.write(os.urandom(size))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - it ends a loop
            return time.monotonic() - began
    raise AssertionError(f"{count_max} pieces of {size} bytes fit")


def move(directory, other):
    """Move a directory to another file system and leave a link."""
    shutil.copytree(directory, other)
    shutil.rmtree(directory)
    directory.symlink_to(other)


@pytest.fixture(scope="module")
def images():
    """The images by the node they belong to."""
    return {}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, images):
    """A cluster whose storage nodes have small disks, and one metadata node a small one."""
    base = tmp_path_factory.mktemp("full")
    made = Cluster(base / "state", base / "mnt")
    sizes = {"storage1": SMALL_BYTES, "storage2": OTHER_BYTES, "storage3": OTHER_BYTES}
    try:
        made.up()
        stop(made, *sizes, "meta3")
        for name, size in {**sizes, "meta3": META_BYTES}.items():
            images[name] = Image(base / name, size)
            for part in ("wal", "state") if name == "meta3" else ("disk",):
                move(made.state / name / part, images[name].mount / part)
            if name in sizes:
                configure(made, name, "storage", reserve_bytes=RESERVE_BYTES)
        made.up()
        made.settle()
        yield made
    finally:
        made.down()
        for image in images.values():
            image.remove()
        if not os.path.ismount(made.mount):
            shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def written():
    """What was accepted: name to content."""
    return {}


def content_of(number):
    return random.Random(number).randbytes(FILE_BYTES)


def add(cluster, written):
    """Write one more file, every other with fsync; False when there is no space for it."""
    number = max(written, default=0) + 1
    path = cluster.mount / f"file-{number}"
    content = content_of(number)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for at in range(0, FILE_BYTES, 128 << 10):
            began = time.monotonic()
            try:
                assert os.write(descriptor, content[at : at + (128 << 10)]) == 128 << 10
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - anything else is raised below
                assert time.monotonic() - began < 1 * LENIENT
                break
        else:
            if number % 2:
                os.fsync(descriptor)  # what was accepted has its space
            written[number] = None
    finally:
        os.close(descriptor)
    if number not in written:
        path.unlink()
        return False
    return True


def assert_all_there(cluster, written):
    for number in written:
        assert (cluster.mount / f"file-{number}").read_bytes() == content_of(number), number


def test_with_one_disk_full_writes_go_on_and_the_status_warns(cluster, written):
    for number in range(FILES_MAX):
        assert add(cluster, written), "no space left while two of three domains have room"
        if number % 3 == 0 and storage_status(cluster.status(), "storage1")["full"]:
            break
    status = cluster.status()
    assert any("storage1 is full" in problem for problem in status["problems"])
    assert status["health"] == "degraded"
    for _ in range(3):
        assert add(cluster, written)
    os.sync()
    assert_all_there(cluster, written)
    assert not storage_status(cluster.status(), "storage2")["full"]


def test_with_all_disks_full_write_says_so_and_nothing_accepted_is_lost(cluster, written):
    for _ in range(FILES_MAX):
        if not add(cluster, written):
            break
    else:
        pytest.fail(f"{len(written)} files of {FILE_BYTES} bytes fit on small disks")
    # more than once, and in small pieces
    assert not add(cluster, written)
    with (cluster.mount / "more").open("wb", buffering=0) as file:
        assert write_until_full(file, MIB, 64 * FILE_BYTES // MIB) < 1 * LENIENT
    (cluster.mount / "more").unlink()
    assert_all_there(cluster, written)
    remount(cluster)
    assert_all_there(cluster, written)
    assert all(runs(cluster, name) for name in cluster.nodes() if name != "admin")


def test_after_deletes_writes_work_again_without_a_restart(cluster, written):
    pids = {name: cluster.pid(name) for name in cluster.nodes("storage")}
    for number in list(written)[::2]:
        (cluster.mount / f"file-{number}").unlink()
        del written[number]
    until(lambda: add(cluster, written), seconds=60 * LENIENT, what="there is space again")
    for _ in range(3):
        until(lambda: add(cluster, written), seconds=60 * LENIENT, what="there is more space")
    remount(cluster)
    assert_all_there(cluster, written)
    assert pids == {name: cluster.pid(name) for name in pids}


def test_a_metadata_node_with_a_full_disk_stops_and_acknowledges_nothing(cluster, images):
    filler = images["meta3"].fill()
    made = []
    for number in range(full(3000, 200)):
        path = cluster.mount / f"name-{number}"
        path.write_bytes(b"%d" % number)
        made.append(path)
        if number % 50 == 0:
            descriptor = os.open(cluster.mount, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    until(lambda: not runs(cluster, "meta3"), seconds=60 * LENIENT, what="the node stops")
    lines = (cluster.state / "meta3" / "log" / "node.log").read_text().splitlines()
    said = [line for line in lines if "process_failed" in line]
    assert len(said) == 1
    assert "No space left on device" in said[0] or "no room on the disk" in said[0]
    remount(cluster)
    for number, path in enumerate(made):
        assert path.read_bytes() == b"%d" % number
    filler.unlink()
    cluster.up()
    until(lambda: _is_in(cluster, "meta3"), seconds=60 * LENIENT, what="it is back")
    cfs("umount", cluster.mount)
    cluster.kill("meta1")  # nothing is known now without the one that was full
    cfs("mount", "--dir", cluster.state / "client", cluster.mount)
    for number, path in enumerate(made):
        assert path.read_bytes() == b"%d" % number


def _is_in(cluster, name):
    node = next(n for n in cluster.status()["nodes"] if n["name"] == name)
    groups = (node["heartbeat"] or {"groups": ()})["groups"]
    return node["state"] == "in" and groups and all(g["applied"] == g["committed"] for g in groups)
