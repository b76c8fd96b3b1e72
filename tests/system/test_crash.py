"""Every process killed at once, or every disk without power: what was synced is there."""

import contextlib
import fcntl
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import recorder
from tests.system.cluster import Cluster, full, run, until

RECORDERS = 2
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
IMAGE_BYTES = 4 << 30  # sparse


class Recorders:
    """Writers on the mount, ended by the crash they wait for."""

    def __init__(self, target: Path, logs: Path):
        self._places = [(target / f"{i}", logs / f"{target.name}-{i}") for i in range(RECORDERS)]
        self._running: list[subprocess.Popen] = []

    @contextlib.contextmanager
    def running(self, *, until_done):
        """Run them until that many files are recorded; the body is the crash."""
        try:
            for seed, (directory, log) in enumerate(self._places):
                words = (sys.executable, "-m", "tests.system.recorder", directory, log, seed)
                with log.with_suffix(".errors").open("w") as errors:
                    process = subprocess.Popen([str(w) for w in words], stderr=errors)
                self._running.append(process)
            until(lambda: self._done() >= until_done, seconds=120, what="files are recorded")
            yield
            for process in self._running:
                process.wait(timeout=60)
        finally:
            for process in self._running:
                process.kill()
                process.wait()

    def check(self):
        return sum(recorder.check(directory, log) for directory, log in self._places)

    def _done(self):
        for process, (_, log) in zip(self._running, self._places, strict=True):
            if process.poll() is not None:
                raise AssertionError(log.with_suffix(".errors").read_text())
        return sum(log.read_text().count("done") for _, log in self._places if log.exists())


def test_what_was_synced_survives_the_death_of_every_process(cluster, tmp_path):
    chance = random.Random(6)
    rounds = []
    for number in range(full(3, 2)):
        rounds.append(Recorders(cluster.mount / f"round{number}", tmp_path))
        with rounds[-1].running(until_done=chance.randint(150, full(1500, 300))):
            cluster.kill_all()
        cluster.up()
        assert all(r.check() for r in rounds)
    assert recorder.read_all(cluster.mount)
    cluster.settle()


@pytest.fixture
def powered(tmp_path):
    """A cluster whose node directories are file systems of their own."""
    state = tmp_path / "state"
    images = [(tmp_path / f"{n}.img", state / n) for n in NODES]
    made = Cluster(state, tmp_path / "mnt")
    try:
        for image, directory in images:
            with image.open("wb") as file:
                file.truncate(IMAGE_BYTES)
            run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1", image)
            directory.mkdir(parents=True)
            attach(image, directory)
            (directory / "lost+found").rmdir()
        made.up()
        yield made, images
    finally:
        made.down()
        for image, directory in images:
            run("umount", "-l", directory, check=False)
            image.unlink(missing_ok=True)


NODES = ("meta1", "meta2", "meta3", "storage1", "storage2", "storage3")


def attach(image, directory):
    done = run("mount", "-o", "loop", image, directory, check=False)
    if done.returncode:
        pytest.skip(f"needs loop devices: {done.stderr.strip()}")


def test_what_was_synced_survives_power_loss_of_every_node(powered, tmp_path):
    cluster, images = powered
    recorders = Recorders(cluster.mount / "files", tmp_path)
    with recorders.running(until_done=full(1500, 250)):
        for _, directory in images:
            cut_power(directory)
        cluster.kill_all()
    for image, directory in images:
        run("umount", directory)
        attach(image, directory)
    cluster.up()
    assert recorders.check()
    assert recorder.read_all(cluster.mount)
    cluster.settle()


def cut_power(directory):
    """End a file system as power loss does: nothing more reaches the disk, not even its journal."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(fd)
