"""What this package asks of the Raft host and of the connection pool; `fs.meta.host`, `net.pool`.

Only what is called here is named here; tests supply their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cfs.core.kv import Reader
from cfs.core.raft.message import Config


class Calls(Protocol):
    """The connection pool."""

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        """Call a node; give (reply, payload). Raises the error tree."""
        ...


class Machine(Protocol):
    """The visible side of a replica's Raft machine."""

    @property
    def config(self) -> Config:
        """The membership in force."""
        ...

    @property
    def config_settled(self) -> bool:
        """It is committed and not joint."""
        ...

    @property
    def last_index(self) -> int:
        """Index of the last entry of the log."""
        ...

    def match(self, peer: int) -> int:
        """Up to where a peer holds the log durably, as the leader knows."""
        ...


class Group(Protocol):
    """A replica of a Raft group on this node."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def is_leader(self) -> bool:
        """This replica leads."""
        ...

    @property
    def ready(self) -> bool:
        """It leads and has applied an entry of its own term."""
        ...

    @property
    def leader(self) -> int | None:
        """Who leads, as far as this replica knows."""
        ...

    @property
    def term(self) -> int:
        """The term."""
        ...

    @property
    def role(self) -> str:
        """Leader, follower, candidate or learner."""
        ...

    @property
    def applied(self) -> int:
        """Index applied."""
        ...

    @property
    def commit(self) -> int:
        """Index known committed."""
        ...

    @property
    def last_index(self) -> int:
        """Index of the last entry of the log."""
        ...

    @property
    def config(self) -> Config:
        """The membership in force."""
        ...

    @property
    def state(self) -> Reader:
        """The applied state."""
        ...

    async def propose(self, data: bytes) -> tuple[int, Any]:
        """Replicate a command; give (index, result) once applied. NotLeader, Unavailable."""
        ...

    async def read_barrier(self) -> int:
        """Return (the applied index) when `state` is linearizable. NotLeader, Unavailable."""
        ...

    async def change_config(self, voters: tuple[int, ...], learners: tuple[int, ...]) -> None:
        """Change the membership. NotLeader, Unavailable."""
        ...

    async def transfer(self, peer: int) -> None:
        """Hand leadership to a voter."""
        ...


class Host(Protocol):
    """The Raft groups of this node."""

    @property
    def groups(self) -> Mapping[int, Any]:
        """Replicas by group."""
        ...

    def create(self, group: int, voters: tuple[int, ...]) -> Any:
        """Make a replica, durably; with no voters it waits for a leader to find it."""
        ...

    async def remove(self, group: int) -> None:
        """Forget a replica and its state."""
        ...


Now = Callable[[], float]
"""Monotonic seconds (`trio.current_time`)."""
