"""Scrub on a real cluster: damage at rest is found, named, mended; and what it mended is whole."""

import json
import signal

import pytest

from tests.system.cluster import LENIENT, Cluster, cfs, full, until
from tests.system.nodes import (
    assert_same,
    flip,
    pack_soon,
    remount,
    settle,
    stop,
    storage_status,
    volumes,
    write_tree,
)

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
        cluster.mount / "tree", seed=4, small=full(2000, 100), medium=full(200, 12),
        large_bytes=full(256 << 20, 8 << 20),
    )  # fmt: skip
    settle(cluster)
    return made


def scrub(cluster, *options):
    """Run a scrub to its end; give the result of its job."""
    admin = cluster.state / "admin"
    said = cfs("admin", "scrub", *options, "--json", "--dir", admin, timeout=full(600, 240)).stdout
    events = [json.loads(line) for line in said.splitlines()]
    return events[-1]


def findings(cluster, *options):
    """What is open, or with --all everything that was found."""
    said = cfs("admin", "findings", *options, "--json", "--dir", cluster.state / "admin").stdout
    return json.loads(said)["findings"]


def all_in(cluster):
    """Wait until every node is in and was heard of."""

    def are_in():
        return all(n["state"] == "in" and n["heartbeat"] for n in cluster.status()["nodes"])

    until(are_in, seconds=20 * LENIENT, what="every node is in")


def read_without(cluster, tree, name):
    """Read everything while a storage node is away: what is missing elsewhere shows."""
    cluster.kill(name, signal.SIGSTOP)
    try:
        remount(cluster)
        assert_same(tree, cluster.mount / "tree")
    finally:
        cluster.kill(name, signal.SIGCONT)
    all_in(cluster)


def test_nothing_is_wrong_with_what_was_just_written(cluster, tree):
    scrub(cluster, "--deep")
    assert findings(cluster, "--all") == []
    stored = storage_status(cluster.status(), VICTIM)
    assert stored["scrub_damaged"] == 0


def test_damage_at_rest_is_reported_named_and_mended(cluster, tree):
    flipped = sum(flip(p, every=300_000, seed=n) for n, p in enumerate(volumes(cluster, VICTIM)))
    assert flipped
    scrub(cluster, "--node", VICTIM, "--report")
    found = findings(cluster, "--files")
    assert found
    assert all(f["state"] == "open" and f["where"].startswith(VICTIM) for f in found)
    named = {path.removeprefix("/tree/") for f in found for path in f["files"]}
    assert named & set(tree)
    scrub(cluster, "--node", VICTIM)
    assert findings(cluster) == []
    assert {f["state"] for f in findings(cluster, "--all")} == {"repaired"}
    before = len(findings(cluster, "--all"))
    scrub(cluster, "--all")
    assert len(findings(cluster, "--all")) == before
    read_without(cluster, tree, "storage2")
    assert storage_status(cluster.status(), VICTIM)["scrub_repaired"] > 0


def test_a_lost_volume_is_found_by_a_deep_scrub_and_made_anew(cluster, tree):
    stop(cluster, VICTIM)
    for path in volumes(cluster, VICTIM):
        path.unlink()
    cluster.up()
    all_in(cluster)
    ended = scrub(cluster, "--deep")
    assert ended["findings"] > 0
    assert findings(cluster) == []
    assert any("missing" in f["detail"] for f in findings(cluster, "--all"))
    read_without(cluster, tree, "storage3")


def test_one_file_can_be_proved(cluster, tree):
    for number, path in enumerate(volumes(cluster, VICTIM)):
        flip(path, every=100_000, seed=40 + number)
    scrub(cluster, cluster.mount / "tree" / "large")
    scrub(cluster, "/tree")
    scrub(cluster, "--deep")
    assert findings(cluster) == []
    read_without(cluster, tree, "storage2")


def test_a_read_of_damage_has_it_mended(cluster, tree):
    for number, path in enumerate(volumes(cluster, VICTIM)):
        flip(path, every=20_000, seed=80 + number)
    repaired = storage_status(cluster.status(), VICTIM)["scrub_repaired"]
    remount(cluster)
    assert_same(tree, cluster.mount / "tree")

    def mended():
        return storage_status(cluster.status(), VICTIM)["scrub_repaired"] > repaired

    until(mended, seconds=30 * LENIENT, what="what a read refused is mended")
