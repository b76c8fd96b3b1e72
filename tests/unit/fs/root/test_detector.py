"""Failure detection: patience, return, grace and its guards, all on the leader's own clock."""

from __future__ import annotations

from cfs.core.api.cluster import Node, NodeState, Role
from cfs.core.api.root import Heartbeat
from cfs.core.root.commands import StateChange
from cfs.core.root.records import NodeRecord
from cfs.fs.root.detector import Detector


def _record(
    node_id: int,
    state: NodeState = NodeState.IN,
    role: Role = Role.STORAGE,
    resting: NodeState | None = None,
) -> NodeRecord:
    node = Node(
        node_id=node_id, name=f"n{node_id}", role=role, host="h", port=1, domain=f"d{node_id}",
        state=state,
    )  # fmt: skip
    return NodeRecord(node=node, resting=resting or NodeState.IN)


class Watch:
    def __init__(self, *records: NodeRecord, needed: int = 3) -> None:
        self.detector = Detector()
        self.records = {r.node.node_id: r for r in records}
        self.now = 100.0
        self.needed = needed
        self.detector.begin(self.now)

    def beat(self, *nodes: int) -> None:
        for node in nodes:
            self.detector.beat(self.now, Heartbeat(node_id=node, epoch=1, started_ms=0))

    def run(self, seconds: float, *beating: int) -> list[StateChange]:
        """Look twice a second and apply what is found, as the root group would."""
        found: list[StateChange] = []
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            self.beat(*beating)
            for change in self.detector.look(self.now, list(self.records.values()), self.needed):
                old = self.records[change.node_id]
                assert old.node.state == change.old
                self.records[change.node_id] = _record(
                    change.node_id,
                    NodeState(change.new),
                    old.node.role,
                    NodeState(change.new) if change.settled else old.resting,
                )
                found.append(change)
        return found

    def states(self) -> dict[int, str]:
        return {n: r.node.state.value for n, r in self.records.items()}


def test_joining_becomes_in_with_its_first_beat() -> None:
    watch = Watch(_record(1, NodeState.JOINING, resting=NodeState.JOINING))
    assert watch.run(2) == []
    assert [c.new for c in watch.run(1, 1)] == ["in"]


def test_silence_means_down_and_a_beat_means_back() -> None:
    watch = Watch(_record(1), _record(2))
    assert watch.run(2.5, 1) == []
    changes = watch.run(1, 1)
    assert [(c.node_id, c.new, c.settled) for c in changes] == [(2, "down", False)]
    assert [(c.node_id, c.new) for c in watch.run(0.5, 1, 2)] == [(2, "in")]


def test_a_draining_node_returns_draining() -> None:
    watch = Watch(_record(1, NodeState.DRAINING, resting=NodeState.DRAINING))
    watch.run(4)
    assert watch.states() == {1: "down"}
    watch.run(1, 1)
    assert watch.states() == {1: "draining"}


def test_a_new_leader_gives_everybody_time() -> None:
    watch = Watch(_record(1), _record(2))
    watch.run(30, 1, 2)
    watch.detector.begin(watch.now)
    assert watch.run(2.5) == []


def test_time_the_leader_stood_still_counts_for_nobody() -> None:
    watch = Watch(_record(1), _record(2))
    watch.run(5, 1, 2)
    watch.now += 60
    assert watch.run(2) == []
    assert watch.run(2.5, 1, 2) == []


def test_out_only_after_the_grace_when_enough_domains_are_left() -> None:
    watch = Watch(*(_record(n) for n in (1, 2, 3, 4)))
    watch.run(600, 1, 2, 3)
    assert watch.states()[4] == "down"
    watch.run(10, 1, 2, 3)
    assert watch.states()[4] == "out"
    watch.run(1, 1, 2, 3, 4)
    assert watch.states()[4] == "in"


def test_never_out_below_the_domains_the_profile_needs() -> None:
    watch = Watch(*(_record(n) for n in (1, 2, 3)))
    watch.run(700, 1, 2)
    assert watch.states()[3] == "down"


def test_many_at_once_are_a_network_fault() -> None:
    watch = Watch(*(_record(n) for n in range(1, 9)))
    watch.run(700, 1, 2, 3, 4, 5)
    assert list(watch.states().values()).count("down") == 3
    assert "out" not in watch.states().values()


def test_meta_nodes_keep_three() -> None:
    metas = [_record(n, role=Role.META) for n in (1, 2, 3)]
    watch = Watch(*metas)
    watch.run(700, 1, 2)
    assert watch.states()[3] == "down"


def test_an_operators_out_stays_out() -> None:
    watch = Watch(_record(1, NodeState.OUT, resting=NodeState.OUT))
    assert watch.run(2, 1) == []
