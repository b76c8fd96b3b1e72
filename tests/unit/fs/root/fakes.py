"""A Raft host of one node whose groups apply at once, and calls that end in handlers."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import trio

from cfs.core.api.methods import BY_NAME
from cfs.core.errors import NotLeader, Unavailable
from cfs.core.kv import MemoryStore
from cfs.core.raft.message import Config
from cfs.core.root.machine import RootMachine

NOW_NS = 1_790_000_000 * 1_000_000_000


class FixedClock:
    now_ns = NOW_NS

    def time_ns(self) -> int:
        return self.now_ns


class SeededEntropy:
    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


class InlineThreads:
    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class FakeGroup:
    """A replica that leads, or does not, as the test says."""

    def __init__(self, group: int, node: int, voters: tuple[int, ...], machine: Any) -> None:
        self.group = group
        self.state = MemoryStore()
        self.is_leader = self.ready = voters == (node,)
        self.leader: int | None = node if self.is_leader else None
        self.term = 1
        self.applied = self.commit = self.last_index = 0
        self.config = Config(voters=voters)
        self._machine = machine
        self.transfers: list[int] = []
        self.fail_next = 0

    @property
    def role(self) -> str:
        return "leader" if self.is_leader else "follower"

    @property
    def machine(self) -> Any:
        return SimpleNamespace(
            config=self.config,
            config_settled=True,
            last_index=self.last_index,
            match=lambda _peer: max(1, self.last_index),
        )

    async def propose(self, data: bytes) -> tuple[int, Any]:
        if not self.is_leader:
            raise NotLeader("not here", leader=self.leader)
        if self.fail_next:
            self.fail_next -= 1
            if self.fail_next == 0:
                raise Unavailable("lost in flight")
        self.applied += 1
        self.commit = self.last_index = self.applied
        return self.applied, self._machine.apply(self.state, self.applied, data)

    async def read_barrier(self) -> int:
        if not self.is_leader:
            raise NotLeader("not here", leader=self.leader)
        return self.applied

    async def change_config(self, voters: tuple[int, ...], learners: tuple[int, ...]) -> None:
        self.config = Config(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))

    async def transfer(self, peer: int) -> None:
        self.transfers.append(peer)
        self.is_leader = self.ready = False
        self.leader = peer


class FakeHost:
    def __init__(self, node: int) -> None:
        self.node = node
        self.groups: dict[int, FakeGroup] = {}

    def create(self, group: int, voters: tuple[int, ...]) -> FakeGroup:
        if group not in self.groups:
            self.groups[group] = FakeGroup(group, self.node, voters, RootMachine())
        return self.groups[group]

    async def remove(self, group: int) -> None:
        del self.groups[group]


def peer(role: str, name: str, serial: int = 0) -> Any:
    return SimpleNamespace(role=role, name=name, serial=serial)


class FakeCalls:
    """Calls by node id; messages pass through their encoding."""

    def __init__(self) -> None:
        self.handlers: dict[int, Mapping[str, Any]] = {}
        self.caller = peer("client", "c")
        self.log: list[tuple[int, str]] = []

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        self.log.append((node, method))
        await trio.lowlevel.checkpoint()
        if node not in self.handlers:
            raise Unavailable(f"node {node} is down")
        row = BY_NAME[method]
        assert type(request) is row.request
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=row.request)
        context = SimpleNamespace(peer=self.caller, method=method, deadline=None, epoch=0)
        answer = self.handlers[node][method](context, sent, payload)
        if inspect.isawaitable(answer):
            answer = await answer
        reply = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=row.reply)
        return reply, b""
