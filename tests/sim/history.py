"""What clients did, when, and what of it may be gone.

An operation is *strict* when its answer is known and must be explained; *optional* when it may have
taken effect or not: its answer never came, or its client died (or lost its session) before it was
durable. Optional operations of one client on one object form a *chain*: what survives is a prefix
(of what it did at the same time, nobody can say which was first). Answers that a client saw of its
own optional operations are not held against anyone.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

CHANGES = frozenset({
    "create", "mkdir", "symlink", "unlink", "rmdir", "rename", "link", "write", "append",
    "truncate", "replace",
})  # fmt: skip


@dataclasses.dataclass(eq=False)
class Op:
    """One operation on one object."""

    index: int
    client: str
    object: str
    kind: str
    args: tuple[Any, ...]
    invoke: float
    ret: float = math.inf
    result: tuple[str, Any] | None = None
    """("ok", value), ("error", errno), or None: nobody knows."""
    durable: bool = False
    optional: bool = False
    dropped: bool = False
    doubtful: bool = False
    """Its client lost something while it was under way: it may rest on that."""
    before: Op | None = None
    """An optional operation that must have taken effect if this one did."""

    @property
    def changes(self) -> bool:
        return self.kind in CHANGES

    def __str__(self) -> str:
        state = " optional" if self.optional else " dropped" if self.dropped else ""
        args = tuple(f"<{len(a)} {a[:8]!r}>" if isinstance(a, bytes) and len(a) > 24 else a
                     for a in self.args)  # fmt: skip
        result = self.result
        if result is not None and isinstance(result[1], bytes):
            result = (result[0], f"<{len(result[1])} {result[1][:12]!r}>")
        return (
            f"{self.index} {self.client} [{self.invoke:.4f}, {self.ret:.4f}] {self.object} "
            f"{self.kind}{args} -> {result}{state}"
        )


class History:
    """All operations of a run."""

    def __init__(self, clock: Any, trace: Any) -> None:
        self.clock = clock
        self.trace = trace
        self.ops: list[Op] = []
        self.snapshots: list[tuple[str, float, float]] = []
        """(name, from, until): taken at one moment between."""
        self._open: dict[tuple[str, str], list[Op]] = defaultdict(list)
        """Changes that are not known durable, by client and object."""

    def begin(self, client: str, object_: str, kind: str, *args: Any) -> Op:
        op = Op(len(self.ops), client, object_, kind, args, self.clock.now)
        self.ops.append(op)
        self.trace.line(f"op {op}")
        return op

    def end(self, op: Op, result: tuple[str, Any] | None) -> None:
        """Note an answer; None: the operation failed in a way that says nothing."""
        self.trace.counts[f"op {op.kind}"] += 1
        if result is None:
            if op.changes:
                op.optional = True
            else:
                op.dropped = True
        else:
            op.ret, op.result = self.clock.now, result
            changed = op.changes and result[0] == "ok"
            if op.doubtful:
                op.optional, op.dropped = changed, not changed
            elif changed:
                self._open[op.client, op.object].append(op)
        self.trace.line(f"op {op}")

    def saw(self, object_: str, kind: str, args: tuple[Any, ...], value: Any,
            began: float, ended: float) -> None:  # fmt: skip
        """Note what a snapshot shows: a read at the moment when it was taken."""
        op = Op(len(self.ops), "snapshot", object_, kind, args, began, ended, ("ok", value))
        self.ops.append(op)
        self.trace.counts["snapshots compared"] += 1
        self.trace.line(f"op {op}")

    def unsynced(self, client: str, object_: str) -> list[Op]:
        """Give a client's changes of an object that were answered and are not known durable."""
        return list(self._open[client, object_])

    def synced(self, client: str, ops: Iterable[Op]) -> None:
        """Note that these changes are durable."""
        self.trace.synced_by = client
        self.trace.counts["changes made durable"] += 1
        for op in ops:
            op.durable = True
        for key, open_ in self._open.items():
            if key[0] == client:
                self._open[key] = [op for op in open_ if not op.durable]

    def lost(self, client: str, object_: str | None = None, *, ended: bool = False) -> None:
        """A client died, lost its session or was told of a loss: the rest may be gone."""
        for key, chain in list(self._open.items()):
            if key[0] != client or object_ not in (None, key[1]):
                continue
            for op in self.ops:
                if (op.client, op.object) == key and op.result is None:
                    op.doubtful = True
            if not chain:
                continue
            first = min(op.invoke for op in chain)
            before: Op | None = None
            for op in chain:
                earlier = [o for o in chain if o.ret <= op.invoke and o.index < op.index]
                op.optional, op.before, before = True, earlier[-1] if earlier else None, op
            for op in self.ops:
                if (op.client, op.object) == key and not op.optional and op.ret > first:
                    if not op.changes or (op.result is not None and op.result[0] == "error"):
                        op.dropped = True
                    elif op.result is None:
                        op.optional, op.before = True, before
            self._open[key] = []
        if ended:
            for op in self.ops:
                if op.client == client and op.result is None and not op.dropped:
                    if op.changes:
                        op.optional = True
                    else:
                        op.dropped = True

    def by_object(self) -> dict[str, list[Op]]:
        """Give what must be explained, object by object."""
        found: dict[str, list[Op]] = defaultdict(list)
        for op in self.ops:
            if not op.dropped:
                found[op.object].append(op)
        return found
