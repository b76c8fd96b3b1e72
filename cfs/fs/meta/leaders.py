"""Calls from one meta node to whichever node leads a Raft group, this one included.

Used where the metadata service itself needs another shard: transactions across shards, collection,
totals. A group led here is called directly, without a connection.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from cfs.core.api.cluster import ClusterMap
from cfs.core.api.methods import Internal, InternalReply
from cfs.core.errors import DeadlineExceeded, NotLeader, Retryable, from_wire
from cfs.core.meta import commands, results
from cfs.net.handlers import Context, Handler

CALL_S = 5.0
PAUSE_S = 0.05
PAUSE_S_MAX = 0.5


class Pool(Protocol):
    """What is needed of `cfs.net.pool.Pool`."""

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        """Call a node."""
        ...


class Leaders:
    """Finds and calls group leaders."""

    def __init__(
        self,
        *,
        node: int,
        pool: Pool,
        cluster_map: Callable[[], ClusterMap | None],
        handlers: Mapping[str, Handler],
    ) -> None:
        self._node = node
        self._pool = pool
        self._map = cluster_map
        self._handlers = dict(handlers)
        self._known: dict[int, int] = {}

    def serve(self, handlers: Mapping[str, Handler]) -> None:
        """Call these too without a connection, when this node leads."""
        self._handlers |= handlers

    async def call(self, group: int, method: str, request: Any, *, timeout_s: float) -> Any:
        """Call the leader of `group` until it answers; retries what is `Retryable`.

        Raises DeadlineExceeded when no leader answered in time, and every final error.
        """
        deadline = trio.current_time() + timeout_s
        pause_s = PAUSE_S
        turn = 0
        node = self._known.get(group, self._node)
        while True:
            left_s = deadline - trio.current_time()
            if left_s <= 0:
                raise DeadlineExceeded(f"{method}: group {group} gave no answer in time")
            try:
                reply = await self._call_node(node, method, request, min(left_s, CALL_S))
            except (Retryable, DeadlineExceeded) as error:
                self._known.pop(group, None)
                hint = error.leader if isinstance(error, NotLeader) else None
                if hint is not None and hint != node:
                    node = hint
                    continue
                voters = self._voters(group)
                node = voters[turn % len(voters)] if voters else self._node
                turn += 1
                await trio.sleep(pause_s)
                pause_s = min(PAUSE_S_MAX, pause_s * 2)
            else:
                self._known[group] = node
                return reply

    async def command(
        self, group: int, command: commands.Command, *, timeout_s: float
    ) -> results.Result:
        """Have the leader of `group` apply a command; raise the error of a `Failed` result."""
        request = Internal(group=group, command=commands.encode_command(command))
        reply = await self.call(group, "meta.internal", request, timeout_s=timeout_s)
        assert isinstance(reply, InternalReply)
        result = results.decode_result(reply.result)
        if isinstance(result, results.Failed):
            raise from_wire(result.error)
        return result

    async def _call_node(self, node: int, method: str, request: Any, timeout_s: float) -> Any:
        if node != self._node:
            reply, _ = await self._pool.call(node, method, request, timeout_s=timeout_s)
            return reply
        context = Context(peer=None, method=method, deadline=None, epoch=0)  # type: ignore[arg-type]
        with trio.move_on_after(timeout_s):
            answer = self._handlers[method](context, request, b"")
            return await answer if inspect.isawaitable(answer) else answer
        raise DeadlineExceeded(f"{method}: this node did not finish in time")

    def _voters(self, group: int) -> tuple[int, ...]:
        cluster = self._map()
        if cluster is None:
            return ()
        return next((g.voters for g in cluster.groups if g.group == group), ())
