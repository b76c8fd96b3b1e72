"""Runs the Raft stories beside it: each line of a `.txt` is a step or an expectation.

Steps

    group 1 2 3 [spare 4 5]         nodes; spare ones wait with an empty configuration
    reads by round                  no leases (before `group`)
    elect 1                         bring node 1 to leadership, whatever it takes
    wait 500                        let so many milliseconds pass
    cut 3 | heal                    separate nodes from the others; join everyone again
    tear 3 [losing 2]               crashed: its log's tail is torn; it lost so many durable saves
    crash 3 | restart 3             lose what is not saved; come back with what is
    propose 1 "text" [5 times]      give a command to a node
    read 1                          ask a node for a linearizable read
    transfer 1 to 2                 ask a leader to hand over
    change 1 voters 1 2 learners 3  ask a leader for another membership
    persist 1                       make its state durable and let its log go
    remember term | remember commit the highest of all nodes that are up

Expectations (after `expect`)

    leader 1 | no leader            who leads the highest term; nobody leads at all
    role 3 candidate                what a node says it is
    term unchanged | term risen     against what was remembered
    commit unchanged | commit risen likewise
    same state 1 2 3                these applied the same, up to the same index
    doubtful 1 3 | sure 2           whose logs lost a tail and have not caught up since
    waits for 1 | waits for         whom the candidates cannot do without, for lost tails
    behind 3                        node 3 applied less than the leader
    read ready | failed | waiting   what became of the last read
    proposal taken | dropped        what became of the last proposal
    committed | lost                whether the last proposal taken was applied as it was
    snapshots 1                     how many were installed so far
    voters of 1: 1 2 | learners of 1: 3 | outgoing of 1:
"""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import pytest

from cfs.core.raft import message as m
from tests.model.raft_cluster import SETTINGS, Cluster

STORIES = sorted(Path(__file__).parent.glob("*.txt"))
_STEPS_MAX = 200


class Story:
    """A cluster without chance, told what to do line by line."""

    def __init__(self) -> None:
        self.settings = SETTINGS
        self.cluster: Cluster
        self.token = self.read_token = 0
        self.remembered: dict[str, int] = {}

    def tell(self, line: str) -> None:
        words = shlex.split(line)
        if words[0] == "expect":
            assert self.holds(words[1:]), line
        else:
            self.do(words)

    def node(self, word: str):
        return self.cluster.nodes[int(word)]

    def leaders(self) -> list[int]:
        nodes = self.cluster.nodes.values()
        return [node.number for node in nodes if node.up and node.machine.role == "leader"]

    def value(self, name: str) -> int:
        up = [node.machine for node in self.cluster.nodes.values() if node.up]
        return max(machine.term if name == "term" else machine.commit for machine in up)

    def do(self, words: list[str]) -> None:
        match words:
            case ["reads", "by", "round"]:
                self.settings = msgspec.structs.replace(self.settings, lease_reads=False)
            case ["group", *names]:
                cut = names.index("spare") if "spare" in names else len(names)
                voters, spare = (tuple(map(int, part)) for part in (names[:cut], names[cut + 1 :]))
                self.cluster = Cluster(
                    1, voters, spare=spare, settings=self.settings, jitter=False, drift=0.0
                )
            case ["elect", name]:
                self.elect(int(name))
            case ["wait", duration]:
                self.cluster.run(int(duration))
            case ["cut", *names]:
                self.cluster.partition(set(map(int, names)))
            case ["heal"]:
                self.cluster.heal()
            case ["crash", name]:
                self.node(name).crash()
            case ["tear", name]:
                self.node(name).tear(0)
            case ["tear", name, "losing", count]:
                self.node(name).tear(int(count))
            case ["restart", name]:
                self.node(name).start()
            case ["propose", name, text]:
                self.token = self.cluster.propose(self.node(name), text.encode())
            case ["propose", name, text, count, "times"]:
                for number in range(int(count)):
                    data = f"{text} {number}".encode()
                    self.token = self.cluster.propose(self.node(name), data)
            case ["read", name]:
                self.read_token = self.cluster.read(self.node(name))
            case ["transfer", name, "to", peer]:
                self.node(name).give(m.Transfer(peer=int(peer)))
            case ["change", name, "voters", *names]:
                cut = names.index("learners") if "learners" in names else len(names)
                voters, learners = (tuple(map(int, p)) for p in (names[:cut], names[cut + 1 :]))
                self.token = self.cluster.propose_config(self.node(name), voters, learners)
            case ["persist", name]:
                self.node(name).persist()
            case ["remember", name]:
                self.remembered[name] = self.value(name)
            case _:
                raise ValueError(words)

    def elect(self, wanted: int) -> None:
        for _ in range(_STEPS_MAX):
            leader = self.cluster.leader()
            if leader is not None and leader.number == wanted:
                return
            if leader is not None:
                leader.give(m.Transfer(peer=wanted))
            self.cluster.run(50)
        raise AssertionError(f"node {wanted} was not elected")

    def holds(self, words: list[str]) -> bool:
        cluster = self.cluster
        match words:
            case ["leader", name]:
                leader = cluster.leader()
                return leader is not None and leader.number == int(name)
            case ["no", "leader"]:
                return not self.leaders()
            case ["role", name, role]:
                return self.node(name).machine.role == role
            case ["term" | "commit" as name, "unchanged"]:
                return self.value(name) == self.remembered[name]
            case ["term" | "commit" as name, "risen"]:
                return self.value(name) > self.remembered[name]
            case ["same", "state", *names]:
                return len({(self.node(n).applied, self.node(n).digest) for n in names}) == 1
            case ["doubtful" | "sure" as word, *names]:
                doubts = {self.node(name).machine.doubtful for name in names}
                return doubts == {word == "doubtful"}
            case ["waits", "for", *names]:
                up = [node for node in cluster.nodes.values() if node.up]
                missing = {number for node in up for number in node.machine.waits_for}
                return missing == set(map(int, names))
            case ["behind", name]:
                leader = cluster.leader()
                return leader is not None and self.node(name).applied < leader.applied
            case ["read", outcome]:
                return self.read_outcome() == outcome
            case ["proposal", outcome]:
                taken = self.token in cluster.proposed
                return outcome == ("taken" if taken else "dropped")
            case ["committed" | "lost" as outcome]:
                index, term = cluster.proposed[self.token]
                entry = cluster.applied.get(index)
                applied = entry is not None and entry.term == term
                return outcome == ("committed" if applied else "lost")
            case ["snapshots", count]:
                return cluster.snapshots == int(count)
            case ["voters" | "learners" | "outgoing" as half, "of", name, *names]:
                members = getattr(self.node(name.rstrip(":")).machine.config, half)
                return members == tuple(map(int, names))
            case _:
                raise ValueError(words)

    def read_outcome(self) -> str:
        if self.read_token in self.cluster.reads:
            return "waiting"
        return "ready" if self.cluster.reads_done and not self.cluster.reads_failed else "failed"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    story = Story()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        told = line.partition("#")[0].strip()
        if told:
            try:
                story.tell(told)
            except AssertionError as error:
                raise AssertionError(f"{path.name}:{number}: {line}: {error}") from error
