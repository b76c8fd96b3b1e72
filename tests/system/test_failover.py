"""A storage node and a leading meta node die during a copy: it goes on, and they come back."""

import itertools
import os
import subprocess
import sys
import time

from tests.system.cluster import LENIENT, full, run, until
from tests.system.test_workloads import same_trees, tree  # noqa: F401 - a fixture

PAUSE_S = 5


def test_a_copy_goes_on_without_a_storage_node_and_a_leading_meta_node(
    cluster,
    tree,  # noqa: F811
    tmp_path,
):
    target, log, stop = cluster.mount / "copies", tmp_path / "log", tmp_path / "stop"
    words = (sys.executable, "-m", "tests.system.copier", tree, target, log, stop)
    with (tmp_path / "errors").open("w+") as errors:
        copier = subprocess.Popen(list(map(str, words)), stderr=errors)
        try:
            goes_on(copier, log)
            cluster.kill("storage2")
            goes_on(copier, log)
            leads = cluster.leads()
            cluster.kill(max(leads, key=leads.get))
            goes_on(copier, log)
            stop.touch()
            code = copier.wait(timeout=full(1200, 120))
        finally:
            copier.kill()
            copier.wait()
            errors.seek(0)
            print(errors.read())
        assert code == 0
    times = [float(line.split()[0]) for line in log.read_text().splitlines()]
    pause = max(b - a for a, b in itertools.pairwise(times))
    print(f"longest pause {pause:.2f} s in {len(times)} files")
    assert pause <= PAUSE_S * LENIENT
    for copy in sorted(target.iterdir())[: full(10, 3)]:
        same_trees(tree, copy)
    cluster.up()
    cluster.settle()
    for copy in sorted(target.iterdir())[-full(10, 2) :]:
        same_trees(tree, copy)


def goes_on(copier, log):
    """Wait until many more files were copied and the cluster had the time to notice."""
    start, count = time.monotonic(), 0
    if log.exists():
        count = len(log.read_text().splitlines())

    def more():
        assert copier.poll() is None, "the copy ended early"
        enough = len(log.read_text().splitlines()) >= count + full(2000, 200)
        return enough and time.monotonic() > start + full(20, 6)

    until(log.exists, seconds=30, what="the copy starts")
    until(more, seconds=full(900, 120), what="files are copied")


def test_files_are_whole_after_each_node_died_in_turn(cluster):
    """Written with all alive, read with each one dead: any one may be missing."""
    base = cluster.mount / "turns"
    base.mkdir()
    contents = {f"f{i}": os.urandom(1 << (10 + i)) for i in range(12)}
    for name, content in contents.items():
        (base / name).write_bytes(content)
    run("sync", "-f", base)
    for node in ("storage1", "meta1"):
        cluster.kill(node)
        for name, content in contents.items():
            assert (base / name).read_bytes() == content, f"{name} without {node}"
        (base / f"without-{node}").write_bytes(contents["f9"])
        cluster.up()
        cluster.settle()
    assert all(
        (base / f"without-{n}").read_bytes() == contents["f9"] for n in ("storage1", "meta1")
    )
