"""Answers a shard's leader that wants leases back.

For each inode: no new dirty bytes; what is dirty is committed; what was learnt is dropped, also
below, in the kernel; then the answer. The leader may give the lease away from then on. READ is
given back with WRITE: it is asked for again when it is needed. Nothing here waits for an operation
that could wait for the recalled lease: a flush needs only the data lane and the file's own lock.
"""

from __future__ import annotations

import structlog
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Lease
from cfs.core.errors import CfsError, FsError
from cfs.fs.client.client import Client

_LOG = structlog.get_logger()


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
            async with trio.open_nursery() as nursery:
                for lease in request.leases:
                    nursery.start_soon(self._give_back, lease.ino)
        return meta.Empty()

    async def _give_back(self, ino: int) -> None:
        client = self._client
        node = client.cache.peek(ino)
        file = client.writeback.files.get(ino)
        client.fences.close_ino(ino)
        if file is not None and file.opens and not file.pinned:
            await self._pin(ino)
        if file is not None and node is not None and node.modes & Lease.WRITE:
            while file.recalled is not None:
                await file.recalled.wait()
            file.recalled = trio.Event()
            try:
                await self._flush(ino)
                client.cache.forget(ino)
            finally:
                file.recalled.set()
                file.recalled = None
                client.writeback.settle(file)
        else:
            client.cache.forget(ino)
        client.recalling.add(ino)
        try:
            await client.kernel.invalidate(ino)
        finally:
            client.recalling.discard(ino)
        client.fences.close_ino(ino)

    async def _pin(self, ino: int) -> None:
        """Pin an open file that its lease kept alive so far."""
        try:
            await self._client.pin(ino, self._client.deadline())
        except CfsError as error:
            _LOG.warning("pin_lost", ino=ino, error=str(error))

    async def _flush(self, ino: int) -> None:
        client = self._client
        file = client.writeback.files[ino]
        while file.unclean:
            try:
                await client.writeback.flush(file, client.deadline())
            except FsError as error:
                if not file.unclean:
                    return  # lost, and said so
                _LOG.warning("recall_flush_failed", ino=ino, error=str(error))
                await trio.sleep(0.1)
            except CfsError as error:
                _LOG.warning("recall_flush_failed", ino=ino, error=str(error))
                await trio.sleep(0.1)
