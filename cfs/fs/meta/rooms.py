"""Fetching more of a quota for a shard before an operation that would find too little of it.

Each shard has a part of every limit; the root leader moves parts to where they are wanted. It is
asked only when the part here does not suffice, by one operation at a time. While it cannot be asked
the operation is not refused but has to come again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from cfs.core.api.quota import GetLimitsReply, MakeRoom
from cfs.core.errors import CfsError, DeadlineExceeded, Unavailable
from cfs.core.ids import ROOT_GROUP
from cfs.core.meta import needs, quota, read
from cfs.core.meta.commands import Step
from cfs.fs.meta.host import Group

ASK_S = 10.0

Call = Callable[..., Awaitable[Any]]
"""`cfs.fs.meta.leaders.Leaders.call`."""


class Rooms:
    """The room in quotas of one led shard."""

    def __init__(self, *, shard: int, group: Group) -> None:
        self._shard = shard
        self._group = group
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
        state = self._group.state
        if not self.version or not needs.lacking(state, ops, steps):
            return
        async with self._asking:
            wants = needs.lacking(state, ops, steps)
            if not wants:
                return
            request = MakeRoom(shard=self._shard, wants=wants)
            try:
                await call(ROOT_GROUP, "root.room", request, timeout_s=ASK_S)
            except DeadlineExceeded as error:
                raise Unavailable("who shares quotas out cannot be asked now") from error
            except CfsError as error:
                raise Unavailable(f"quotas could not be shared out: {error}") from error
