"""Answers a shard's leader that wants leases back.

For each inode: no new dirty bytes, nothing new in line; what is in line is answered, what is dirty
is committed; what was learnt is dropped, also
below, in the kernel; then the answer. The leader may give the lease away from then on. READ is
given back with WRITE: it is asked for again when it is needed. Nothing here waits for an operation
that could wait for the recalled lease: a flush needs only the data lane and the file's own lock.
"""

from __future__ import annotations

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Lease
from cfs.core.errors import CfsError
from cfs.fs.client.client import Client
from cfs.fs.client.file import File
from cfs.net.tasks import open_tasks

_LOG = structlog.get_logger()

RETRY_S = 0.1


class Recalls:
    """The handler of `client.recall`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def answer(self, request: meta.Recall) -> meta.Empty:
        """Give every lease named back; return when that is done."""
        if request.session != self._client.session.id:
            return meta.Empty()  # of a session before this one: nothing of it is left
        if len(request.leases) == 1:
            await self._give_back(request.leases[0].ino)
        else:
            async with open_tasks() as nursery:
                for lease in request.leases:
                    nursery.start_soon(self._give_back, lease.ino)
        return meta.Empty()

    async def _give_back(self, ino: int) -> None:
        client = self._client
        writeback = client.writeback
        client.fences.close_ino(ino)
        while (earlier := writeback.recalling.get(ino)) is not None:
            await earlier.wait()
        done = writeback.recalling[ino] = trio.Event()
        try:
            await client.queue.settled(ino)
            node, file = client.cache.peek(ino), writeback.files.get(ino)
            if file is not None and file.opens and not file.pinned:
                await self._pin(ino)
            if file is not None and node is not None and node.modes & Lease.WRITE:
                await self._flush(file)
                async with file.flush_lock:
                    pass  # attributes are being set under the lease: seen here, not by others
            if node is not None and node.modes & Lease.WRITE:
                writeback.was_recalled(ino)
                if file is None:
                    client.delegations.recalled(ino)
            client.cache.forget(ino)
            await client.kernel.invalidate(ino)
            client.fences.close_ino(ino)
        finally:
            del writeback.recalling[ino]
            done.set()
            if (file := writeback.files.get(ino)) is not None:
                writeback.settle(file)

    async def _pin(self, ino: int) -> None:
        """Pin an open file that its lease kept alive so far."""
        try:
            await self._client.pin(ino, self._client.deadline())
        except CfsError as error:
            _LOG.warning("pin_lost", ino=ino, error=str(error))

    async def _flush(self, file: File) -> None:
        client = self._client
        while file.unclean and file.node.modes & Lease.WRITE:
            try:
                await client.writeback.flush(file, client.deadline(), for_recall=True)
            except CfsError as error:
                if not file.unclean:
                    return  # lost, and said so
                _LOG.warning("recall_flush_failed", ino=file.ino, error=str(error))
                await trio.sleep(RETRY_S)
