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


class RootLeader:
    """Finds the root leader and calls it."""

    def __init__(self, calls: Calls, view: ClusterView) -> None:
        self._calls = calls
        self._view = view
        self._turn = -1

    async def ask(
        self, method: str, request: Any, *, timeout_s: float = 15.0, attempt_s: float = ATTEMPT_S
    ) -> Any:
        """Call the leader; give the reply. One silent node costs `attempt_s` at most.

        Raises what the leader raises, and DeadlineExceeded when none was reached.
        """
        deadline = trio.current_time() + timeout_s
        idempotent = BY_NAME[method].idempotent
        error: CfsError = Unavailable("the root group has no leader")
        node = self._view.root_leader
        while (left_s := deadline - trio.current_time()) > 0:
            if node is None:
                node = await self._candidate(left_s)
            try:
                reply, _ = await self._calls.call(
                    node,
                    method,
                    request,
                    timeout_s=min(left_s, attempt_s) if idempotent else left_s,
                )
            except NotLeader as other:
                error = other
                self._forget(node)
                node = other.leader if other.leader != node else None
                await trio.sleep(min(PAUSE_S, left_s))
            except (Retryable, DeadlineExceeded) as other:
                self._forget(node)
                if not idempotent and not isinstance(other, Retryable):
                    raise
                error, node = other, None
            else:
                self._view.root_leader = node
                return reply
        refused = bool(error.detail.get("refused"))
        text = f"{method}: no root leader answered in time ({error})"
        raise DeadlineExceeded(text, refused=refused)

    async def _candidate(self, left_s: float) -> int:
        """Give the next meta node to try; pause once a round."""
        nodes = self._view.meta_nodes()
        if not nodes:
            raise Unavailable("the cluster map names no metadata node")
        self._turn += 1
        if self._turn % len(nodes) == 0:
            await trio.sleep(min(PAUSE_S, left_s))
        return nodes[self._turn % len(nodes)]

    def _forget(self, node: int) -> None:
        if self._view.root_leader == node:
            self._view.root_leader = None
