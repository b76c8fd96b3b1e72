"""Listing directories: from the cache where it is whole, else page by page from the shard.

A page brings attributes and leases with the entries. A directory that was listed from the start
to the end under one continuous lease on it is complete in the cache from then on.
"""

from __future__ import annotations

import errno
import stat
from typing import Any

import msgspec

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import CfsError, FsError
from cfs.core.ids import Ino, shard_of
from cfs.core.meta import access
from cfs.fs.client.names import Names
from cfs.net.tasks import open_tasks

READDIR_ENTRIES = 1024


class Listed(msgspec.Struct, frozen=True, gc=False):
    """An entry of a listing; continue after it with `cookie`."""

    name: bytes
    ino: int
    kind: int
    cookie: int
    attr: Attr | None


class Directory(msgspec.Struct):
    """An open directory: how far it was listed under one lease."""

    ino: int
    epoch: int = -1
    reached: int = 0


class Listings(Names):
    """Directory operations of `Files`."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._directories: dict[int, Directory] = {}

    async def opendir(self, ino: int, *, caller: Caller | None = None) -> int:
        """Open a directory; give a handle. Raises ENOTDIR, EACCES."""
        attr = await self.getattr(ino)
        if not stat.S_ISDIR(attr.mode):
            raise FsError(errno.ENOTDIR)
        access.check(attr, caller, access.READ)
        handle = self._take_handle()
        self._directories[handle] = Directory(ino)
        return handle

    async def releasedir(self, handle: int) -> None:
        """Close a directory."""
        self._directories.pop(handle, None)

    async def fsyncdir(self, handle: int) -> None:
        """Return when every change made in the directory is durable. Raises EIO after a loss."""
        client, ino = self.client, self._directories[handle].ino
        await client.queue.settled(ino, client.deadline())
        error = client.delegations.failed.pop(ino, None)
        if error is not None:
            raise error

    async def readdir(self, handle: int, cookie: int, limit: int = READDIR_ENTRIES) -> list[Listed]:
        """List up to `limit` entries after `cookie` (0: from the start); empty at the end."""
        directory = self._directories[handle]
        listed = self._list_cached(directory.ino, cookie, limit)
        if listed is None:
            listed = await self._list_page(directory, cookie, limit)
        self.touch(directory.ino)
        return listed

    def _list_cached(self, ino: int, cookie: int, limit: int) -> list[Listed] | None:
        cache = self.client.cache
        names = cache.listing(ino)
        if names is None:
            return None
        first = 0
        if cookie:
            low, high = 0, len(names)
            while low < high:
                middle = (low + high) // 2
                if names[middle].cookie <= cookie:
                    low = middle + 1
                else:
                    high = middle
            first = low
        page: list[Listed] = []
        for name in names[first : first + limit]:
            attr = cache.attr(name.ino)
            if attr is None:
                return page or None
            self._listed(ino, name.ino)
            page.append(Listed(name.name, name.ino, name.kind, name.cookie, self.view(attr)))
        return page

    def _listed(self, directory: int, ino: int) -> None:
        node = self.client.cache.peek(ino)
        if node is not None:
            node.parent = directory

    async def _list_page(self, directory: Directory, cookie: int, limit: int) -> list[Listed]:
        client, ino = self.client, directory.ino
        shard = shard_of(Ino(ino))
        with client.writeback.request() as token:
            request = meta.ReadDir(
                shard=shard, session=client.session.id, ino=ino, cookie=cookie, limit=limit,
                lease=ino not in client.recalling,
            )  # fmt: skip
            reply: meta.ReadDirReply = await client.session.read(
                shard, "meta.readdir", request, deadline=client.deadline()
            )
            leased = client.cache.grant_directory(ino, reply.lease, token)
            for entry, modes in zip(reply.entries, reply.leased, strict=True):
                if leased:
                    client.cache.learn_entry(ino, entry, reply.at, token)
                if entry.attr is not None:
                    self.learn(entry.attr, modes, token)
                    self._listed(ino, entry.ino)
            self._follow(directory, cookie, reply, leased=leased, token=token)
        page = [
            Listed(
                e.name, e.ino, e.kind, e.cookie,
                self.view(e.attr) if e.attr and not self.outdated(e.attr) else None,
            )
            for e in reply.entries
        ]  # fmt: skip
        return await self._with_attributes(page)

    def _follow(
        self, directory: Directory, cookie: int, reply: meta.ReadDirReply, *, leased: bool,
        token: int,
    ) -> None:  # fmt: skip
        """Keep track of how far a listing went under one lease; note when it is whole."""
        node = self.client.cache.peek(directory.ino)
        if node is None or not leased:
            directory.epoch = -1
            return
        if cookie == 0:
            directory.epoch = node.epoch
        elif node.epoch != directory.epoch or cookie != directory.reached:
            directory.epoch = -1
            return
        directory.reached = reply.entries[-1].cookie if reply.entries else cookie
        if reply.end:
            self.client.cache.complete(directory.ino, token)

    async def _with_attributes(self, page: list[Listed]) -> list[Listed]:
        """Ask other shards for the attributes of their inodes; drop those that went meanwhile."""
        if all(listed.attr is not None for listed in page):
            return page
        out = list(page)
        failed: list[CfsError] = []

        async def ask(index: int) -> None:
            try:
                attr = await self.getattr(page[index].ino)
            except CfsError as error:
                if not isinstance(error, FsError):
                    failed.append(error)
                attr = None
            out[index] = msgspec.structs.replace(page[index], attr=attr)

        async with open_tasks() as nursery:
            for index, listed in enumerate(page):
                if listed.attr is None:
                    nursery.start_soon(ask, index)
        if failed:
            raise failed[0]
        return out
