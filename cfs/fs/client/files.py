"""`Files`: the one VFS of CFS, for every gateway, for Python, for the tests.

Names and directories are in `names`, open files and attributes in `contents`, whole paths in
`paths`, what needs no waiting in `instant`, what snapshots show in `snapshots`. Inode numbers,
handles and cookies are plain integers; names and targets are bytes. Every method raises the error
tree: `errno` of the error is what a POSIX caller sees.
"""

from __future__ import annotations

from typing import Any

import trio

from cfs.core.api import meta
from cfs.core.api.meta import Attr
from cfs.fs.client.client import Client
from cfs.fs.client.limits import Limits
from cfs.fs.client.listing import Listed
from cfs.fs.client.numbers import PAST
from cfs.fs.client.ports import Calls, Fetches, Kernel, MapView, Uploads
from cfs.fs.client.recall import Recalls
from cfs.fs.client.snapshots import Snapshots
from cfs.net.ports import WallClock


class Files(Snapshots):
    """A client of the file system."""

    def __init__(
        self,
        *,
        pool: Calls,
        view: MapView,
        uploader: Uploads,
        fetcher: Fetches,
        clock: WallClock,
        name: str,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(
            Client(
                pool=pool,
                view=view,
                uploader=uploader,
                fetcher=fetcher,
                clock=clock,
                name=name,
                limits=limits,
            )
        )
        self._recalls = Recalls(self.client)

    async def start(self, nursery: trio.Nursery, *, session: int | None = None) -> None:
        """Open a session with the cluster and begin the background work in `nursery`.

        `session`: an id from `root.session` that this process took and uses nowhere else.
        """
        await self.client.start(nursery, session)

    async def close(self) -> None:
        """Commit everything written. Raises what could not be; the nursery may then end."""
        await self.client.close()

    def attach(self, kernel: Kernel) -> None:
        """Name the gateway below which a kernel caches: told before a lease is given back."""
        self.client.kernel = kernel

    async def on_recall(self, context: Any, request: meta.Recall, payload: Any) -> meta.Empty:
        """Answer `client.recall`: register this with the connection pool."""
        del context, payload
        return await self._recalls.answer(request)

    def trust_left_s(self, ino: int) -> float:
        """Give the seconds for which attributes of `ino` may be cached below; 0: not at all."""
        if ino >= PAST:
            return self.past_trust_s(ino)
        client = self.client
        node = client.cache.peek(ino)
        if node is None or not client.cache.leased(node) or ino in client.recalling:
            return 0.0
        if ino in client.queue.underway.inos:
            return 0.0
        file = client.writeback.files.get(ino)
        if file is not None and file.unclean:
            return 0.0
        return client.session.trust_left_s(node.shard)

    def said(self, parent: int, name: bytes) -> int | None:
        """Give what counts now of a name: its inode, 0 when it is absent, None when not known."""
        known = self.client.cache.name(parent, name)
        return None if known is None else known.ino

    def lease_epoch(self, ino: int) -> int | None:
        """Name the continuous lease held on an inode; None: no lease now."""
        if ino >= PAST:
            return self.past_lease(ino)
        node = self.client.cache.peek(ino)
        return node.epoch if node is not None and self.client.cache.leased(node) else None

    def fresh(self, listed: Listed) -> Attr | None:
        """Give the newest attributes known of a listed entry; None when it has gone."""
        attr = self.client.cache.attr(listed.ino) or listed.attr
        return attr if attr is None else self.view(attr)
