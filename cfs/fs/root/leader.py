"""Calls to the root leader: whoever it is, through changes of it.

What is tried: the leader as last heard, then the root group's voters in turn. What is sent again:
`Retryable` refusals and, for methods the table calls idempotent, calls a silent node left
unanswered.
"""

from __future__ import annotations

from typing import Any

import trio

from cfs.core.api.methods import BY_NAME
from cfs.core.errors import CfsError, DeadlineExceeded, NotLeader, Retryable, Unavailable
from cfs.fs.root.ports import Calls
from cfs.fs.root.view import ClusterView

ATTEMPT_S = 2.0
PAUSE_S = 0.05
PAUSE_S_MAX = 0.5


class RootLeader:
    """Finds the root leader and calls it."""

    def __init__(self, calls: Calls, view: ClusterView) -> None:
        self._calls = calls
        self._view = view

    async def ask(self, method: str, request: Any, *, timeout_s: float = 15.0) -> Any:
        """Call the leader; give the reply.

        Raises what the leader raises, and DeadlineExceeded or Unavailable when none was reached.
        """
        deadline = trio.current_time() + timeout_s
        pause_s = PAUSE_S
        error: CfsError = Unavailable("the root group has no leader")
        turn = 0
        node = self._view.root_leader
        while (left_s := deadline - trio.current_time()) > 0:
            if node is None:
                nodes = self._view.meta_nodes()
                node = nodes[turn % len(nodes)]
                turn += 1
                if turn % len(nodes) == 0:
                    await trio.sleep(min(pause_s, left_s))
                    pause_s = min(2 * pause_s, PAUSE_S_MAX)
            attempt_s = min(left_s, ATTEMPT_S) if BY_NAME[method].idempotent else left_s
            try:
                reply, _ = await self._calls.call(node, method, request, timeout_s=attempt_s)
            except NotLeader as other:
                error = other
                node = other.leader if other.leader != node else None
                await trio.sleep(min(PAUSE_S, left_s))
                continue
            except (Retryable, DeadlineExceeded) as other:
                if not BY_NAME[method].idempotent and not isinstance(other, Retryable):
                    raise
                error = other
                node = None
                continue
            self._view.root_leader = node
            return reply
        raise DeadlineExceeded(f"{method}: no root leader answered in time ({error})")
