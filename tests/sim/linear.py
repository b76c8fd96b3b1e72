"""Linearizability: is there an order of the operations that a sequential model explains?

The search of Wing and Gong with Lowe's memory of (operations done, state). `step(state, op)` gives
the state after `op` if its answer fits, else None. An optional operation may be left out; one with
`before` comes only after that one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.sim.history import Op

NODES_MAX = 100_000


class Undecided(Exception):
    """The search was given up."""


def explain(ops: Sequence[Op], initial: Any, step: Callable[[Any, Op], Any]) -> list[Op] | None:
    """Give an order that explains `ops`; None when there is none. Raises Undecided."""
    ops = sorted(ops, key=lambda op: (op.invoke, op.index))
    place = {op.index: n for n, op in enumerate(ops)}
    befores = [
        place.get(op.before.index, -1) if op.before is not None and op.before.optional else -1
        for op in ops
    ]
    must = [not op.optional for op in ops]
    goal = sum(1 << n for n, strict in enumerate(must) if strict)
    seen: set[tuple[int, Any]] = set()
    order: list[int] = []
    stack = [(0, initial, _candidates(ops, must, befores, 0))]
    nodes = 0
    while stack:
        done, state, candidates = stack[-1]
        if done & goal == goal:
            return [ops[n] for n in order]
        for n in candidates:
            after = step(state, ops[n])
            if after is None:
                continue
            key = (done | 1 << n, after)
            if key in seen:
                continue
            seen.add(key)
            nodes += 1
            if nodes > NODES_MAX:
                raise Undecided(f"{len(ops)} operations")
            order.append(n)
            stack.append((key[0], after, _candidates(ops, must, befores, key[0])))
            break
        else:
            stack.pop()
            if order:
                order.pop()
    return None


def _candidates(
    ops: Sequence[Op], must: Sequence[bool], befores: Sequence[int], done: int
) -> Iterator[int]:
    """Give what may come next: strict operations first, soonest answered first."""
    first_ret = math.inf
    strict: list[int] = []
    optional: list[int] = []
    low = ((done + 1) & ~done).bit_length() - 1  # lowest bit not set
    for n in range(low, len(ops)):
        if ops[n].invoke > first_ret:
            break
        if done >> n & 1:
            continue
        if must[n]:
            strict.append(n)
            first_ret = min(first_ret, ops[n].ret)
        elif befores[n] < 0 or done >> befores[n] & 1:
            optional.append(n)
    strict.sort(key=lambda n: ops[n].ret)
    yield from strict
    yield from optional
