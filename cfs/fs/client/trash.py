"""The trash as a directory: `/.snapshots/.trash`, for root only.

Its entries are what lost its last name lately, newest last, each named `STAMP.INO.NAME`: when it
was removed (a stamp of its shard's clock, ns), its inode, and the name it had. Moving an entry out
gives it a name again; removing one there throws it away for good. Reading one reads the file.
An extended attribute of the directory, `user.cfs.entry.` and an entry's name, says in JSON where
that was.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Awaitable, Callable

from cfs.core.api.meta import Attr
from cfs.core.api.trash import ListTrash, ListTrashReply, PurgeTrash, Thrown
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO, Ino, ShardId, group_of, shard_of
from cfs.fs.client.listing import Listed
from cfs.fs.client.numbers import PAST
from cfs.fs.client.router import Router

NAME = b".trash"
TRASH = PAST
"""Its number: of no snapshot, in front of no directory."""
ENTRIES_MAX = 65_536
"""Listed at once of one shard; those removed first come first."""
PAGE = 1024
INFO = b"user.cfs.entry."
NAME_BYTES = 240
"""Of an entry's name: with `INFO` in front it still names an attribute."""


class Trash:
    """The trash, through the eyes of one client."""

    def __init__(
        self,
        router: Router,
        deadline: Callable[[], float],
        path_of: Callable[[int], Awaitable[bytes]],
    ) -> None:
        self._router = router
        self._deadline = deadline
        self._path_of = path_of
        self._known: dict[bytes, Thrown] = {}
        self._listed: list[Listed] = []
        self._paths: dict[int, bytes] = {}

    def attr(self) -> Attr:
        """Show the directory."""
        return Attr(
            ino=TRASH, mode=stat.S_IFDIR | 0o700, nlink=2, uid=0, gid=0, rdev=0, size=0,
            allocated=0, atime_ns=0, mtime_ns=0, ctime_ns=0, btime_ns=0, generation=0, version=1,
            data_version=1, parent=int(ROOT_INO),
        )  # fmt: skip

    async def listing(self, cookie: int, limit: int) -> list[Listed]:
        """List up to `limit` entries after `cookie`; from the start it looks anew."""
        if not cookie:
            await self._look()
        first = max(0, cookie - 2)
        return self._listed[first : first + limit]

    async def find(self, name: bytes) -> Thrown:
        """Find an entry. Raises ENOENT."""
        stamp, ino = _parse(name)
        shard = shard_of(Ino(ino))
        request = ListTrash(shard=shard, stamp=stamp, ino=ino - 1, limit=1)
        reply: ListTrashReply = await self._router.ask(
            group_of(shard), "meta.trash", request, deadline=self._deadline()
        )
        for thrown in reply.thrown:
            if (thrown.stamp, thrown.attr.ino) == (stamp, ino):
                return thrown
        raise FsError(errno.ENOENT)

    async def purge(self, name: bytes) -> None:
        """Throw an entry away for good. Raises ENOENT."""
        ino = (await self.find(name)).attr.ino
        shard = shard_of(Ino(ino))
        await self._router.ask(
            group_of(shard), "meta.purge", PurgeTrash(shard=shard, inos=(ino,)),
            deadline=self._deadline(),
        )  # fmt: skip

    async def told(self, attribute: bytes) -> bytes:
        """Say where an entry was. Raises ENODATA."""
        if not attribute.startswith(INFO):
            raise FsError(errno.ENODATA)
        name = attribute.removeprefix(INFO)
        thrown = self._known.get(name) or await self.find(name)
        said = {
            "removed_ns": thrown.stamp,
            "ino": thrown.attr.ino,
            "mode": thrown.attr.mode,
            "size": thrown.attr.size,
            "parent": thrown.parent,
            "name": os.fsdecode(thrown.name),
            "directory": os.fsdecode(await self._where(thrown.parent)),
        }
        return json.dumps(said).encode()

    async def _where(self, ino: int) -> bytes:
        """Give the path of a directory; of one in the trash, the path it had."""
        names: list[bytes] = []
        removed = {t.attr.ino: t for t in self._known.values() if stat.S_ISDIR(t.attr.mode)}
        while ino in removed:
            names.append(removed[ino].name)
            ino = removed[ino].parent
        above = self._paths.get(ino)
        if above is None:
            try:
                above = await self._path_of(ino)
            except FsError:
                above = b"?"
            self._paths[ino] = above
        return b"/".join([above.rstrip(b"/"), *reversed(names)]) or b"/"

    async def _look(self) -> None:
        known: dict[bytes, Thrown] = {}
        for shard in range(self._router.shards()):
            stamp = ino = 0
            for _ in range(ENTRIES_MAX // PAGE):
                request = ListTrash(shard=shard, stamp=stamp, ino=ino, limit=PAGE)
                reply: ListTrashReply = await self._router.ask(
                    group_of(ShardId(shard)), "meta.trash", request,
                    deadline=self._deadline(),
                )  # fmt: skip
                known |= {_name(t): t for t in reply.thrown}
                if reply.end:
                    break
                stamp, ino = reply.thrown[-1].stamp, reply.thrown[-1].attr.ino
        self._known = dict(sorted(known.items()))
        self._paths = {}
        self._listed = [
            Listed(name, t.attr.ino, stat.S_IFMT(t.attr.mode), at, t.attr)
            for at, (name, t) in enumerate(self._known.items(), 3)
        ]


def _name(thrown: Thrown) -> bytes:
    return (b"%020d.%x." % (thrown.stamp, thrown.attr.ino) + thrown.name)[:NAME_BYTES]


def _parse(name: bytes) -> tuple[int, int]:
    parts = name.split(b".", 2)
    try:
        stamp, ino = int(parts[0]), int(parts[1], 16)
    except (IndexError, ValueError):
        raise FsError(errno.ENOENT) from None
    if not 0 < stamp < 1 << 63 or not 0 < ino < 1 << 63:
        raise FsError(errno.ENOENT)
    return stamp, ino
