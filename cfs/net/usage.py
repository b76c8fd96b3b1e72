"""Who asks this process for what, how much, and how long it takes: the last seconds, bounded.

Two windows of `WINDOW_S`: the one that fills and the one before it. In each a dimension (`method`,
`client`, `user`, `directory`) has at most `KEYS_MAX` keys; what comes beyond counts as "others".
Costs some two microseconds a request.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from cfs.core.api.insight import GetUsage, UsageReply, UsageRow
from cfs.net.handlers import Context, Handler

WINDOW_S = 5.0
KEYS_MAX = 256
OTHERS = "others"

_Counts = dict[tuple[str, str], list[float]]


class Usage:
    """The counters of one process."""

    def __init__(self) -> None:
        self._filling: _Counts = {}
        self._before: _Counts = {}
        self._sizes: dict[str, int] = {}
        self._began = -WINDOW_S

    def wrap(self, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
        """Give handlers that are counted, and one for `node.usage`."""
        counted = {name: self._counted(name, handler) for name, handler in handlers.items()}
        return {**counted, "node.usage": self._report}

    def _counted(self, name: str, handler: Handler) -> Handler:
        def counted(context: Context, request: Any, payload: Any) -> Any:
            began = trio.current_time()
            answer = handler(context, request, payload)
            if inspect.isawaitable(answer):
                return self._timed(name, context, request, payload, answer, began)
            self._note(name, context, request, payload, answer, began)
            return answer

        return counted

    async def _timed(
        self, name: str, context: Context, request: Any, payload: Any, answer: Awaitable[Any],
        began: float,
    ) -> Any:  # fmt: skip
        given = None
        try:
            given = await answer
        finally:
            self._note(name, context, request, payload, given, began)
        return given

    def _note(
        self, name: str, context: Context, request: Any, payload: Any, answer: Any, began: float
    ) -> None:
        now = trio.current_time()
        if now - self._began >= WINDOW_S:
            fresh = now - self._began < 2 * WINDOW_S
            self._before = self._filling if fresh else {}
            self._filling, self._sizes, self._began = {}, {}, now
        took = now - began
        came = len(payload) if payload else 0
        went = len(answer[1]) if isinstance(answer, tuple) else 0
        self._add("method", name, came, went, took)
        peer = getattr(context, "peer", None)
        if peer is not None:
            self._add("client", peer.name, came, went, took)
        caller = getattr(request, "caller", None)
        if caller is not None:
            self._add("user", str(caller.uid), came, went, took)
        place = _directory(request)
        if place:
            self._add("directory", str(place), came, went, took)

    def _add(self, dimension: str, key: str, came: int, went: int, took: float) -> None:
        counts = self._filling.get((dimension, key))
        if counts is None:
            size = self._sizes.get(dimension, 0)
            if size >= KEYS_MAX:
                key = OTHERS
            self._sizes[dimension] = size + 1
            counts = self._filling.setdefault((dimension, key), [0, 0, 0, 0.0])
        counts[0] += 1
        counts[1] += came
        counts[2] += went
        counts[3] += took

    def _report(self, _context: Context, _request: GetUsage, _payload: Any) -> UsageReply:
        now = trio.current_time()
        windows = [(self._filling, self._began)] if now - self._began < 2 * WINDOW_S else []
        covered = min(now - self._began, WINDOW_S) if windows else WINDOW_S
        if windows and self._before and now - self._began < WINDOW_S:
            windows.append((self._before, self._began - WINDOW_S))
            covered += WINDOW_S
        rows: _Counts = {}
        for counts, _ in windows:
            for key, values in counts.items():
                sums = rows.setdefault(key, [0, 0, 0, 0.0])
                for at, value in enumerate(values):
                    sums[at] += value
        return UsageReply(
            window_s=max(covered, 0.1),
            rows=tuple(
                UsageRow(dimension=d, key=k, count=int(v[0]), bytes_in=int(v[1]),
                         bytes_out=int(v[2]), seconds=v[3])
                for (d, k), v in rows.items()
            ),
        )  # fmt: skip


_FIRST: Callable[[Any], Any] = lambda request: request.ops[0] if request.ops else None  # noqa: E731


def _directory(request: Any) -> int:
    """Give the directory (or inode) that a request is about; 0: none."""
    about = _FIRST(request) if hasattr(request, "ops") else request
    if about is None or not hasattr(request, "shard"):
        return 0
    return getattr(about, "parent", 0) or getattr(about, "ino", 0) or 0
