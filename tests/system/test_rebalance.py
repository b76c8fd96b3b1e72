"""A cluster is replaced node by node while files are written: every one is identical at the end."""

import shutil

import pytest

from tests.system.cluster import FULL, full, run, until
from tests.system.nodes import assert_same, stop, write_tree
from tests.system.redundancy import Load, add, admin, jobs, nodes, remount, start

PORT = 17_340


@pytest.mark.skipif(not FULL, reason="takes 100 s: full size only")
def test_three_nodes_replace_three_under_load(cluster):
    """Storage: three join, data spreads, the old three are drained and removed. A leader dies."""
    tree = write_tree(
        cluster.mount, seed=5, small=60, medium=20, large_bytes=full(400 << 20, 12 << 20)
    )
    load = Load(cluster.mount / "load", seed=6)
    load.start()
    old = cluster.nodes("storage")
    new = [f"storage{n}" for n in (4, 5, 6)]
    for number, name in enumerate(new):
        add(cluster, name, port=PORT + number)
    shown = admin(cluster, "rebalance", "--dry-run").stdout
    assert "group members move" in shown
    admin(cluster, "rebalance", timeout=300)
    held = nodes(cluster)
    assert all(abs(held[n]["groups"] - 512) <= 1 for n in (*old, *new))
    assert "nothing moves" in admin(cluster, "rebalance", "--dry-run").stdout

    admin(cluster, "node", "drain", old[0], "--detach")
    leads = cluster.leads()
    leader = max(leads, key=leads.get)
    cluster.kill(leader)
    until(lambda: nodes_or_none(cluster, old[0]) == 0, seconds=240, what=lambda: jobs(cluster))
    start(cluster, leader)
    for name in old[1:]:
        admin(cluster, "node", "drain", name, timeout=300)
    until(lambda: all(j["state"] == "done" for j in jobs(cluster)), seconds=240,
          what=lambda: jobs(cluster))  # fmt: skip
    refused = admin(cluster, "node", "drain", new[0], check=False)
    assert refused.returncode == 1
    assert "failure domains" in refused.stderr
    for name in old:
        assert nodes(cluster)[name]["groups"] == 0
        admin(cluster, "node", "remove", name)
        stop(cluster, name)
        shutil.rmtree(cluster.state / name)
    load.end()
    remount(cluster)
    assert_same(tree, cluster.mount)
    load.verify()
    run("sync", "-f", cluster.mount)


def test_a_metadata_node_is_replaced_by_another(cluster):
    """The one that leads most goes: its replicas move, leaders hand over, nothing is lost."""
    load = Load(cluster.mount / "load2", seed=7)
    load.start()
    add(cluster, "meta4", port=PORT + 10, role="meta")
    leads = cluster.leads()
    leaving = max((n for n in leads if n != "meta4"), key=leads.get)
    admin(cluster, "node", "drain", leaving, timeout=300)
    held = nodes(cluster)
    assert held[leaving]["groups"] == 0
    assert all(held[n]["groups"] for n in cluster.nodes("meta") if n != leaving)
    admin(cluster, "node", "remove", leaving)
    stop(cluster, leaving)
    shutil.rmtree(cluster.state / leaving)
    left = cluster.nodes("meta")
    refused = admin(cluster, "node", "drain", left[0], check=False)
    assert refused.returncode == 1
    assert "add a metadata node first" in refused.stderr
    load.end()
    remount(cluster)
    load.verify()


def nodes_or_none(cluster, name):
    try:
        return nodes(cluster)[name]["groups"]
    except AssertionError:
        return None
