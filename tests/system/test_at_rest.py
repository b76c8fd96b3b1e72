"""What lies on the disks: nothing plain, nothing twice, nothing for ever, nothing wrong."""

import shutil
import threading

import pytest

from tests.system.cluster import LENIENT, Cluster, full, until
from tests.system.nodes import (
    allocated,
    assert_same,
    copy_tree,
    find_bytes,
    flip,
    pack_soon,
    remount,
    runs,
    settle,
    stop,
    storage_status,
    volumes,
    write_tree,
)

MARK = b"a passage that nobody else would ever write: wexlibrund"
NAME = "unmistakable-quendelforst"
VICTIM = "storage1"


@pytest.fixture(scope="module")
def cluster(cluster: Cluster):
    """The module's cluster, with small files packed after a second."""
    pack_soon(cluster)
    return cluster


@pytest.fixture(scope="module")
def tree(cluster):
    """A tree on the mount, all of it in segments."""
    made = write_tree(
        cluster.mount / "tree", seed=1, small=full(4000, 250), medium=full(200, 20),
        large_bytes=full(256 << 20, 12 << 20),
    )  # fmt: skip
    settle(cluster)
    return made


def test_figures_are_what_the_disks_hold(cluster, tree):
    logical = sum(map(len, tree.values()))

    def agree():
        found = cluster.status()["bytes"]
        return found if abs(found["allocated"] - allocated(cluster)) < 1 << 16 else None

    found = until(agree, seconds=20, what="the heartbeats show what is stored")
    assert found["logical"] == logical
    assert 0.9 * logical < found["deduplicated"] <= logical
    assert found["compressed"] < found["deduplicated"]
    assert abs(found["stored"] - allocated(cluster)) < 0.05 * allocated(cluster)
    assert 1.4 * found["compressed"] < found["stored"] < 1.7 * found["compressed"]
    for apart in ("meta_logs", "meta_state", "store_indexes"):
        assert found[apart] > 0, apart


def test_the_same_tree_again_takes_no_space(cluster, tree):
    before = settle(cluster, sum(map(len, tree.values())))
    used = allocated(cluster)
    copy_tree(tree, cluster.mount / "again")
    after = settle(cluster, 2 * before["logical"])
    assert after["logical"] == 2 * before["logical"]
    assert allocated(cluster) - used < 0.05 * used
    assert_same(tree, cluster.mount / "again")


def test_nothing_plain_lies_on_a_storage_node(cluster, tree):
    folder = cluster.mount / f"folder-{NAME}"
    folder.mkdir()
    (folder / f"{NAME}.txt").write_bytes(MARK)
    (folder / f"{NAME}.big").write_bytes(b"".join(b"%8d %s\n" % (i, MARK) for i in range(40_000)))
    needles = [MARK, MARK[:24], NAME.encode(), b"small-1", b"medium-1"]
    contents = [c for c in tree.values() if len(c) > 64]
    needles += [c[len(c) // 2 :][:16] for c in contents[:: len(contents) // 12]]
    assert find_bytes(folder, [MARK])  # so it would be found
    settle(cluster)
    for name in cluster.nodes("storage"):
        assert find_bytes(cluster.state / name, [b"CFSr"]), "the search reaches the volume logs"
        assert find_bytes(cluster.state / name, needles) == []


def test_a_damaged_index_never_gives_a_wrong_byte(cluster, tree):
    index = cluster.state / VICTIM / "disk" / "index" / "data.mdb"
    remount(cluster)
    assert flip(index, every=200, seed=2)
    assert_same(tree, cluster.mount / "tree")
    if runs(cluster, VICTIM):
        stop(cluster, VICTIM)
    remount(cluster)
    assert_same(tree, cluster.mount / "tree")
    assert runs(cluster, VICTIM)


def test_damaged_volume_logs_never_give_a_wrong_byte(cluster, tree):
    settle(cluster)
    counted = cluster.status()["bytes"]["corrupt_reads"]
    for number, path in enumerate(volumes(cluster, VICTIM)):
        assert flip(path, every=20_000, seed=number)
    remount(cluster)
    assert_same(tree, cluster.mount / "tree")

    def noticed():
        status = cluster.status()
        lines = [p for p in status["problems"] if VICTIM in p and "wrong checksums" in p]
        return status["bytes"]["corrupt_reads"] > counted and lines

    until(noticed, seconds=20, what="the status shows damaged reads")
    assert storage_status(cluster.status(), VICTIM)["corrupt_reads"] > 0
    # the same after the node replayed damaged logs
    stop(cluster, VICTIM)
    remount(cluster)
    assert_same(tree, cluster.mount / "tree")
    assert runs(cluster, VICTIM)


def test_deleted_trees_give_their_space_back_while_others_write(cluster, tree):
    names = sorted(p.name for p in cluster.mount.iterdir())
    done = threading.Event()
    written = {}

    def write():
        number = 0
        while not done.is_set() and number < 2000:
            content = b"%d kept\n" % number * 2000
            path = cluster.mount / f"kept-{number % 50}"
            path.write_bytes(content)
            written[path] = content
            number += 1
            done.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for name in names:
            shutil.rmtree(cluster.mount / name)
        until(
            lambda: allocated(cluster) < full(16 << 20, 3 << 20),
            seconds=full(60, 40) * LENIENT,
            what=lambda: f"space is given back; {allocated(cluster)} bytes are left",
        )
        until(lambda: len(written) == 50, seconds=60, what="the writer has written every file")
    finally:
        done.set()
        writer.join(60)
    remount(cluster)
    for path, content in written.items():
        assert path.read_bytes() == content
