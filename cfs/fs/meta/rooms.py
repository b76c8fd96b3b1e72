"""Fetching more of a quota for a shard before an operation that would find too little of it.

Each shard has a part of every limit; the root leader moves parts to where they are wanted. It is
asked only when the part here does not suffice, and what it said no to is not asked again for
`REFUSED_S`. While it cannot be asked the operation is not refused but has to come again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from cfs.core.api.quota import Domain, GetLimitsReply, MakeRoom, MakeRoomReply
from cfs.core.errors import CfsError, DeadlineExceeded, Unavailable
from cfs.core.ids import ROOT_GROUP
from cfs.core.meta import needs, quota, read
from cfs.core.meta.commands import Step
from cfs.fs.meta.host import Group

ASK_S = 10.0
REFUSED_S = 0.2
REFUSED_MAX = 1024

Call = Callable[..., Awaitable[Any]]
"""`cfs.fs.meta.leaders.Leaders.call`."""


class Rooms:
    """The room in quotas of one led shard."""

    def __init__(self, *, shard: int, group: Group) -> None:
        self._shard = shard
        self._group = group
        self._refused: dict[Domain, float] = {}
        self._asking = trio.Lock()

    @property
    def version(self) -> int:
        """Give the version of the set of what is limited; 0: nothing ever was."""
        return read.totals(self._group.state).limits

    def limited(self) -> GetLimitsReply:
        """Give what is limited."""
        found = quota.usages(self._group.state)
        domains = tuple(domain for domain, there in found if quota.is_limited(there))
        return GetLimitsReply(version=self.version, domains=domains)

    async def make(self, call: Call, ops: Sequence[Any], steps: Sequence[Step] = ()) -> None:
        """Return when there is room for the operations, or there can be none. Raises Retryable."""
        if not self.version or not self._wants(ops, steps):
            return
        async with self._asking:
            wants = self._wants(ops, steps)
            if not wants:
                return
            request = MakeRoom(shard=self._shard, wants=wants)
            try:
                reply: MakeRoomReply = await call(ROOT_GROUP, "root.room", request, timeout_s=ASK_S)
            except DeadlineExceeded as error:
                raise Unavailable("who shares quotas out cannot be asked now") from error
            except CfsError as error:
                raise Unavailable(f"quotas could not be shared out: {error}") from error
            if not reply.made:
                if len(self._refused) >= REFUSED_MAX:
                    self._refused.clear()
                until = trio.current_time() + REFUSED_S
                self._refused |= {want.domain: until for want in wants}

    def _wants(self, ops: Sequence[Any], steps: Sequence[Step]) -> tuple[Any, ...]:
        now = trio.current_time()
        found = needs.lacking(self._group.state, ops, steps)
        return tuple(w for w in found if self._refused.get(w.domain, 0.0) <= now)
