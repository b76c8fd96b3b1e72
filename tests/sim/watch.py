"""What must hold at every moment, watched while a run goes on.

* one leader a group and term;
* the command at an index of a group is the same on every replica that applies it, for ever;
* what is applied on a node is never taken back below what it had flushed or acknowledged.
"""

from __future__ import annotations

import hashlib
from typing import Any

import trio

LOOK_S = 0.05


class Violation(Exception):
    """A promise was broken."""


class Watch:
    """The invariants of all replicas of all lives."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.leaders: dict[tuple[int, int], int] = {}
        self.commands: dict[tuple[int, int], bytes] = {}
        self.applied = 0
        self.violations: list[str] = []

    def adopt(self, machine: Any, node: Any) -> None:
        """Watch a metadata node's state machines."""
        host = node.host
        made = host._machines

        def machines(group: int) -> Any:
            return Observed(self, host.node, group, made(group))

        host._machines = machines
        for number, group in host.groups.items():
            group._commands = Observed(self, host.node, number, group._commands)

    def saw(self, node: int, group: int, index: int, command: bytes) -> None:
        """Compare a command that is being applied with what others applied there."""
        self.applied += 1
        digest = hashlib.blake2b(command, digest_size=8).digest()
        known = self.commands.setdefault((group, index), digest)
        if known != digest:
            self.violate(f"group {group} index {index}: node {node} applies another command")

    def violate(self, text: str) -> None:
        self.cluster.trace.line(f"VIOLATION {text}")
        self.violations.append(text)

    async def run(self) -> None:
        """Look at who leads, for ever."""
        while True:
            for machine in self.cluster.metas():
                if machine.node is None or machine.frozen:
                    continue
                for number, group in machine.node.host.groups.items():
                    if group.is_leader:
                        node = machine.node.host.node
                        known = self.leaders.setdefault((number, group.term), node)
                        if known != node:
                            self.violate(f"group {number} term {group.term}: {known} and {node}")
            await trio.sleep(LOOK_S)


class Observed:
    """A state machine whose commands are compared."""

    def __init__(self, watch: Watch, node: int, group: int, inner: Any) -> None:
        self._watch = watch
        self._node = node
        self._group = group
        self._inner = inner

    def apply(self, kv: Any, index: int, command: bytes) -> Any:
        self._watch.saw(self._node, self._group, index, command)
        return self._inner.apply(kv, index, command)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class FaultySender:
    """A host's `Sender` that drops, repeats and reorders one-way batches."""

    def __init__(self, cluster: Any, machine: Any, inner: Any) -> None:
        self._cluster = cluster
        self._machine = machine
        self._inner = inner
        self._kept: list[tuple[int, list[bytes]]] = []

    def send(self, node: int, messages: list[bytes]) -> None:
        mischief, chance = self._cluster.mischief, self._cluster.sender_chance
        if mischief:
            draw = chance.random()
            if draw < mischief.get("drop", 0):
                self._cluster.trace.counts["raft batches dropped"] += 1
                return
            if chance.random() < mischief.get("repeat", 0):
                self._cluster.trace.counts["raft batches repeated"] += 1
                self._inner.send(node, list(messages))
            if chance.random() < mischief.get("reorder", 0):
                self._cluster.trace.counts["raft batches reordered"] += 1
                self._kept.append((node, list(messages)))
                return
        self._inner.send(node, messages)
        while self._kept:
            kept_node, kept = self._kept.pop()
            self._inner.send(kept_node, kept)

    async def send_snapshot(self, node: int, chunk: Any, payload: bytes) -> None:
        await self._inner.send_snapshot(node, chunk, payload)
