"""Total loss of the metadata nodes, loss of a majority: what is brought back, what is said."""

import shutil
import subprocess
import sys

from tests.system.cluster import LENIENT, cfs, full, until
from tests.system.nodes import assert_same, copy_tree, stop, write_tree
from tests.system.test_fsck import CHURN, fsck
from tests.system.test_scrub import findings, scrub


def back_up(cluster, dest, *options):
    """Back up; give the line that says what was written."""
    said = cfs("admin", "backup", dest, *options, "--dir", cluster.state / "admin").stdout
    return said.splitlines()[0]


def new_pieces(line):
    """How many pieces a backup added."""
    return int(line.split(" of them new")[0].split()[-1])


def test_all_metadata_nodes_are_lost_and_restored(cluster, tmp_path):
    tree = write_tree(
        cluster.mount / "tree", seed=9, small=full(3000, 200), medium=full(50, 5),
        large_bytes=full(64 << 20, 1 << 20),
    )  # fmt: skip
    churn = subprocess.Popen([sys.executable, "-c", CHURN, str(cluster.mount / "churn")])
    try:
        until((cluster.mount / "churn").exists, seconds=20, what="the churn began")
        first = back_up(cluster, tmp_path / "bk", "--with-key", cluster.state / "meta1")
    finally:
        churn.terminate()
        churn.wait()
    copy_tree({"later": b"written after the first backup"}, cluster.mount)
    cfs("umount", cluster.mount)
    cluster.settle(seconds=20 * LENIENT)
    second = back_up(cluster, tmp_path / "bk")
    assert new_pieces(second) <= new_pieces(first)
    # of a dozen: the root group's, and those of shards that were still tidying up by themselves
    assert new_pieces(back_up(cluster, tmp_path / "bk")) <= 4
    metas = cluster.nodes("meta")
    stop(cluster, *metas)
    for name in metas:
        shutil.rmtree(cluster.state / name)
    said = cfs(
        "admin", "restore", tmp_path / "bk", "--dir", cluster.state / "meta1",
        "--log-file", "log/node.log",
    ).stdout  # fmt: skip
    assert "what was changed since is missing" in said
    cluster.up()
    cluster.settle(seconds=30 * LENIENT)
    assert_same(tree, cluster.mount / "tree")
    assert (cluster.mount / "later").read_bytes() == b"written after the first backup"
    (cluster.mount / "new").write_bytes(b"n" * 300_000)
    assert fsck(cluster)[1] == []
    scrub(cluster, "--deep")
    assert findings(cluster) == []


def test_a_damaged_backup_is_refused_by_name(cluster, tmp_path):
    back_up(cluster, tmp_path / "bk", "--with-key", cluster.state / "meta1")
    piece = max((tmp_path / "bk" / "pieces").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(data)
    done = cfs("admin", "restore", tmp_path / "bk", "--dir", tmp_path / "new", check=False)
    assert done.returncode
    assert piece.name in done.stderr


def test_a_majority_is_lost_and_a_survivor_goes_on(cluster, tmp_path):
    tree = {f"major/{n}": b"%d" % n * 5000 for n in range(40)}
    copy_tree(tree, cluster.mount)
    cfs("umount", cluster.mount)
    cluster.settle(seconds=20 * LENIENT)
    metas = cluster.nodes("meta")
    stop(cluster, *metas)
    survivor, *lost = metas
    for name in lost:
        shutil.rmtree(cluster.state / name)
    done = cfs("node", "recover-meta", "--dir", cluster.state / survivor, check=False)
    assert done.returncode
    assert "--accept-loss" in done.stderr
    cfs("node", "recover-meta", "--accept-loss", "--dir", cluster.state / survivor)
    cluster.up()
    cluster.settle(seconds=30 * LENIENT)
    assert_same(tree, cluster.mount)
    assert fsck(cluster)[1] == []
    (cluster.mount / "goes-on").write_bytes(b"x" * 200_000)
    assert (cluster.mount / "goes-on").read_bytes() == b"x" * 200_000
