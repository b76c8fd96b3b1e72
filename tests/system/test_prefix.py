"""What survives a crash of the client, or of everything, is a prefix of what the client did."""

import contextlib
import random
import subprocess
import sys

import pytest

from tests.system import history
from tests.system.cluster import FULL, cfs, full, run, until

CLIENTS = full(5, 3)
ROUNDS = full(40, 3)
STEPS = 220


class Writer:
    """A client of its own, and the histories it was killed in."""

    def __init__(self, cluster, number, tmp_path):
        self.cluster = cluster
        self.name = f"writer{number}"
        self._tmp_path = tmp_path
        self.mount = cluster.mount.with_name(self.name)
        cluster.second_mount(self.mount)

    def pid(self):
        return self.cluster.pid(f"client-{self.name}")

    def mount_again(self):
        directory = self.cluster.state / f"client-{self.name}"
        cfs("mount", "--dir", directory, self.mount)

    def begin(self, seed, *, kill_at, delay_ms, pids, made_by=None):
        """Start a history in a directory of its own; made by another client if one is given."""
        self.seed = seed
        self.base = f"{self.name}-{seed}"
        self.log = self._tmp_path / f"{self.base}.log"
        for root in history.ROOTS:
            ((made_by or self.mount) / self.base / root).mkdir(parents=True)
        words = (
            sys.executable, "-m", "tests.system.history", self.mount / self.base, seed, STEPS,
            self.log, kill_at, delay_ms, *pids,
        )  # fmt: skip
        self._process = subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, text=True)

    def wait(self):
        said = self._process.communicate(timeout=120)[0]
        assert self._process.returncode == 0, said
        return said

    def check(self):
        """Compare what another client finds with every prefix; give how much was lost."""
        begun, done = history.noted(self.log)
        expected = history.History(self.seed, STEPS)
        found = history.walk(self.cluster.mount / self.base)
        count, why = expected.survived(found, begun, done)
        assert count is not None, f"seed {self.seed}, {done} of {begun} were done: {why}"
        return done - count


@pytest.fixture(scope="module")
def writers(cluster, tmp_path_factory):
    made = [Writer(cluster, n, tmp_path_factory.mktemp("histories")) for n in range(CLIENTS)]
    yield made
    for writer in made:
        with contextlib.suppress(subprocess.TimeoutExpired):
            cfs("umount", writer.mount, check=False, timeout=30)
        run("umount", "-l", writer.mount, check=False)


def kill_point(chance):
    return {"kill_at": chance.randrange(1, STEPS), "delay_ms": chance.choice((0, 0, 1, 5, 20, 60))}


def gone(mount):
    return str(mount) not in open("/proc/self/mounts").read()  # noqa: PTH123


def on_local_disk(base, history_, *, stop, without=-1):
    """Carry out a history up to `stop`, or until an operation misses the one left out."""
    for root in history.ROOTS:
        (base / root).mkdir(parents=True)
    for index, (call, _, arguments) in enumerate(history_.calls[:stop]):
        if index != without and call != "pause":
            try:
                history.perform(base, call, arguments)
            except OSError:
                assert without >= 0
                break
    return history.walk(base)


def test_the_checker_finds_where_a_history_ended_and_that_one_has_a_hole(tmp_path):
    refused = 0
    for seed in range(20):
        chance = random.Random(seed)
        made = history.History(seed, 120)
        stop = chance.randrange(120)
        found = on_local_disk(tmp_path / f"{seed}", made, stop=stop)
        assert made.survived(found, stop, stop) == (stop, "")
        assert made.survived(found, 120, 0)[0] >= stop
        found = on_local_disk(tmp_path / f"{seed}h", made, stop=120, without=stop)
        refused += made.survived(found, 120, 0)[0] is None
    assert refused > 5, "the others left out what shows nowhere"


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_killed_client_leaves_a_prefix(cluster, writers, number):
    chance = random.Random(number)
    for index, writer in enumerate(writers):
        writer.begin(
            1000 * index + number,
            **kill_point(chance),
            pids=[writer.pid()],
            made_by=cluster.mount if index == 1 else None,
        )
    for writer in writers:
        writer.wait()
    lost = [writer.check() for writer in writers]
    print(f"round {number}: lost {lost} operations")
    for writer in writers:
        until(lambda w=writer: gone(w.mount), seconds=20, what=f"{writer.mount} stays")
        writer.mount_again()


@pytest.mark.parametrize("number", range(full(20, 1)))
def test_everything_killed_leaves_a_prefix(cluster, writers, number):
    chance = random.Random(10_000 + number)
    nodes = [n for n in cluster.nodes() if cluster.pid(n)]
    pids = [cluster.pid(n) for n in nodes]
    for index, writer in enumerate(writers):
        writer.begin(50_000 + 1000 * index + number, **kill_point(chance), pids=pids)
    for writer in writers:
        writer.wait()
    cluster.kill_all()
    cluster.up()
    lost = [writer.check() for writer in writers]
    print(f"round {number}: lost {lost} operations")
    for writer in writers:
        until(lambda w=writer: gone(w.mount), seconds=20, what=f"{writer.mount} stays")
        writer.mount_again()
    cluster.settle()


@pytest.mark.skipif(not FULL, reason="seen green once at cut size: docs/acceptance.md")
@pytest.mark.parametrize("number", range(full(20, 1)))
def test_killed_servers_lose_nothing_of_clients_that_live(cluster, writers, number):
    chance = random.Random(20_000 + number)
    servers = [cluster.pid(n) for n in (*cluster.nodes("meta"), *cluster.nodes("storage"))]
    for index, writer in enumerate(writers):
        pids = [] if index else servers
        writer.begin(80_000 + 1000 * index + number, **kill_point(chance), pids=pids)
    until(lambda: not any(alive(pid) for pid in servers), seconds=60, what="servers are not killed")
    cluster.up()
    said = [writer.wait() for writer in writers]
    assert said == [""] * len(writers), "no operation failed"
    for writer in writers:
        assert history.noted(writer.log) == (STEPS, STEPS)
        assert writer.check() == 0
    cluster.settle()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
