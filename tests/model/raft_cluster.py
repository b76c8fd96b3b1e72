"""A Raft group on virtual time: disks that lose what is not saved, a network that misbehaves.

Everything follows from one seed. The checkers run at every step and raise `AssertionError`:

* election safety: one incarnation of one node leads a term
* log matching: an `(index, term)` has one content and one predecessor, on every disk, ever
* leader completeness: a new leader holds all that was committed in earlier terms
* durability: what a leader commits is on the disks of a quorum at that moment
* state-machine safety: every replica applies the same entry at an index, in order, once
* leases: when a leader says earlier leaders' leases were over, none held later, but for drift
* reads: a read's index is not below anything that was committed when it was asked
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cfs.core.raft import message as m
from cfs.core.raft.machine import Machine
from cfs.core.raft.settings import Settings

SETTINGS = Settings(
    heartbeat_ms=50,
    election_ms_min=200,
    election_ms_max=400,
    lease_margin_ms=60,
    append_bytes_max=400,
    inflight_max=4,
    inflight_bytes_max=2000,
    log_bytes_max=1200,
)


class _DoubtEnds:
    """Stands among effects for the record that a replica no longer doubts its log."""


@dataclass
class Disk:
    """What survives a crash."""

    base: m.SnapshotMeta
    state: m.HardState = field(default_factory=m.HardState)
    entries: list[m.Entry] = field(default_factory=list)
    applied: int = 0
    digest: int = 0
    before: deque[tuple[m.HardState, list[m.Entry]]] = field(
        default_factory=lambda: deque(maxlen=4)
    )
    """What was there before each of the last saves: a tail may take them, votes and all."""

    def lose(self, count: int) -> bool:
        """Undo up to `count` saves, acknowledged or not, but nothing that is applied."""
        lost = False
        while count and self.before:
            count -= 1
            state, entries = self.before.pop()
            if self.base.index + len(entries) < self.applied:
                break
            self.state, self.entries, lost = state, entries, True
        self.before.clear()
        return lost

    def save(self, save: m.Save) -> None:
        self.before.append((self.state, list(self.entries)))
        self.state = save.state
        cut = save.truncate_from
        if save.entries:
            cut = min(cut or save.entries[0].index, save.entries[0].index)
        if cut is not None:
            assert cut > self.base.index, "a save reaches below the log's base"
            del self.entries[cut - self.base.index - 1 :]
        for entry in save.entries:
            assert entry.index == self.base.index + len(self.entries) + 1, "a gap on disk"
            self.entries.append(entry)

    def term_at(self, index: int) -> int | None:
        position = index - self.base.index - 1
        if position == -1:
            return self.base.term
        return self.entries[position].term if 0 <= position < len(self.entries) else None


class Node:
    """One replica's host: executes effects in the order the contract demands."""

    def __init__(self, cluster: Cluster, number: int, disk: Disk) -> None:
        self.cluster = cluster
        self.number = number
        self.disk = disk
        self.incarnation = 0
        self.up = False
        self.led = False
        self.doubtful = False
        self.lost = False
        """A tail was lost that may have been acknowledged, and the doubt has not ended since."""
        self.stalled_until = 0
        self.lease_seen = -1.0
        """Latest true time at which this node knew that its lease held."""
        self.clock_offset = cluster.random.randrange(0, 100_000)
        self.clock_rate = 1.0 + cluster.random.uniform(-cluster.drift, cluster.drift)
        self.machine: Machine

    # --- life ---

    def start(self) -> None:
        disk, cluster = self.disk, self.cluster
        self.incarnation += 1
        self.up = True
        self.ticked_ms = self.clock_offset
        self.inbox: list[m.Event] = []
        self.turn_due = False
        self.saves: list[tuple[m.Save, list[m.Effect | _DoubtEnds]]] = []
        self.save_free_at = 0
        self.last_leader_term = 0
        self.applied, self.digest = disk.applied, disk.digest
        self.machine = Machine(
            group=1,
            node=self.number,
            state=disk.state,
            snapshot=disk.base,
            entries=list(disk.entries),
            applied=disk.applied,
            settings=cluster.settings,
            seed=cluster.random.getrandbits(64),
            doubtful=self.doubtful,
        )
        self.config, self.led = self.machine.config, False
        cluster.at(0, self.tick, self.incarnation)

    def crash(self) -> None:
        """Lose everything but a random prefix of the saves under way."""
        self.up = False
        for save, _ in self.saves[: self.cluster.random.randint(0, len(self.saves))]:
            self.disk.save(save)
            self.cluster.check_saved(self)
        self.saves = []

    def tear(self, saves: int) -> None:
        """Tear the tail of a crashed node's log: doubt, and `saves` durable saves gone."""
        self.doubtful = True
        self.lost = self.disk.lose(saves) or self.lost

    def clock(self) -> int:
        return int(self.cluster.now * self.clock_rate) + self.clock_offset

    def true_time(self, clock_ms: int) -> float:
        return (clock_ms - self.clock_offset) / self.clock_rate

    def tick(self, incarnation: int) -> None:
        if self.up and incarnation == self.incarnation:
            if self.cluster.now >= self.stalled_until:
                self.give(m.Tick(now_ms=self.clock()))
            self.cluster.at(self.cluster.tick_ms, self.tick, incarnation)

    def give(self, event: m.Event) -> None:
        self.inbox.append(event)
        if not self.turn_due:
            self.turn_due = True
            delay = self.cluster.random.choice((0, 0, 1, 3)) if self.cluster.jitter else 0
            self.cluster.at(delay, self.turn, self.incarnation)

    def turn(self, incarnation: int) -> None:
        if not self.up or incarnation != self.incarnation:
            return
        if self.cluster.now < self.stalled_until:
            self.cluster.at(self.stalled_until - self.cluster.now, self.turn, incarnation)
            return
        self.turn_due = False
        events, self.inbox = self.inbox, []
        ticks = [event.now_ms for event in events if isinstance(event, m.Tick)]
        self.ticked_ms = max([self.ticked_ms, *ticks])
        if any(isinstance(event, m.Read) for event in events):
            events.insert(0, m.Tick(now_ms=self.clock()))
            self.ticked_ms = max(self.ticked_ms, self.clock())
        restored = [event for event in events if isinstance(event, m.SnapshotRestored)]
        for event in restored:
            events.remove(event)
        for event in restored:
            self.install(event)
        self.execute(self.machine.step_many(events))

    # --- effects ---

    def execute(self, effects: list[m.Effect]) -> None:
        cluster = self.cluster
        own_save = False
        for effect in effects:
            if isinstance(effect, m.Save):
                own_save = True
                delay = cluster.random.randint(*cluster.save_ms)
                self.save_free_at = max(self.save_free_at, cluster.now + delay)
                self.saves.append((effect, []))
                cluster.at(self.save_free_at - cluster.now, self.saved, self.incarnation)
            elif self.saves and (own_save or (isinstance(effect, m.Send) and effect.after_save)):
                self.saves[-1][1].append(effect)
            else:
                self.perform(effect)
        if self.doubtful and not self.machine.doubtful:
            if self.saves:
                self.saves[-1][1].append(_DoubtEnds())
            else:
                self.perform(_DoubtEnds())
        cluster.check_step(self)

    def saved(self, incarnation: int) -> None:
        if not self.up or incarnation != self.incarnation or not self.saves:
            return
        save, blocked = self.saves.pop(0)
        self.disk.save(save)
        self.cluster.check_saved(self)
        for effect in blocked:
            self.perform(effect)
        self.give(m.Saved(number=save.number))

    def perform(self, effect: m.Effect | _DoubtEnds) -> None:
        cluster = self.cluster
        match effect:
            case _DoubtEnds():
                self.doubtful = self.lost = False
            case m.Send(message=message):
                cluster.send(self, m.decode(m.encode(message)))
            case m.Apply(entries=entries):
                for entry in entries:
                    assert entry.index == self.applied + 1, "applied out of order"
                    assert self.disk.term_at(entry.index) == entry.term, "applied, not durable"
                    self.applied = entry.index
                    self.digest = hash((self.digest, entry.index, entry.term, entry.data))
                    cluster.check_applied(self, entry)
            case m.SendSnapshot(peer=peer, term=term):
                cluster.stream(self, peer, term)
            case m.ReadReady(token=token, index=index):
                cluster.read_ready(token, index)
            case m.ReadFailed(token=token):
                cluster.reads.pop(token)
                cluster.reads_failed += 1
            case m.RoleChanged(role="leader", term=term):
                cluster.check_leader(self, term)
            case m.Proposed(token=token, index=index, term=term):
                cluster.proposed[token] = (index, term)
            case m.Dropped(token=token):
                cluster.dropped.add(token)
            case _:
                pass
        cluster.trace(self, effect)

    def persist(self) -> None:
        """Make the applied state durable, then let the log forget it."""
        self.disk.applied, self.disk.digest = self.applied, self.digest
        self.execute(self.machine.step(m.Compact(index=self.applied)))
        base = self.machine.base
        if base.index > self.disk.base.index and self.disk.term_at(base.index) == base.term:
            del self.disk.entries[: base.index - self.disk.base.index]
            self.disk.before.clear()
            self.disk.base = base

    def install(self, event: m.SnapshotRestored) -> None:
        meta = event.meta
        if not self.machine.accepts_snapshot(meta):
            return
        # The host's own saves end first; then state and log base change together.
        for save, _ in self.saves:
            self.disk.save(save)
            self.cluster.check_saved(self)
        blocked = [effect for _, effects in self.saves for effect in effects]
        last = self.saves[-1][0].number if self.saves else 0
        self.saves = []
        self.disk.base, self.disk.entries = meta, []
        self.disk.before.clear()
        self.digest = self.disk.digest = self.cluster.digests[meta.index]
        self.applied = self.disk.applied = meta.index
        for effect in blocked:
            if not isinstance(effect, m.Apply):
                self.perform(effect)
        self.cluster.snapshots += 1
        self.execute(self.machine.step_many([m.Saved(number=last), event] if last else [event]))


class Cluster:
    """Nodes, their network, and what the checkers remember."""

    def __init__(
        self,
        seed: int,
        voters: tuple[int, ...],
        *,
        spare: tuple[int, ...] = (),
        settings: Settings = SETTINGS,
        jitter: bool = True,
        drift: float = 0.05,
    ) -> None:
        self.random = random.Random(seed)
        self.settings = settings
        self.jitter = jitter
        self.drift = drift
        self.now = 0
        self.tick_ms = 25
        self.save_ms = (1, 12) if jitter else (1, 1)
        self.delay_ms = (1, 12) if jitter else (1, 1)
        self.drop = self.duplicate = self.slow = 0.0
        self.fresh_only = False
        self.cut: set[tuple[int, int]] = set()
        self.traces: list[str] | None = None
        self._queue: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = 0
        self._token = 0
        self.leaders: dict[int, tuple[int, int]] = {}
        self.contents: dict[tuple[int, int], tuple[m.Entry, int]] = {}
        self.committed: dict[int, tuple[int, int]] = {}
        self.commit_max = 0
        self.applied: dict[int, m.Entry] = {}
        self.digests: dict[int, int] = {0: 0}
        self.reads: dict[int, int] = {}
        self.reads_done = self.reads_failed = self.snapshots = 0
        self.proposed: dict[int, tuple[int, int]] = {}
        self.dropped: set[int] = set()
        self.nodes: dict[int, Node] = {}
        for number in voters + spare:
            config = m.Config(voters=voters if number in voters else ())
            self.nodes[number] = Node(
                self, number, Disk(m.SnapshotMeta(index=0, term=0, config=config))
            )
        for node in self.nodes.values():
            node.start()

    # --- time ---

    def at(self, delay: int, call: Callable[..., None], *arguments: object) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay, self._order, call, arguments))

    def run(self, duration_ms: int) -> None:
        end = self.now + duration_ms
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call, arguments = heapq.heappop(self._queue)
            call(*arguments)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_ms: int) -> bool:
        end = self.now + limit_ms
        while not condition():
            if self.now >= end:
                return False
            self.run(10)
        return True

    def trace(self, node: Node, effect: m.Effect | _DoubtEnds) -> None:
        if self.traces is not None:
            self.traces.append(f"{self.now} n{node.number} {effect}")

    # --- network ---

    def send(self, node: Node, message: m.AnyMessage) -> None:
        chance = self.random
        if (node.number, message.receiver) in self.cut or chance.random() < self.drop:
            return
        for _ in range(2 if chance.random() < self.duplicate else 1):
            delay = chance.randint(*self.delay_ms)
            if chance.random() < self.slow:
                delay += chance.randint(0, 600)
            target = self.nodes.get(message.receiver)
            incarnations = (node.incarnation, target.incarnation if target else 0)
            self.at(delay, self._deliver, message, incarnations)

    def _deliver(self, message: m.AnyMessage, incarnations: tuple[int, int]) -> None:
        node = self.nodes.get(message.receiver)
        if node is None or not node.up or (message.sender, message.receiver) in self.cut:
            return
        now = (self.nodes[message.sender].incarnation, node.incarnation)
        if self.fresh_only and now != incarnations:
            return
        node.give(m.Received(message=message))

    def stream(self, node: Node, peer: int, term: int) -> None:
        index = node.applied
        meta = node.machine.meta_at(index)
        delay = self.random.randint(5, 150)
        ok = (node.number, peer) not in self.cut and self.random.random() >= self.drop
        self.at(delay, self._stream_ended, node, node.incarnation, peer, meta, term, ok)

    def _stream_ended(
        self,
        node: Node,
        incarnation: int,
        peer: int,
        meta: m.SnapshotMeta,
        term: int,
        ok: bool,  # noqa: FBT001
    ) -> None:
        target = self.nodes[peer]
        if ok and target.up:
            target.give(m.SnapshotRestored(meta=meta, sender=node.number, term=term))
        if node.up and node.incarnation == incarnation:
            node.give(m.SnapshotSent(peer=peer, ok=ok and target.up))

    def partition(self, group: set[int]) -> None:
        """Cut `group` off the others, both ways."""
        others = set(self.nodes) - group
        self.cut = {(a, b) for a in group for b in others} | {(b, a) for a in group for b in others}

    def heal(self) -> None:
        self.cut = set()
        self.drop = self.duplicate = self.slow = 0.0

    # --- clients ---

    def leader(self) -> Node | None:
        """The leader of the highest term, if one thinks so."""
        found = [n for n in self.nodes.values() if n.up and n.machine.role == "leader"]
        return max(found, key=lambda n: n.machine.term, default=None)

    def propose(self, node: Node, data: bytes) -> int:
        self._token += 1
        node.give(m.Propose(token=self._token, data=data))
        return self._token

    def propose_config(
        self, node: Node, voters: tuple[int, ...], learners: tuple[int, ...] = ()
    ) -> int:
        self._token += 1
        node.give(m.ProposeConfig(token=self._token, voters=voters, learners=learners))
        return self._token

    def read(self, node: Node) -> int:
        self._token += 1
        self.reads[self._token] = self.commit_max
        node.give(m.Read(token=self._token))
        return self._token

    def read_ready(self, token: int, index: int) -> None:
        required = self.reads.pop(token)
        assert index >= required, f"stale read: {index} < {required}"
        self.reads_done += 1

    # --- checkers ---

    def check_leader(self, node: Node, term: int) -> None:
        who = (node.number, node.incarnation)
        assert self.leaders.setdefault(term, who) == who, f"two leaders in term {term}"

    def check_step(self, node: Node) -> None:
        machine = node.machine
        leads = machine.role == "leader"
        if machine.lease_holds:
            node.lease_seen = max(node.lease_seen, node.true_time(node.ticked_ms))
        if leads and machine.term != node.last_leader_term:
            node.last_leader_term = machine.term
            self.check_leader(node, machine.term)
            over = node.true_time(machine.others_over_ms)
            latest = max((n.lease_seen for n in self.nodes.values() if n is not node), default=-1)
            # one clock measured how long the other's lease lasts: both may be wrong all that time
            wrong = 2 * self.drift * (self.now - over + Settings().election_ms_min)
            assert latest <= over + 10 + wrong, "a lease held longer"
            for index, (term, by_term) in self.committed.items():
                if by_term < machine.term and index >= machine.first_index:
                    assert index <= machine.last_index, f"leader lacks committed {index}"
                    assert machine.meta_at(index).term == term, f"leader lost committed {index}"
        commit = machine.commit
        if (leads or node.led) and commit > self.commit_max:
            self._check_committed(node, commit)
            self.commit_max = commit
        node.config, node.led = machine.config, leads

    def _check_committed(self, node: Node, commit: int) -> None:
        machine = node.machine
        term = machine.meta_at(commit).term
        if not self.fresh_only:
            # The latest configuration in its log decides, and a step may have appended one more.
            assert any(
                self._on_quorum(config, commit, term) for config in (machine.config, node.config)
            ), f"{commit} not on a quorum"
        for index in range(self.commit_max + 1, commit + 1):
            if index >= machine.first_index:
                self.committed[index] = (machine.meta_at(index).term, machine.term)

    def _on_quorum(self, config: m.Config, index: int, term: int) -> bool:
        def has(half: tuple[int, ...]) -> bool:
            holders = [v for v in half if self._holds(self.nodes[v].disk, index, term)]
            return not half or len(holders) > len(half) // 2

        return has(config.voters) and has(config.outgoing)

    @staticmethod
    def _holds(disk: Disk, index: int, term: int) -> bool:
        return disk.base.index >= index or disk.term_at(index) == term

    def check_saved(self, node: Node) -> None:
        disk = node.disk
        for entry in disk.entries[-8:]:
            before = disk.term_at(entry.index - 1)
            assert before is not None
            known = self.contents.setdefault((entry.index, entry.term), (entry, before))
            assert known == (entry, before), f"logs differ at {entry.index}, term {entry.term}"

    def check_applied(self, node: Node, entry: m.Entry) -> None:
        known = self.applied.setdefault(entry.index, entry)
        assert known == entry, f"applied differently at {entry.index}"
        digest = self.digests.setdefault(entry.index, node.digest)
        assert digest == node.digest, f"states differ at {entry.index}"
