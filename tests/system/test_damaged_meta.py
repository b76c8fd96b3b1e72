"""Damage in what a metadata node keeps: never a wrong answer, found, and mended from its peers."""

import os
import random
import sys

import pytest

from tests.system.cluster import LENIENT, cfs, full, run, until
from tests.system.nodes import assert_same, flip, remount, runs, stop, write_tree
from tests.system.test_scrub import findings, scrub

VICTIM = "meta2"


@pytest.fixture(scope="module")
def tree(cluster):
    """A tree on the mount."""
    return write_tree(
        cluster.mount / "tree", seed=6, small=full(2000, 150), medium=full(50, 4),
        large_bytes=full(32 << 20, 1 << 20),
    )  # fmt: skip


def replaced(cluster):
    """Wait until every replica is where its group is, and no replica is lacking."""
    cluster.settle(seconds=20 * LENIENT)


def check_whole(cluster, tree):
    """Nothing is found any more, and every byte is there with each other metadata node away."""
    scrub(cluster, "--deep")
    assert findings(cluster) == []
    for name in cluster.nodes("meta"):
        if name == VICTIM:
            continue
        stop(cluster, name)
        remount_without(cluster)
        assert_same(tree, cluster.mount / "tree")
        cluster.up()
        replaced(cluster)


def refused_by_name(cluster):
    """The damaged node ended, and its last words say what is damaged and what to do."""
    until(lambda: not runs(cluster, VICTIM), seconds=20 * LENIENT, what="it refuses")
    said = (cluster.state / VICTIM / "log" / "output.log").read_text().strip().splitlines()[-1]
    assert "damaged" in said
    assert "cfs node rebuild-meta" in said


def remount_without(cluster):
    """Mount anew while a metadata node is away."""
    cfs("umount", cluster.mount)
    cfs("mount", "--dir", cluster.state / "client", cluster.mount)


def test_bytes_flipped_in_the_state_of_a_replica(cluster, tree):
    replaced(cluster)
    state = cluster.state / VICTIM / "state" / "data.mdb"
    assert flip(state, every=4000, seed=2)
    remount(cluster)
    assert_same(tree, cluster.mount / "tree")
    if runs(cluster, VICTIM):
        stop(cluster, VICTIM)
    cluster.up()
    refused_by_name(cluster)
    said = cfs("node", "rebuild-meta", "--dir", cluster.state / VICTIM).stdout
    assert "begins empty" in said
    cluster.up()
    replaced(cluster)
    check_whole(cluster, tree)


def test_a_replica_that_lacks_records_is_found_by_a_deep_scrub_and_rebuilt(cluster, tree):
    stop(cluster, VICTIM)
    run_python(DROP, cluster.state / VICTIM / "state")
    cluster.up()
    replaced(cluster)
    remount(cluster)
    scrub(cluster, "--deep", "--report")
    found = findings(cluster)
    assert found
    assert all(f["kind"] == "replica" and f["where"] == VICTIM for f in found)
    assert_same(tree, cluster.mount / "tree")
    scrub(cluster, "--deep")
    assert findings(cluster) == []
    replaced(cluster)
    check_whole(cluster, tree)


def test_a_damaged_log_is_found_at_rest_and_written_anew(cluster, tree):
    damage_log(cluster, 9)
    scrub(cluster, "--deep", "--report")
    assert {f["kind"] for f in findings(cluster)} == {"log"}
    scrub(cluster, "--deep")
    assert findings(cluster) == []
    cluster.kill(VICTIM)
    until(lambda: not runs(cluster, VICTIM), seconds=20, what="it is gone")
    cluster.up()
    replaced(cluster)
    assert_same(tree, cluster.mount / "tree")


def test_a_damaged_log_is_refused_by_name_and_the_node_rebuilt(cluster, tree):
    stop(cluster, VICTIM)
    damage_log(cluster, 12)
    cluster.up()
    refused_by_name(cluster)
    assert_same(tree, cluster.mount / "tree")
    cfs("node", "rebuild-meta", "--discard", "--dir", cluster.state / VICTIM)
    cluster.up()
    replaced(cluster)
    check_whole(cluster, tree)


def damage_log(cluster, seed):
    """Flip bytes in the first half of the log, where later records prove that they were durable."""
    chance = random.Random(seed)
    path = min((cluster.state / VICTIM / "wal").glob("wal-*"))
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(8):
            at = chance.randrange(64, size // 2)
            old = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([old[0] ^ 0x5A]), at)
        os.fsync(file.fileno())


DROP = """
import sys, lmdb
with lmdb.open(sys.argv[1], map_size=1 << 30) as env, env.begin(write=True) as txn:
    keys = [k for k, _ in txn.cursor() if k[:2] != b"\\xff\\xff" and k[2:3] == b"i"]
    for key in keys[:: max(1, len(keys) // 5)]:
        txn.delete(key)
"""


def run_python(program, *arguments):
    """Run a few lines of Python in a process of their own."""
    run(sys.executable, "-c", program, *arguments)
