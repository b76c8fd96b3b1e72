"""Raft under chance: seeded faults, checkers at every step, and progress once healed."""

from __future__ import annotations

import pytest

from cfs.core.raft.message import Transfer
from tests.model.raft_cluster import Cluster, Node

SEEDS_PER_BATCH = 25


def _fault(cluster: Cluster, node: Node, *, torn: bool, acknowledged: bool) -> None:
    chance = cluster.random
    roll = chance.random()
    everyone = sorted(cluster.nodes)
    if torn and roll < 0.06:
        # Power loss of all, and most tails are torn.
        for each in cluster.nodes.values():
            _crash(cluster, each, torn=chance.random() < 0.9, acknowledged=acknowledged)
    elif roll < 0.22:
        _crash(cluster, node, torn=torn and chance.random() < 0.7, acknowledged=acknowledged)
    elif roll < 0.40 and len(everyone) > 1:
        cluster.partition(set(chance.sample(everyone, chance.randint(1, len(everyone) - 1))))
    elif roll < 0.50 and len(everyone) > 1:
        cluster.cut = {tuple(chance.sample(everyone, 2)) for _ in range(chance.randint(1, 3))}
    elif roll < 0.70:
        cluster.heal()
    elif roll < 0.80:
        cluster.drop, cluster.duplicate = chance.choice((0, 0.05, 0.3)), chance.choice((0, 0.2))
        cluster.slow = chance.choice((0, 0.02, 0.2))
    elif roll < 0.90:
        node.stalled_until = cluster.now + chance.randint(50, 500)
    elif (leader := cluster.leader()) is not None:
        leader.give(Transfer(peer=chance.choice(everyone)))


def _crash(cluster: Cluster, node: Node, *, torn: bool, acknowledged: bool) -> None:
    """Crash; a torn tail takes what was acknowledged, votes too, from a minority at a time."""
    chance = cluster.random
    if not node.up:
        return
    node.crash()
    if torn:
        others = sum(other.lost for other in cluster.nodes.values() if other is not node)
        may_lose = acknowledged and others < (len(cluster.nodes) - 1) // 2
        node.tear(chance.randint(0, 3) if may_lose else 0)
    cluster.at(chance.randint(1, 700), _restart, node)


def _restart(node: Node) -> None:
    if not node.up:
        node.start()


def _client(cluster: Cluster) -> None:
    chance = cluster.random
    up = [node for node in cluster.nodes.values() if node.up]
    if not up:
        return
    leader = cluster.leader() or chance.choice(up)
    node = leader if chance.random() < 0.8 else chance.choice(up)
    roll = chance.random()
    if roll < 0.6:
        for _ in range(chance.randint(1, 5)):
            cluster.propose(node, chance.randbytes(chance.randint(0, 60)))
    elif roll < 0.9:
        # Whoever thinks it leads, a deposed leader above all, must not answer with the past.
        leads = [node for node in up if node.machine.role == "leader"]
        cluster.read(chance.choice(leads or up))
    else:
        chance.choice(up).persist()


def _change(cluster: Cluster) -> None:
    chance = cluster.random
    leader = cluster.leader()
    if leader is None:
        return
    everyone = sorted(cluster.nodes)
    voters = tuple(chance.sample(everyone, chance.randint(1, len(everyone))))
    rest = [number for number in everyone if number not in voters]
    learners = tuple(chance.sample(rest, chance.randint(0, len(rest))))
    cluster.propose_config(leader, voters, learners)


def run_seed(
    seed: int, *, torn: bool = False, acknowledged: bool = False, duration_ms: int = 4000
) -> Cluster:
    """Run one history; raises AssertionError from a checker or when progress fails.

    `torn`: crashes tear tails; `acknowledged`: and a minority's lose what was durable.
    """
    size = (1 if not acknowledged else 3, 3, 3, 3, 4, 5)[seed % 6]
    changes = not acknowledged and seed % 3 == 0
    voters = tuple(range(1, size + 1))
    spare = tuple(range(size + 1, size + 1 + (2 if changes else 0)))
    cluster = Cluster(seed, voters, spare=spare)
    cluster.fresh_only = torn
    chance = cluster.random
    while cluster.now < duration_ms:
        cluster.run(chance.randint(1, 40))
        _client(cluster)
        if chance.random() < 0.08:
            node = chance.choice(list(cluster.nodes.values()))
            _fault(cluster, node, torn=torn, acknowledged=acknowledged)
        if changes and chance.random() < 0.06:
            _change(cluster)
    _expect_progress(cluster)
    return cluster


def _expect_progress(cluster: Cluster) -> None:
    """Heal everything: a leader, a commit of its own, equal replicas, reads that come back."""
    cluster.heal()
    for node in cluster.nodes.values():
        node.stalled_until = 0
        if not node.up:
            node.start()
    before = cluster.commit_max
    state = {"token": 0}

    def committed() -> bool:
        leader = cluster.leader()
        position = cluster.proposed.get(state["token"])
        found = cluster.applied.get(position[0]) if position is not None else None
        if found is not None and position is not None and found.term == position[1]:
            return True
        if leader is not None and cluster.now % 100 == 0:
            state["token"] = cluster.propose(leader, b"after healing")
        return False

    cluster.now = cluster.now // 10 * 10 + 10
    assert cluster.run_until(committed, 8000), "no progress after healing"
    assert cluster.commit_max > before

    def equal() -> bool:
        leader = cluster.leader()
        if leader is None:
            return False
        machine, config = leader.machine, leader.machine.config
        members = {*config.voters, *config.learners, *config.outgoing}
        applied = {cluster.nodes[number].applied for number in members}
        return machine.config_settled and applied == {machine.last_index}

    assert cluster.run_until(equal, 8000), "replicas did not become equal after healing"
    leader = cluster.leader()
    assert leader is not None
    done = cluster.reads_done
    cluster.read(leader)
    assert cluster.run_until(lambda: cluster.reads_done > done, 2000), "no read after healing"


@pytest.mark.parametrize("batch", range(8))
def test_histories(batch: int) -> None:
    for seed in range(batch * SEEDS_PER_BATCH, (batch + 1) * SEEDS_PER_BATCH):
        try:
            run_seed(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("batch", range(4))
def test_histories_with_lost_tails(batch: int) -> None:
    for seed in range(batch * SEEDS_PER_BATCH, (batch + 1) * SEEDS_PER_BATCH):
        try:
            run_seed(seed, torn=True, acknowledged=True)
        except AssertionError as error:
            raise AssertionError(f"lost seed {seed}: {error}") from error


@pytest.mark.parametrize("batch", range(2))
def test_histories_with_torn_tails_and_changes(batch: int) -> None:
    for seed in range(batch * SEEDS_PER_BATCH, (batch + 1) * SEEDS_PER_BATCH):
        try:
            run_seed(seed, torn=True)
        except AssertionError as error:
            raise AssertionError(f"torn seed {seed}: {error}") from error


def test_a_seed_replays_identically() -> None:
    first, second = (run_seed(7, duration_ms=1500) for _ in range(2))
    assert first.applied == second.applied
    assert (first.now, first.leaders) == (second.now, second.leaders)
