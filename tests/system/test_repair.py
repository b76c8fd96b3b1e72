"""Nodes and disks are lost, together and during a repair: nothing is, and redundancy comes back."""

import os
import shutil
import signal

import pytest

from tests.system.cluster import Cluster, full, run, until
from tests.system.nodes import assert_same, configure, runs, stop, storage_status, write_tree
from tests.system.redundancy import Load, admin, jobs, nodes, remount, start, state_of

GRACE_S = 3


@pytest.fixture
def made(tmp_path):
    """A cluster that the test makes itself."""
    cluster = Cluster(tmp_path / "state", tmp_path / "mnt")
    try:
        yield cluster
    finally:
        cluster.down()
        if not os.path.ismount(cluster.mount):
            shutil.rmtree(tmp_path, ignore_errors=True)


def place(cluster, name):
    """How many placement groups name a node."""
    return nodes(cluster)[name]["groups"]


def test_losses_with_seven_nodes_and_two_parities(made):
    """Two at once, one returns, the other is repaired, during which one more goes, and a leader."""
    made.up("--storage", "7", "--profile", "4+2")
    admin(made, "set", "grace_s", GRACE_S)
    admin(made, "set", "repair_rate", "200K")
    tree = write_tree(
        made.mount, seed=1, small=40, medium=20, large_bytes=full(400 << 20, 12 << 20)
    )
    load = Load(made.mount / "load", seed=2)
    load.start()
    run("sync", "-f", made.mount)
    before = place(made, "storage2")

    made.kill("storage1")
    made.kill("storage2")
    for name in ("storage1", "storage2"):
        until(lambda n=name: state_of(made, n) == "down", seconds=180, what=f"{name} is down")
    assert_same(tree, made.mount)
    assert not jobs(made, "repair"), "five domains are in, the profile needs six"
    start(made, "storage2")
    until(lambda: state_of(made, "storage2") == "in", seconds=180, what="storage2 is back")
    assert place(made, "storage2") >= before, "it is where it was, and may be given more"

    until(lambda: jobs(made, "repair"), seconds=180, what="the repair begins")
    job = jobs(made, "repair")[0]
    until(lambda: any(j["done"] for j in jobs(made, "repair")), seconds=240, what="it has begun")
    made.kill("storage3")
    leads = made.leads()
    made.kill(max(leads, key=leads.get), signal.SIGKILL)
    until(lambda: jobs(made, "repair"), seconds=180, what="another leader answers")
    admin(made, "job", "rate", job["id"], "none", check=False)  # it may be done already
    start(made, "storage3")
    until(lambda: place(made, "storage1") == 0, seconds=240, what=lambda: jobs(made))
    until(
        lambda: {j["state"] for j in jobs(made, "repair")} == {"done"}, seconds=180, what="it ends"
    )

    for name in made.nodes("meta"):
        if not runs(made, name):
            start(made, name)
    made.kill("storage4")
    made.kill("storage5")
    load.end()
    remount(made)
    assert_same(tree, made.mount)
    load.verify()


def test_a_lost_disk_is_filled_anew(made):
    made.up()
    second = made.state / "storage2" / "disk2"
    configure(made, "storage2", "storage", disks=f'["disk", "{second}"]')
    stop(made, "storage2")
    start(made, "storage2")
    admin(made, "set", "grace_s", GRACE_S)
    tree = write_tree(
        made.mount, seed=3, small=30, medium=20, large_bytes=full(200 << 20, 10 << 20)
    )
    run("sync", "-f", made.mount)
    until(
        lambda: storage_status(made.status(), "storage2")["stored"] > 0, seconds=180, what="stored"
    )
    made.kill("storage2")
    shutil.rmtree(second)
    start(made, "storage2")
    until(
        lambda: [j for j in jobs(made, "repair") if j["state"] == "done"],
        seconds=240,
        what=lambda: jobs(made),
    )
    made.kill("storage3")
    remount(made)
    assert_same(tree, made.mount)
