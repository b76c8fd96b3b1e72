"""The profile changes while files are written; two nodes may be lost afterwards, not one."""

from tests.system.cluster import full, until
from tests.system.nodes import assert_same, write_tree
from tests.system.redundancy import Load, add, admin, jobs, remount

PORT = 17_380


def test_a_new_profile_re_encodes_what_is_stored(cluster):
    tree = write_tree(
        cluster.mount, seed=8, small=40, medium=20, large_bytes=full(300 << 20, 8 << 20)
    )
    refused = admin(cluster, "profile", "set", "2+2", check=False)
    assert refused.returncode == 1
    assert "needs 4 failure domains" in refused.stderr
    load = Load(cluster.mount / "load", seed=9)
    load.start()
    add(cluster, "storage4", port=PORT)
    admin(cluster, "profile", "set", "2+2", timeout=300)
    assert admin(cluster, "profile", "show").stdout.strip() == "2+2"
    load.end()
    until(lambda: all(j["state"] == "done" for j in jobs(cluster)), seconds=240,
          what=lambda: jobs(cluster))  # fmt: skip
    until(lambda: cluster.status()["health"] == "ok", seconds=240, what="all is well")
    cluster.kill("storage1")
    cluster.kill("storage3")
    remount(cluster)
    assert_same(tree, cluster.mount)
    load.verify()
