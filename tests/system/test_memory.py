"""How much memory the processes take after real work, and that more work takes no more."""

import random
import time

import pytest

from tests.system.cluster import FULL, full, until
from tests.system.nodes import pack_soon

SERVER_BYTES = 200 << 20
CLIENT_BYTES = 350 << 20
GROWTH_BYTES = full(32 << 20, 24 << 20)
"""The client's caches fill up within some rounds of the cut size: 153, 204, 222, 216, 236 MiB."""
ROUND_BYTES = full(1 << 30, 64 << 20)
ROUND_FILES = full(20_000, 1_000)
BLOCK_BYTES = 4 << 20


def work(root, *, seed):
    """Write a large file and many small ones, and read them."""
    chance = random.Random(seed)
    root.mkdir()
    with (root / "large").open("wb") as file:
        for _ in range(ROUND_BYTES // BLOCK_BYTES):
            file.write(chance.randbytes(BLOCK_BYTES))
    for number in range(ROUND_FILES):
        folder = root / f"d{number // 500}"
        if number % 500 == 0:
            folder.mkdir()
        (folder / f"f{number}").write_bytes(chance.randbytes(chance.randrange(8000)))
    with (root / "large").open("rb") as file:
        while file.read(BLOCK_BYTES):
            pass
    read = sum(len(path.read_bytes()) for path in root.rglob("f*"))
    assert read > 3000 * ROUND_FILES


def measure(cluster, before):
    """Bytes of anonymous memory by process, once the small files are packed: the least of a while.

    What was packed last is folded into the store, and its memory given back, some seconds later.
    """
    patience_s = full(600, 120)
    until(lambda: not cluster.status()["bytes"]["inline"], seconds=patience_s, what="all is packed")
    least: dict[str, int] = {}
    for _ in range(full(30, 20)):
        for name in cluster.nodes():
            if name != "admin":
                least[name] = min(least.get(name, 1 << 60), cluster.rss_anon(name))
        if not FULL and all(
            used - before.get(n, 1 << 60) < GROWTH_BYTES for n, used in least.items()
        ):
            break
        time.sleep(1)
    return least


@pytest.fixture(scope="module")
def rounds(cluster):
    """Memory after each round."""
    pack_soon(cluster)
    found = []
    for number in range(full(3, 2)):
        work(cluster.mount / f"round-{number}", seed=number)
        found.append(measure(cluster, found[-1] if found else {}))
    return found


def test_memory_is_bounded(rounds):
    for found in rounds:
        assert len(found) == 7
        for name, used in found.items():
            bound = CLIENT_BYTES if name == "client" else SERVER_BYTES
            assert used < bound, f"{name} has {used >> 20} MiB; all: {megabytes(found)}"


def test_memory_does_not_grow_with_what_was_written(rounds):
    before, after = rounds[-2:]
    grown = {name: after[name] - before[name] for name in before}
    assert max(grown.values()) < GROWTH_BYTES, [megabytes(found) for found in rounds]
    if FULL:
        assert sum(grown.values()) < 2 * GROWTH_BYTES, [megabytes(found) for found in rounds]


def test_the_status_shows_what_the_processes_take(cluster, rounds):
    for node in cluster.status()["nodes"]:
        shown = node["heartbeat"]["rss_anon"]
        assert abs(shown - cluster.rss_anon(node["name"])) < 32 << 20
    assert rounds


def megabytes(found):
    return {name: used >> 20 for name, used in found.items()}
