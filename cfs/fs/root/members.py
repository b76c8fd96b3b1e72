"""Brings this node's Raft groups to what the map says; every meta node runs it.

For a group that the map gives to this node and that is not here: a passive replica, which waits
for the group's leader to find it. For a group this node leads, one step at a time:

    1. new members become learners
    2. learners that caught up become voters
    3. once every wanted voter votes, the others leave; a leader that must leave hands over first
    4. leadership goes to the preferred voter, when that one is up and has caught up

A node no longer wanted is removed from the membership before its replica is dropped.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
import trio

from cfs.core.api.cluster import NodeState, ShardPlacement
from cfs.core.errors import CfsError
from cfs.core.raft.message import Config
from cfs.fs.root.ports import Group, Host
from cfs.fs.root.view import ClusterView
from cfs.fs.root.workers import Worker

_LOG = structlog.get_logger()

PERIOD_S = 0.25
STEP_S = 10.0
"""A membership change that takes longer is abandoned and looked at anew."""
HANDOVER_PAUSE_S = 3.0
"""At most one leadership transfer in so long, from this node."""
HANDOVER_RETRY_S = 30.0
"""A transfer that failed held proposals back for an election's time: not again soon."""
CREATES_AT_ONCE = 8
"""Each blocks the loop for one sync of the log."""
CHANGES_AT_ONCE = 8
"""Groups that change members at the same time: each may stream a snapshot."""
LAG_MAX = 256
"""Entries a learner may be behind and still count as caught up."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next membership, or whom to hand leadership to."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    transfer: int = 0


def next_step(
    *, me: int, config: Config, wanted: ShardPlacement, caught_up: frozenset[int],
    up: frozenset[int],
) -> Step | None:  # fmt: skip
    """Decide the next step of a group that `me` leads; None when it is as wanted.

    `caught_up`: members that follow closely. Leadership transfers come last.
    """
    if config.outgoing:
        return None
    voters, learners = config.voters, config.learners
    absent = tuple(v for v in wanted.voters if v not in voters and v not in learners)
    extra_learners = tuple(n for n in wanted.learners if n not in voters and n not in learners)
    if absent or extra_learners:
        return Step(voters=voters, learners=learners + absent + extra_learners)
    ready = tuple(n for n in learners if n in wanted.voters and n in caught_up)
    if ready:
        return Step(voters=voters + ready, learners=tuple(n for n in learners if n not in ready))
    if not set(wanted.voters) <= set(voters):
        return None  # some learner has not caught up: wait, nobody leaves
    if set(voters) != set(wanted.voters) or set(learners) != set(wanted.learners):
        if me not in wanted.voters:
            heir = next((v for v in wanted.voters if v in caught_up and v in up), 0)
            return Step(transfer=heir) if heir else None
        return Step(voters=wanted.voters, learners=wanted.learners)
    preferred = wanted.voters[0]
    if preferred != me and preferred in up and preferred in caught_up:
        return Step(transfer=preferred)
    return None


class Members:
    """The reconciler."""

    def __init__(self, *, node_id: int, host: Host, view: ClusterView, worker: Worker) -> None:
        self._me = node_id
        self._host = host
        self._view = view
        self._worker = worker
        self._handed_over_at = -HANDOVER_PAUSE_S
        self._refused_at: dict[int, float] = {}
        self._busy: set[int] = set()
        self._leaving = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reconcile until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._create_missing()
                await self._remove_left()
                for number, step in self._due():
                    self._busy.add(number)
                    nursery.start_soon(self._take, number, step)
                self._worker.state = f"changing {len(self._busy)} groups" if self._busy else "idle"
                await trio.sleep(PERIOD_S)

    async def hand_over(self) -> None:
        """Hand every group led here to a voter that is up and has caught up; stops reconciling."""
        self._leaving = True
        async with trio.open_nursery() as nursery:
            for number, group in list(self._host.groups.items()):
                config: Config = group.config
                if not group.is_leader or not group.machine.config_settled:
                    continue
                heirs = caught_up_members(group) & self._up() & frozenset(config.voters)
                heirs -= {self._me}
                if heirs:
                    nursery.start_soon(self._take, number, Step(transfer=min(heirs)))

    def _up(self) -> frozenset[int]:
        return frozenset(
            n.node_id
            for n in self._view.map.nodes
            if n.state in (NodeState.IN, NodeState.DRAINING, NodeState.JOINING)
        )

    def _create_missing(self) -> None:
        created = 0
        for wanted in self._view.map.groups:
            mine = self._me in wanted.voters or self._me in wanted.learners
            if mine and wanted.group not in self._host.groups:
                self._host.create(wanted.group, ())
                _LOG.info("replica_created", group=wanted.group)
                created += 1
                if created == CREATES_AT_ONCE:
                    return

    async def _remove_left(self) -> None:
        """Drop replicas of groups that neither the map nor the group's membership gives us."""
        wanted = {
            g.group for g in self._view.map.groups if self._me in g.voters or self._me in g.learners
        }
        for number, group in list(self._host.groups.items()):
            config: Config = group.config
            members = config.voters + config.learners + config.outgoing
            # A passive replica that no leader has found yet has an empty membership: it stays.
            # So does one whose membership is not committed: it may be needed after all.
            left = members and self._me not in members and group.machine.config_settled
            if number not in wanted and left:
                await self._host.remove(number)
                _LOG.info("replica_removed", group=number)

    def _due(self) -> list[tuple[int, Step]]:
        due: list[tuple[int, Step]] = []
        now = trio.current_time()
        up = self._up()
        if self._leaving:
            return due
        for wanted in self._view.map.groups:
            group: Group | None = self._host.groups.get(wanted.group)
            if group is None or not group.is_leader or not group.ready:
                continue
            if wanted.group in self._busy or not wanted.voters:
                continue
            if not group.machine.config_settled:
                continue
            caught_up = caught_up_members(group)
            step = next_step(
                me=self._me, config=group.config, wanted=wanted, caught_up=caught_up, up=up
            )
            if step is None:
                continue
            if len(self._busy) + len(due) >= CHANGES_AT_ONCE:
                break
            if step.transfer:
                refused_s = now - self._refused_at.get(wanted.group, -HANDOVER_RETRY_S)
                if now - self._handed_over_at < HANDOVER_PAUSE_S or refused_s < HANDOVER_RETRY_S:
                    continue
                self._handed_over_at = now
            due.append((wanted.group, step))
        return due

    async def _take(self, number: int, step: Step) -> None:
        group: Group | None = self._host.groups.get(number)
        try:
            if group is None:
                return
            with trio.move_on_after(STEP_S):
                if step.transfer:
                    _LOG.info("leadership_transfer", group=number, to=step.transfer)
                    await group.transfer(step.transfer)
                else:
                    _LOG.info("members_change", group=number, voters=step.voters,
                              learners=step.learners)  # fmt: skip
                    await group.change_config(step.voters, step.learners)
            self._worker.last_error = ""
        except CfsError as error:
            self._worker.last_error = f"group {number}: {error}"
            if step.transfer:
                self._refused_at[number] = trio.current_time()
            _LOG.info("members_change_failed", group=number, error=str(error))
        finally:
            self._busy.discard(number)


def caught_up_members(group: Any) -> frozenset[int]:
    """Give the members whose log follows the leader's closely, as its machine knows."""
    machine = group.machine
    config: Config = machine.config
    return frozenset(
        n
        for n in config.voters + config.learners
        if (matched := machine.match(n)) and machine.last_index - matched <= LAG_MAX
    )
