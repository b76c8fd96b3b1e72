"""What all nodes were asked for lately, added up (`cfs admin top`)."""

from __future__ import annotations

from typing import Any

from cfs.core.api.cluster import NodeState
from cfs.core.api.insight import GetUsage, UsageReply
from cfs.core.errors import CfsError
from cfs.fs.root.paths import Paths
from cfs.fs.root.ports import Calls
from cfs.fs.root.view import ClusterView
from cfs.net.tasks import open_tasks
from cfs.net.usage import OTHERS

ASK_S = 2.0
ROWS_MAX = 20
DIMENSIONS = ("client", "directory", "user", "method")


class UsageOfAll:
    """Asks and adds."""

    def __init__(self, *, view: ClusterView, calls: Calls, paths: Paths) -> None:
        self._view = view
        self._calls = calls
        self._paths = paths

    async def gather(self) -> dict[str, Any]:
        """Give rows by dimension, the busiest first; rates are a second."""
        replies: dict[str, UsageReply] = {}
        silent: list[str] = []

        async def ask(node: int, name: str) -> None:
            try:
                replies[name], _ = await self._calls.call(
                    node, "node.usage", GetUsage(), timeout_s=ASK_S
                )
            except CfsError:
                silent.append(name)

        async with open_tasks() as nursery:
            for node in self._view.map.nodes:
                if node.state != NodeState.OUT:
                    nursery.start_soon(ask, node.node_id, node.name)
        sums = _sums(replies)
        told: dict[str, Any] = {"silent": sorted(silent)}
        for dimension in DIMENSIONS:
            chosen = [(key, row) for (of, key), row in sums.items() if of == dimension]
            chosen.sort(key=lambda pair: (pair[0] == OTHERS, -pair[1]["ops"], pair[0]))
            told[dimension] = [{"key": key, **row} for key, row in chosen[:ROWS_MAX]]
        await self._name(told["directory"])
        return told

    async def _name(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if str(row["key"]).isdecimal():
                row["key"] = await self._paths.path_of(int(row["key"]))


def _sums(replies: dict[str, UsageReply]) -> dict[tuple[str, str], dict[str, float]]:
    sums: dict[tuple[str, str], dict[str, float]] = {}
    for reply in replies.values():
        for row in reply.rows:
            into = sums.setdefault(
                (row.dimension, row.key),
                {"ops": 0.0, "bytes_in": 0.0, "bytes_out": 0.0, "seconds": 0.0, "count": 0.0},
            )
            into["ops"] += row.count / reply.window_s
            into["bytes_in"] += row.bytes_in / reply.window_s
            into["bytes_out"] += row.bytes_out / reply.window_s
            into["seconds"] += row.seconds
            into["count"] += row.count
    for into in sums.values():
        into["latency_ms"] = round(1000 * into.pop("seconds") / max(1.0, into.pop("count")), 3)
        for name in ("ops", "bytes_in", "bytes_out"):
            into[name] = round(into[name], 1)
    return sums
