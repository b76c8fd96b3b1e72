"""The sequential models: a tree of names, and the bytes of one file.

A tree is a frozenset of (parent, name, (kind, ino)); kinds are f, d, l. A child whose inode number
nobody learnt has ("op", index) in its place.
"""

from __future__ import annotations

import errno
from typing import Any

from tests.sim.history import Op

Tree = frozenset
_ANY = object()


class TreeModel:
    """Names below some directories that are always there."""

    def __init__(self, bases: tuple[int, ...]) -> None:
        self.bases = bases
        self.initial: Tree = frozenset()

    def step(self, state: Tree, op: Op) -> Tree | None:
        outcome = getattr(self, "_" + op.kind)(state, op, *op.args)
        if isinstance(outcome, set):  # errors, any of these
            if op.result is None:
                return None
            return state if op.result[0] == "error" and op.result[1] in outcome else None
        after, value = outcome
        if op.result is None:
            return after
        if op.result[0] != "ok":
            return None
        return after if value is _ANY or value == op.result[1] else None

    # --- within

    def _there(self, state: Tree, ino: Any) -> bool:
        return ino in self.bases or any(c == ("d", ino) for _, _, c in state)

    @staticmethod
    def _child(state: Tree, parent: Any, name: bytes) -> Any:
        return next((c for p, n, c in state if p == parent and n == name), None)

    def _make(self, state: Tree, op: Op, parent: int, name: bytes, kind: str) -> Any:
        if not self._there(state, parent):
            return {errno.ENOENT}
        if self._child(state, parent, name) is not None:
            return {errno.EEXIST}
        ino = op.result[1] if op.result is not None and op.result[0] == "ok" else ("op", op.index)
        return state | {(parent, name, (kind, ino))}, _ANY

    def _create(self, state: Tree, op: Op, parent: int, name: bytes) -> Any:
        return self._make(state, op, parent, name, "f")

    def _mkdir(self, state: Tree, op: Op, parent: int, name: bytes) -> Any:
        return self._make(state, op, parent, name, "d")

    def _symlink(self, state: Tree, op: Op, parent: int, name: bytes) -> Any:
        return self._make(state, op, parent, name, "l")

    def _unlink(self, state: Tree, _op: Op, parent: int, name: bytes) -> Any:
        child = self._child(state, parent, name)
        if child is None:
            return {errno.ENOENT}
        if child[0] == "d":
            return {errno.EISDIR, errno.EPERM}
        return state - {(parent, name, child)}, None

    def _rmdir(self, state: Tree, _op: Op, parent: int, name: bytes) -> Any:
        child = self._child(state, parent, name)
        if child is None:
            return {errno.ENOENT}
        if child[0] != "d":
            return {errno.ENOTDIR}
        if any(p == child[1] for p, _, _ in state):
            return {errno.ENOTEMPTY}
        return state - {(parent, name, child)}, None

    def _link(self, state: Tree, _op: Op, ino: int, parent: int, name: bytes) -> Any:
        child = next((c for _, _, c in state if c[1] == ino), None)
        errors = set()
        if child is None or not self._there(state, parent):
            errors.add(errno.ENOENT)
        if self._child(state, parent, name) is not None:
            errors.add(errno.EEXIST)
        if errors:
            return errors
        return state | {(parent, name, child)}, None

    def _rename(self, state: Tree, _op: Op, parent: int, name: bytes, to: int, new: bytes) -> Any:
        child = self._child(state, parent, name)
        if child is None or not self._there(state, to):
            return {errno.ENOENT}
        target = self._child(state, to, new)
        if child == target:
            return state, None
        errors = set()
        if child[0] == "d" and self._below(state, to, child[1]):
            errors.add(errno.EINVAL)
        if target is not None:
            if child[0] == "d" and target[0] != "d":
                errors.add(errno.ENOTDIR)
            if child[0] != "d" and target[0] == "d":
                errors.add(errno.EISDIR)
            if target[0] == "d" and any(p == target[1] for p, _, _ in state):
                errors |= {errno.ENOTEMPTY, errno.EEXIST}
        if errors:
            return errors
        gone = {(parent, name, child)} | ({(to, new, target)} if target is not None else set())
        return (state - gone) | {(to, new, child)}, None

    @staticmethod
    def _below(state: Tree, ino: Any, above: Any) -> bool:
        """Tell whether directory `ino` is `above` or lies below it."""
        while ino is not None:
            if ino == above:
                return True
            ino = next((p for p, _, c in state if c == ("d", ino)), None)
        return False

    def _lookup(self, state: Tree, op: Op, parent: int, name: bytes) -> Any:
        child = self._child(state, parent, name)
        if child is None:
            return {errno.ENOENT}
        if op.result is None or op.result[0] != "ok":
            return state, _ANY
        kind, ino, nlink = op.result[1]
        if kind != child[0] or (not isinstance(child[1], tuple) and ino != child[1]):
            return state, None
        if kind == "f" and nlink != sum(c == child for _, _, c in state):
            return state, None
        return state, _ANY

    def _list(self, state: Tree, op: Op, parent: int) -> Any:
        if not self._there(state, parent):  # open while it was removed, it is empty
            gone = op.result is not None and op.result[0] == "ok"
            return (state, ()) if gone else {errno.ENOENT}
        return state, tuple(sorted((n, c[0]) for p, n, c in state if p == parent))


def file_step(state: bytes, op: Op) -> bytes | None:
    """One file: `write(offset, data)`, `append(data)`, `truncate(size)`, `replace`, `read`."""
    args = op.args
    match op.kind:
        case "read":
            return state if op.result is not None and op.result[1] == state else None
        case "write":
            offset, data = args
            if offset > len(state):
                state = state + bytes(offset - len(state))
            return state[:offset] + data + state[offset + len(data) :]
        case "append":
            return state + args[0]
        case "truncate":
            return state[: args[0]] + bytes(max(0, args[0] - len(state)))
        case "replace":
            return args[0]
    raise AssertionError(op.kind)
