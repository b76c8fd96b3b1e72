"""Finds the node that leads a Raft group, and sends again what may be sent again.

Whom to ask comes from the map (the group's voters), from what worked last, and from the hints of
replicas that do not lead. What is retried is exactly `Retryable`, and a call that a silent node
left unanswered; everything else reaches the caller. A request sent again is the same value, so a
mutation keeps its numbers.
"""

from __future__ import annotations

from typing import Any

import structlog
import trio

from cfs.core.api import root
from cfs.core.errors import (
    DeadlineExceeded,
    Locked,
    NotLeader,
    Retryable,
    StaleEpoch,
    Unavailable,
)
from cfs.core.ids import ROOT_GROUP
from cfs.fs.client.limits import Limits
from cfs.fs.client.ports import Calls, MapView

_LOG = structlog.get_logger()

PAUSE_MIN_S = 0.01
PAUSE_MAX_S = 0.25
"""Back-off between attempts: an election takes about a second."""


class Router:
    """Calls the leader of a group."""

    def __init__(self, calls: Calls, view: MapView, limits: Limits) -> None:
        self._calls = calls
        self._view = view
        self._limits = limits
        self._leaders: dict[int, int] = {}
        self._turns: dict[int, int] = {}

    def site(self) -> int:
        """Give the number of this cluster's site."""
        return self._view.map.site

    def shards(self) -> int:
        """Give the number of shards."""
        return self._view.map.shard_count

    def leader(self, group: int) -> int | None:
        """Give the node that answered last for `group`."""
        return self._leaders.get(group)

    def forget(self, group: int, node: int | None) -> None:
        """Stop believing that `node` leads `group`."""
        if self._leaders.get(group) == node:
            self._leaders.pop(group, None)

    async def call_node(self, node: int, method: str, request: Any, *, timeout_s: float) -> Any:
        """Call one node once."""
        reply, _ = await self._calls.call(node, method, request, timeout_s=timeout_s)
        return reply

    async def ask(self, group: int, method: str, request: Any, *, deadline: float) -> Any:
        """Call the leader of `group` until it answers.

        Raises DeadlineExceeded past `deadline` (trio time; the outcome is unknown), Unavailable
        with `session_unknown` when the leader wants the session opened first, and everything that
        is not retryable.
        """
        pause_s = 0.0
        node = self._leaders.get(group)
        while True:
            if node is None:
                # another call may have found the leader while this one paused
                node = self._leaders.get(group) or await self._candidate(group)
            left_s = deadline - trio.current_time()
            if left_s <= 0:
                raise DeadlineExceeded(f"{method}: group {group} gave no answer in time")
            if node is not None:
                try:
                    timeout_s = min(left_s, self._limits.attempt_s)
                    reply, _ = await self._calls.call(node, method, request, timeout_s=timeout_s)
                except (Retryable, DeadlineExceeded) as error:
                    node, again_at_once = await self._after(error, group, node)
                    if again_at_once and not pause_s:
                        pause_s = PAUSE_MIN_S
                        continue
                else:
                    self._leaders[group] = node
                    return reply
            pause_s = min(PAUSE_MAX_S, pause_s * 2 or PAUSE_MIN_S)
            await trio.sleep(min(pause_s, max(0.0, deadline - trio.current_time())))

    async def _after(
        self, error: Retryable | DeadlineExceeded, group: int, node: int
    ) -> tuple[int | None, bool]:
        """Decide whom to ask next, and whether without a pause."""
        match error:
            case NotLeader():
                self.forget(group, node)
                hint = error.leader
                if hint is not None and hint != node and hint in self._voters(group):
                    return hint, True
                return None, False
            case StaleEpoch():
                await self._refresh()
                return node, True
            case Locked():
                return node, False
            case Unavailable() if error.detail.get("session_unknown"):
                self._leaders[group] = node
                raise error
            case _:
                _LOG.debug("call_retry", group=group, node=node, error=str(error))
                self.forget(group, node)
                return None, False

    def _voters(self, group: int) -> tuple[int, ...]:
        groups = self._view.map.groups
        if group < len(groups) and groups[group].group == group:
            return groups[group].voters
        return next((g.voters for g in groups if g.group == group), ())

    async def _candidate(self, group: int) -> int | None:
        voters = self._voters(group)
        if not voters:
            await self._refresh()
            return None
        turn = self._turns[group] = self._turns.get(group, -1) + 1
        if turn and turn % len(voters) == 0:
            await self._refresh()
        return voters[turn % len(voters)]

    async def _refresh(self) -> None:
        try:
            with trio.move_on_after(self._limits.attempt_s):
                await self._view.refresh()
        except (Retryable, DeadlineExceeded) as error:
            _LOG.debug("map_refresh_failed", error=str(error))


async def new_session(router: Router, name: str, *, deadline: float) -> int:
    """Ask the root group for a session id that was never given before."""
    reply = await router.ask(
        ROOT_GROUP, "root.session", root.NewSession(client=name), deadline=deadline
    )
    assert isinstance(reply, root.NewSessionReply)
    return reply.session
