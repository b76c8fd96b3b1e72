"""Quotas on real mounts: exact at rest, EDQUOT at once, nothing accepted lost."""

import errno
import itertools
import json
import os
import threading

import pytest

from tests.system.cluster import LENIENT, cfs, full, until
from tests.system.test_snapshots import admin

MIB = 1 << 20


@pytest.fixture(scope="module")
def other(cluster, tmp_path_factory):
    return cluster.second_mount(tmp_path_factory.mktemp("second") / "mnt2")


def quotas(cluster, *options):
    rows = json.loads(cfs("quota", "list", "--json", *options, *admin(cluster)).stdout)
    return {(row["kind"], row["id"]): row for row in rows}


def of_tree(cluster, top):
    return quotas(cluster)["tree", top.stat().st_ino]


def real(top):
    """Bytes and inodes of a tree: each inode once."""
    sizes = {}
    for path in (top, *top.rglob("*")):
        found = path.lstat()
        sizes[found.st_ino] = found.st_size
    return sum(sizes.values()), len(sizes)


def exact(cluster, top):
    def same():
        row = of_tree(cluster, top)
        return (row["bytes"], row["inodes"]) == real(top)

    until(same, seconds=10 * LENIENT, what=lambda: f"{of_tree(cluster, top)} is {real(top)}")


def refused(action):
    with pytest.raises(OSError) as error:
        action()
    assert error.value.errno == errno.EDQUOT, error.value


def test_a_full_tree_gets_a_quota_that_holds(cluster):
    top = cluster.mount / "tree"
    (top / "deep" / "er").mkdir(parents=True)
    for number in range(20):
        (top / "deep" / f"f{number}").write_bytes(bytes(1000 * number))
    os.link(top / "deep" / "f3", top / "twin")
    (top / "link").symlink_to("twin")
    beside = cluster.mount / "beside"
    beside.mkdir()
    (beside / "x").write_text("x")
    cfs("quota", "set", top, "--bytes", "1M", "--inodes", "30", *admin(cluster))
    exact(cluster, top)
    before = real(top)
    shown = os.statvfs(top)
    assert shown.f_blocks * shown.f_frsize == MIB
    assert (shown.f_files, shown.f_files - shown.f_ffree) == (30, before[1])
    refused(lambda: (top / "big").write_bytes(bytes(2 * MIB)))
    refused(lambda: os.truncate(top / "deep" / "f1", 2 * MIB))
    (top / "big").unlink()
    exact(cluster, top)
    for number in range(30 - real(top)[1]):
        (top / "deep" / "er" / f"n{number}").touch()
    refused((top / "more").touch)
    refused((top / "more").mkdir)
    refused(lambda: (top / "more").symlink_to("x"))
    (top / "deep" / "f5").unlink()
    exact(cluster, top)
    (top / "more").mkdir()
    with pytest.raises(OSError) as error:
        (beside / "x").rename(top / "x")
    assert error.value.errno == errno.EXDEV
    with pytest.raises(OSError) as error:
        os.link(top / "twin", beside / "y")
    assert error.value.errno == errno.EXDEV
    (top / "twin").rename(top / "deep" / "er" / "twin")
    top.rename(beside / "tree")
    exact(cluster, beside / "tree")
    assert cfs("quota", "check", *admin(cluster)).stdout.startswith("all counts are right")
    nested = cfs("quota", "set", beside, "--bytes", "1G", *admin(cluster), check=False)
    assert nested.returncode
    assert "do not nest" in nested.stderr
    cfs("quota", "remove", beside / "tree", *admin(cluster))
    (beside / "x").rename(beside / "tree" / "x")


def test_four_writers_on_two_mounts_fill_a_tree_to_its_limit(cluster, other):
    limit = full(256, 24) * MIB
    top = cluster.mount / "shared"
    top.mkdir()
    cfs("quota", "set", top, "--bytes", str(limit), *admin(cluster))
    failures = []

    def writer(number):
        at = (cluster.mount if number % 2 else other) / "shared" / f"w{number}"
        at.mkdir()
        kept = 0
        block = os.urandom(128 << 10)
        try:
            for file in range(1000):
                with (at / f"f{file}").open("wb", buffering=0) as stream:
                    for _ in range(16):
                        kept += stream.write(block)
                    os.fsync(stream.fileno())
        except OSError as error:
            if error.errno != errno.EDQUOT:
                failures.append(error)
            held = sum(f.stat().st_size for f in at.iterdir())
            if held != kept:
                failures.append(f"writer {number} was told {kept} and has {held}")
        else:
            failures.append(f"writer {number} was never refused")

    threads = [threading.Thread(target=writer, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    used, _ = real(top)
    assert limit - 4 * 4 * MIB <= used <= limit + 4096, used
    exact(cluster, top)
    (top / "w0" / "f0").unlink()
    with (top / "w1" / "f0").open("r+b") as file:
        file.truncate(0)
    exact(cluster, top)
    until(
        lambda: _fits(other / "shared" / "again", 2 * MIB),
        seconds=10 * LENIENT,
        what="what was freed can be used",
    )
    for name in ("w1/f0", "again"):
        (top / name).unlink()
    cfs("quota", "remove", top, *admin(cluster))


def _fits(path, size):
    try:
        path.write_bytes(bytes(size))
    except OSError as error:
        if error.errno != errno.EDQUOT:
            raise
        return False
    return True


def test_users_and_groups_are_limited_wherever_they_write(cluster, other):
    user = 4321
    for mount, name in ((cluster.mount, "u1"), (other, "u2")):
        (mount / name).mkdir()
        os.chown(mount / name, user, user)
    cfs("quota", "set", "--user", user, "--bytes", "1M", "--inodes", "12", *admin(cluster))
    cfs("quota", "set", "--group", user, "--inodes", "10", *admin(cluster))
    mine = cluster.mount / "u1" / "file"
    mine.write_bytes(bytes(800_000))
    os.chown(mine, user, user)
    theirs = other / "u2" / "file"
    theirs.write_bytes(bytes(800_000))
    refused(lambda: os.chown(theirs, user, 0))
    os.chown(theirs, -1, user)
    for number in range(6):
        (other / "u2" / f"g{number}").touch()
        os.chown(other / "u2" / f"g{number}", -1, user)
    (other / "u2" / "g6").touch()
    refused(lambda: os.chown(other / "u2" / "g6", -1, user))
    found = quotas(cluster)
    assert found["user", user]["inodes"] == 3
    assert found["group", user]["inodes"] == 10
    for kind in ("--user", "--group"):
        cfs("quota", "remove", kind, user, *admin(cluster))
    os.chown(theirs, user, 0)


def test_a_soft_limit_holds_after_its_grace(cluster):
    top = cluster.mount / "soft"
    top.mkdir()
    cfs("quota", "set", top, "--soft-bytes", "100K", "--grace", "2s", *admin(cluster))
    (top / "a").write_bytes(bytes(200_000))

    tried = itertools.count()

    def held():
        """What is charged already may still be written: each time another file."""
        return not _fits(top / f"b{next(tried)}", 1000)

    until(held, seconds=20 * LENIENT, what="the grace ends")
    assert "grace until" in cfs("quota", "list", *admin(cluster)).stdout
    (top / "a").unlink()
    until(lambda: not held(), seconds=20 * LENIENT, what="below the soft limit it is free again")
    cfs("quota", "remove", top, *admin(cluster))
    cfs("admin", "fsck", *admin(cluster))
