"""The claim of every client on the whole file system: shared, or one client's alone.

It is a lock on the root directory, at an offset where no program locks: read for shared, write for
exclusive. So it is replicated, survives a change of leader, ends with its holder's session, and
says who holds it. Whoever was killed holds it until that session has expired.

When the shard's leader gave the session away, another may have had the file system alone meanwhile.
A shared claim is taken again; what was cached has been dropped with the session. An exclusive
one cannot be: the kernel below may hold what it never told us.
"""

from __future__ import annotations

import errno

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.locking import OFFSET_MAX
from cfs.core.api.meta import Lock, LockKind
from cfs.core.errors import DeadlineExceeded, FsError, Retryable, Unavailable
from cfs.core.ids import ROOT_INO, shard_of
from cfs.fs.client.client import Client

_LOG = structlog.get_logger()

OWNER = 0xCF_0000_0001
"""A number no kernel gives: those are hashed to 64 bits."""


RETRY_S = 1.0


class Claim:
    """The claim of one client."""

    def __init__(self, client: Client, *, exclusive: bool) -> None:
        self._client = client
        self._exclusive = exclusive
        self._shard = shard_of(ROOT_INO)
        self._lost = trio.Event()
        client.on_expired.append(self._expired)

    async def take(self) -> None:
        """Take the claim, or confirm that it is held. Raises EBUSY naming who is in the way."""
        client = self._client
        deadline = client.deadline()
        kind = LockKind.WRITE if self._exclusive else LockKind.READ
        lane = await client.session.data_lane(self._shard, deadline)
        op = Lock(ino=ROOT_INO, owner=OWNER, kind=int(kind), start=OFFSET_MAX, end=OFFSET_MAX)
        try:
            await lane.answer(lane.enqueue(op), deadline=deadline)
        except FsError as error:
            if error.errno != errno.EAGAIN:
                raise
            raise await self._busy(int(kind)) from None

    async def _busy(self, kind: int) -> FsError:
        client = self._client
        request = meta.GetLock(
            shard=self._shard, session=client.session.id, ino=ROOT_INO, owner=OWNER, kind=kind,
            start=OFFSET_MAX, end=OFFSET_MAX,
        )  # fmt: skip
        reply: meta.GetLockReply = await client.session.read(
            self._shard, "meta.getlock", request, deadline=client.deadline()
        )
        name = reply.holder.name if reply.holder is not None else "another client"
        how = "has it mounted" if self._exclusive else "has it mounted for itself alone"
        return FsError(
            errno.EBUSY,
            f"EBUSY: the file system is in use: {name} {how}; unmount there first "
            "(a client that was killed counts for a minute more)",
        )

    def _expired(self, shard: int) -> None:
        if shard == self._shard:
            self._lost.set()

    async def keep(self) -> None:
        """Take the claim again whenever it was lost, however long no shard answers.

        Raises EBUSY when somebody has the file system alone, Unavailable when the claim was so.
        """
        while True:
            await self._lost.wait()
            self._lost = trio.Event()
            if self._exclusive:
                raise Unavailable("the exclusive claim was lost with the session; mount again")
            await self._again()
            _LOG.warning("claim_taken_again")

    async def _again(self) -> None:
        while True:
            try:
                await self.take()
            except (DeadlineExceeded, Retryable) as error:
                _LOG.warning("claim_not_taken", error=str(error))
                await trio.sleep(RETRY_S)
            else:
                return
