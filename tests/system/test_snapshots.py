"""Snapshots of a live cluster: one moment of all shards, equal to what was frozen, for ever."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time

import pytest

from tests.system.cluster import LENIENT, cfs, full, run, until

DIRECTORIES = 4
LAPS_S = full(20, 5)


def admin(cluster):
    return ("--dir", cluster.state / "admin")


def take(cluster, name, *path):
    cfs("snapshot", "create", name, *path, *admin(cluster))


def listed(top):
    return [path.name for path in top.iterdir()]


def picture(top):
    """Spell a tree out: what `ls -lR`, `getfattr` and `md5sum` would say."""
    seen = {}
    links = {}
    for path in sorted(top.rglob("*")):
        found = path.lstat()
        inside = str(path.relative_to(top))
        is_directory = stat.S_ISDIR(found.st_mode)
        more = ""
        if stat.S_ISREG(found.st_mode):
            more = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(found.st_mode):
            more = str(path.readlink())
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = sorted((n, os.getxattr(path, n, follow_symlinks=False)) for n in names)
        twin = links.setdefault(found.st_ino, inside)
        seen[inside] = (
            found.st_mode, found.st_size, 0 if is_directory else found.st_mtime_ns,
            found.st_uid, found.st_gid, found.st_nlink, xattrs, more, twin,
        )  # fmt: skip
    return seen


class Mutator:
    """Changes a tree at random, the same way for the same seed."""

    def __init__(self, top, seed):
        self.top = top
        self.chance = random.Random(seed)
        self.number = 0

    def steps(self, count):
        for _ in range(count):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self._step()

    def _step(self):
        chance = self.chance
        entries = sorted(self.top.rglob("*"))
        files = [p for p in entries if p.is_file() and not p.is_symlink()]
        places = [self.top, *(p for p in entries if p.is_dir() and not p.is_symlink())]
        self.number += 1
        new = chance.choice(places) / f"n{self.number}"
        match chance.randrange(10):
            case 0:
                new.mkdir()
            case 1:
                new.symlink_to(f"t{self.number}")
            case 2 if files:
                os.link(chance.choice(files), new)
            case 3 if files:
                chance.choice(files).unlink()
            case 4 if len(places) > 1:
                shutil.rmtree(chance.choice(places[1:]))
            case 5 if files:
                chance.choice(files).rename(new)
            case 6 if files:
                os.setxattr(chance.choice(files), f"user.{chance.choice('abc')}", new.name.encode())
            case 7 if files:
                with chance.choice(files).open("r+b") as file:
                    file.seek(chance.randrange(200_000))
                    file.write(chance.randbytes(chance.choice((10, 70_000))))
            case 8 if files:
                os.truncate(chance.choice(files), chance.choice((0, 100, 50_000)))
            case _:
                new.write_bytes(chance.randbytes(chance.choice((0, 10, 5000, 20_000, 150_000))))


@pytest.fixture(scope="module")
def pair(cluster):
    return cluster.mount, cluster.second_mount(cluster.mount.with_name("mnt2"))


@contextlib.contextmanager
def counting(tops):
    """Count in several directories of several shards, one after the other; yield the counter."""
    stop = threading.Event()
    laps = []

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            for top in tops:
                new = top / ".new"
                new.write_text(f"{number}")
                new.rename(top / "count")
            laps.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield laps
    finally:
        stop.set()
        thread.join()


def test_a_snapshot_shows_one_moment_of_all_shards(cluster, pair):
    """Directories of several shards are written in turn, through two mounts: a later one never
    shows more than an earlier one, nor more than one less."""
    tops = []
    for number in range(DIRECTORIES):
        top = pair[number % 2] / f"turn{number}"
        top.mkdir()
        (top / "count").write_text("0")
        tops.append(top)
    taken = []
    with counting(tops) as laps:
        deadline = time.monotonic() + LAPS_S * LENIENT
        while len(taken) < 5 or (len(laps) < 50 and time.monotonic() < deadline):
            taken.append(f"moment{len(taken)}")
            take(cluster, taken[-1])
    seen = []
    for name in taken:
        counts = [int((pair[0] / ".snapshots" / name / t.name / "count").read_text()) for t in tops]
        assert all(counts[0] - 1 <= later <= earlier
                   for earlier, later in itertools.pairwise(counts)), counts  # fmt: skip
        seen.append(counts[0])
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] >= 0
    cfs("snapshot", "delete", *taken, *admin(cluster))


def test_snapshots_equal_what_was_frozen_whatever_happens_after(cluster, pair):
    """Under load, across two mounts, after the death of every process."""
    one, other = pair
    top = one / "model"
    top.mkdir()
    noise = [m / f"noise-{m.name}" for m in pair]
    for place in noise:
        place.mkdir()
    mutator = Mutator(top, 5)
    frozen = {}
    with counting(noise):
        for number in range(full(8, 4)):
            mutator.steps(full(120, 30))
            frozen[f"f{number}"] = picture(top)
            place = () if number % 2 else (top,)
            take(cluster, f"f{number}", *place)
            mutator.steps(10)
        for name, before in frozen.items():
            assert picture(other / "model" / ".snapshots" / name) == before
    cluster.kill_all()
    for mount in pair:
        run("umount", "-l", mount, check=False)
    cluster.up()
    cfs("mount", "--dir", cluster.state / f"client-{other.name}", other)
    for name, before in frozen.items():
        assert picture(top / ".snapshots" / name) == before
    assert "f0" not in listed(one / ".snapshots")  # it is of `model` alone
    assert "f1" in listed(one / ".snapshots")

    cfs("snapshot", "delete", "f1", *admin(cluster))
    mutator.steps(20)
    assert not (top / ".snapshots" / "f1").exists()
    for name in ("f0", "f2", "f3"):
        assert picture(other / "model" / ".snapshots" / name) == frozen[name]
    for name in ("f3", "f0", "f2"):
        cfs("snapshot", "restore", name, top)
        assert picture(other / "model") == frozen[name]
    assert not cfs("snapshot", "diff", top, "f2").stdout.strip()


def test_a_snapshot_does_not_change(cluster, pair):
    top = pair[0] / "fixed"
    top.mkdir()
    (top / "file").write_bytes(b"content")
    take(cluster, "fixed")
    past = top / ".snapshots" / "fixed"
    for change in (
        (past / "new").touch,
        lambda: (past / "file").write_bytes(b"x"),
        (past / "file").unlink,
        lambda: (past / "file").chmod(0o600),
        (past / "new").mkdir,
        lambda: os.link(past / "file", past / "link"),
        lambda: (past / "file").rename(past / "other"),
        lambda: os.setxattr(past / "file", "user.x", b"x"),
        lambda: os.truncate(past / "file", 1),
        lambda: os.utime(past / "file", (1, 1)),
    ):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    assert ".snapshots" not in listed(top)
    for name in (".snapshots",):
        with pytest.raises(FileExistsError):
            (top / name).mkdir()
        with pytest.raises(OSError):
            (top / "file").rename(top / name)
    again = pair[1] / "fixed" / ".snapshots" / "fixed" / "file"
    assert again.stat().st_ino == (past / "file").stat().st_ino != (top / "file").stat().st_ino
    shutil.rmtree(top)
    assert (pair[1] / ".snapshots" / "fixed" / "fixed" / "file").read_bytes() == b"content"


def test_data_is_shared_with_clones_and_freed_with_the_last_that_shows_it(cluster, pair):
    top = pair[0] / "space"
    top.mkdir()
    size = full(200, 20) << 20
    with (top / "big").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    kept = hashlib.sha256((top / "big").read_bytes()).digest()

    def stored():
        return cluster.status()["bytes"]["stored"]

    until(lambda: stored() > 1.45 * size, seconds=30, what="storage nodes tell what they store")
    before = stored()
    cfs("clone", top, pair[0] / "twin")
    take(cluster, "space")
    (top / "big").unlink()
    assert hashlib.sha256((pair[1] / "twin" / "big").read_bytes()).digest() == kept
    (pair[1] / "twin" / "big").unlink()
    cfs("clone", pair[0] / ".snapshots" / "space" / "space" / "big", top / "again")
    assert hashlib.sha256((top / "again").read_bytes()).digest() == kept
    assert stored() < before + size // 4
    (top / "again").unlink()
    time.sleep(full(30, 12))  # a pass of the collector: it must find nothing
    assert stored() > size
    past = pair[1] / ".snapshots" / "space" / "space" / "big"
    assert hashlib.sha256(past.read_bytes()).digest() == kept
    cfs("snapshot", "delete", "space", *admin(cluster))
    until(lambda: stored() < size // 2, seconds=60 * LENIENT, what=lambda: f"{stored()} stored")


def test_a_schedule_takes_snapshots_by_itself(cluster):
    cfs("snapshot", "schedule", "--keep", "daily=2", *admin(cluster))

    def due():
        shown = json.loads(cfs("snapshot", "list", "--json", *admin(cluster)).stdout)
        return [s for s in shown["snapshots"] if s["schedule"].startswith("daily/")]

    (one,) = until(due, seconds=20 * LENIENT, what="a snapshot of today")
    assert one["name"] in listed(cluster.mount / ".snapshots")
    cfs("snapshot", "schedule", "--keep", "none", *admin(cluster))


def test_mistakes_are_told_in_one_line(cluster, pair):
    for words, said in (
        (("snapshot", "delete", "nothing", *admin(cluster)), "no snapshot"),
        (("snapshot", "create", "a/b", *admin(cluster)), "cannot name"),
        (("snapshot", "create", "x", "/", *admin(cluster)), "not on a mounted CFS"),
        (("snapshot", "restore", "nothing", pair[0]), "does not show"),
        (("snapshot", "schedule", "--keep", "often", *admin(cluster)), "hourly=24"),
        (("clone", pair[0] / "none", pair[0] / "x"), "does not exist"),
        (("clone", pair[0], pair[0] / "x"), "lies inside"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "cfs.cli.main", *map(str, words)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode
        assert said in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
