"""The operations on names: lookup, create, link, unlink, rename.

Each is answered from the cache where a lease allows, else by the shard of the (new) parent, which
runs it exactly once. What a reply teaches is kept under the rules of `cache`. A file's dirty bytes
are committed before it gets a name (`rename`, `link`), so no name survives without them; a file
that is open here is pinned before its name is removed.

`caller` everywhere in `Files`: on whose behalf; None: nothing is checked. The shard checks changes;
looking names up, opening and listing are checked here, on attributes held under a lease.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Caller, Lease
from cfs.core.errors import FsError
from cfs.core.ids import Ino, shard_of
from cfs.core.meta import access
from cfs.core.meta.entries import NAME_BYTES_MAX
from cfs.fs.client.client import Client
from cfs.fs.client.file import File
from cfs.fs.client.nodes import UNKNOWN_COOKIE, Name

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
DAY_NS = 86_400 * 10**9
DOTS = frozenset({b".", b".."})


class Names:
    """Namespace operations of `Files`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._next_fh = 1

    # --- finding

    async def lookup(self, parent: int, name: bytes, *, caller: Caller | None = None) -> Attr:
        """Find a name. Raises ENOENT, ENOTDIR, ENAMETOOLONG, EACCES."""
        if len(name) > NAME_BYTES_MAX:
            raise FsError(errno.ENAMETOOLONG)
        if caller is not None:
            access.may_enter(await self.getattr(parent), caller)
        if name in DOTS:
            return await self._dots(parent, name)
        known = self.client.cache.name(parent, name)
        if known is not None:
            if not known.ino:
                raise FsError(errno.ENOENT)
            attr = self.client.cache.attr(known.ino)
            if attr is not None:
                return self.view(attr)
        return await self._look(parent, name)

    async def _look(self, parent: int, name: bytes) -> Attr:
        while True:
            ino, attr = await self._lookup(parent, name)
            if attr is not None:
                return self.view(attr)
            try:
                attr = await self.getattr(ino)
            except FsError as error:  # the name led to an inode of another shard that went
                if error.errno != errno.ENOENT:
                    raise
                continue
            known = self.client.cache.name(parent, name)  # the attributes are of a later moment
            still = (await self._lookup(parent, name))[0] if known is None else known.ino
            if still == ino:
                return attr

    async def _dots(self, directory: int, name: bytes) -> Attr:
        here = await self.getattr(directory)
        return await self.getattr(here.parent) if name == b".." and here.parent else here

    async def _lookup(self, parent: int, name: bytes) -> tuple[int, Attr | None]:
        client = self.client
        shard = shard_of(Ino(parent))
        lease = parent not in client.recalling
        with client.writeback.request() as token:
            request = meta.Lookup(
                shard=shard, session=client.session.id, parent=parent, name=name, lease=lease
            )
            reply: meta.LookupReply = await client.session.read(
                shard, "meta.lookup", request, deadline=client.deadline()
            )
            entry = reply.entry
            leased = client.cache.grant_directory(parent, reply.directory_lease, token)
            if entry is None:
                if leased:
                    absent = Name(name, 0, 0, UNKNOWN_COOKIE, reply.at)
                    client.cache.learn_name(parent, absent, token)
                raise FsError(errno.ENOENT)
            if leased:
                client.cache.learn_entry(parent, entry, reply.at, token)
            attr = entry.attr
            if attr is not None:
                self.learn(attr, reply.lease, token)
                if self.outdated(attr):
                    attr = None
            return entry.ino, attr

    async def getattr(self, ino: int) -> Attr:
        """Give attributes as this client sees them. Raises ENOENT."""
        client = self.client
        attr = client.cache.attr(ino)
        while attr is None:
            shard = shard_of(Ino(ino))
            lease = 0 if ino in client.recalling else int(Lease.READ)
            with client.writeback.request() as token:
                request = meta.GetAttr(shard=shard, session=client.session.id, ino=ino, lease=lease)
                reply: meta.GetAttrReply = await client.session.read(
                    shard, "meta.getattr", request, deadline=client.deadline()
                )
                self.learn(reply.attr, reply.lease, token)
            if not self.outdated(reply.attr):
                attr = reply.attr  # else it crossed an own change: ask again
        return self.view(attr)

    def outdated(self, attr: Attr) -> bool:
        """Tell whether a reply's attributes are of before an own change, answered or in line."""
        if attr.ino in self.client.queue.pending:
            return True
        file = self.client.writeback.files.get(attr.ino)
        return file is not None and attr.version < file.version

    def view(self, attr: Attr) -> Attr:
        """Lay over attributes what only this client knows yet."""
        client = self.client
        file = client.writeback.files.get(attr.ino)
        if file is not None:
            return file.view(attr)
        node = client.cache.peek(attr.ino)
        if node is not None and node.atime_ns > attr.atime_ns:
            return replace(attr, atime_ns=node.atime_ns)
        return attr

    def touch(self, ino: int) -> None:
        """Note that a directory or symbolic link is read now; kept here only, as for files."""
        node = self.client.cache.peek(ino)
        attr = node.attr if node is not None else None
        if node is not None and attr is not None:
            now = self.client.clock.time_ns()
            if is_due(max(attr.atime_ns, node.atime_ns), attr.mtime_ns, attr.ctime_ns, now):
                node.atime_ns = now

    def learn(self, attr: Attr, modes: int, token: int) -> None:
        """Take attributes and granted modes in. WRITE is taken in by `acquire` and `create`."""
        self.client.cache.learn_attr(attr, modes & Lease.READ, token)

    # --- making

    async def create(  # noqa: C901 - what an answer brings, one after another
        self, parent: int, name: bytes, mode: int, *, uid: int = 0, gid: int = 0, rdev: int = 0,
        target: bytes = b"", opened: bool = False, umask: int = 0, caller: Caller | None = None,
    ) -> tuple[Attr, File | None]:  # fmt: skip
        """Make whatever `mode` says. Raises EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EMLINK...

        The umask is taken away where the directory has no default access list.

        With `opened` a regular file's state comes too, with one more open counted.
        """
        client = self.client
        shard, regular = shard_of(Ino(parent)), stat.S_ISREG(mode)
        lease = Lease.READ
        if regular or client.limits.delegate:
            lease |= Lease.WRITE
        op = meta.Create(
            parent=parent, name=name, mode=mode, uid=uid, gid=gid, rdev=rdev, target=target,
            lease=int(lease), umask=umask, caller=caller,
        )  # fmt: skip
        made = await client.ahead.create(op, client.deadline())
        if made is not None:
            return made, self.made(made, opened=opened) if regular else None
        with client.writeback.request() as token:
            at, result = await client.session.mutate(shard, op, deadline=client.deadline())
            if not result.attrs:  # only a directory of another shard can be made so
                client.abandoned(op)
                return await self.getattr(result.ino), None
            attr, directory = result.attrs[0], result.attrs[1]
            client.cache.learn_change(directory, token)
            entry = Name(name, attr.ino, stat.S_IFMT(mode), UNKNOWN_COOKIE, at)
            client.cache.change_name(parent, entry, token)
            here = shard_of(Ino(attr.ino)) == shard
            node = client.cache.learn_attr(attr, lease, token) if here else None
            if node is not None:
                node.xattr_names = frozenset()
                node.complete = stat.S_ISDIR(mode)
            if not regular:
                if node is not None and node.modes & Lease.WRITE:
                    client.delegations.keep(attr.ino)
                elif stat.S_ISDIR(mode):
                    client.delegations.made(attr.ino)
                return attr, None
            file = client.writeback.file(attr.ino)
            if node is not None:
                file.take_write(attr)
                file.learn_tiles([], 0, 0)
            if opened:
                file.opens += 1
        if opened and node is None:
            await client.pin(attr.ino, client.deadline())
        client.writeback.settle(file)
        return attr, file

    def made(self, attr: Attr, *, opened: bool) -> File:
        """Give the state of a file made ahead of its shard."""
        file = self.client.writeback.file(attr.ino)
        file.take_write(attr)
        file.learn_tiles([], 0, 0)
        file.opens += opened
        self.client.writeback.settle(file)
        return file

    async def mkdir(
        self, parent: int, name: bytes, mode: int, *, uid: int = 0, gid: int = 0,
        umask: int = 0, caller: Caller | None = None,
    ) -> Attr:  # fmt: skip
        """Make a directory."""
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        made = self.create(parent, name, mode, uid=uid, gid=gid, umask=umask, caller=caller)
        return (await made)[0]

    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int = 0, *, uid: int = 0, gid: int = 0,
        umask: int = 0, caller: Caller | None = None,
    ) -> Attr:  # fmt: skip
        """Make a file or a special file; a mode without a type means a regular one."""
        mode = mode if stat.S_IFMT(mode) else mode | stat.S_IFREG
        made = self.create(
            parent, name, mode, uid=uid, gid=gid, rdev=rdev, umask=umask, caller=caller
        )
        return (await made)[0]

    async def symlink(
        self, parent: int, name: bytes, target: bytes, *, uid: int = 0, gid: int = 0,
        caller: Caller | None = None,
    ) -> Attr:  # fmt: skip
        """Make a symbolic link."""
        mode = stat.S_IFLNK | 0o777
        made = self.create(parent, name, mode, uid=uid, gid=gid, target=target, caller=caller)
        return (await made)[0]

    async def readlink(self, ino: int) -> bytes:
        """Give where a symbolic link points. Raises EINVAL."""
        attr = await self.getattr(ino)
        if not stat.S_ISLNK(attr.mode):
            raise FsError(errno.EINVAL)
        self.touch(ino)
        return attr.target

    async def link(
        self, ino: int, parent: int, name: bytes, *, caller: Caller | None = None
    ) -> Attr:
        """Give a non-directory another name."""
        client = self.client
        op = meta.Link(ino=ino, parent=parent, name=name, caller=caller)
        linked = await client.ahead.link(op, client.deadline())
        if linked is not None:
            return self.view(linked)
        await self._commit(ino)
        shard = shard_of(Ino(parent))
        with client.writeback.request() as token:
            at, result = await client.session.mutate(shard, op, deadline=client.deadline())
            if not result.attrs:
                client.abandoned(op)
                return await self.getattr(ino)
            for attr in result.attrs:
                client.cache.learn_change(attr, token)
            attr = result.attrs[0]
            entry = Name(name, ino, stat.S_IFMT(attr.mode), UNKNOWN_COOKIE, at)
            client.cache.change_name(parent, entry, token)
        return self.view(attr)

    # --- removing, moving

    async def unlink(self, parent: int, name: bytes, *, caller: Caller | None = None) -> None:
        """Remove a name that is not a directory; an open file lives on until its last close."""
        client = self.client
        op = meta.Unlink(parent=parent, name=name, caller=caller)
        if await client.ahead.unlink(op, client.deadline()):
            return
        await self._pin_if_open(parent, name)
        shard = shard_of(Ino(parent))
        with client.writeback.request() as token:
            at, result = await client.session.mutate(shard, op, deadline=client.deadline())
            if not result.attrs:
                client.abandoned(op)
                return
            for attr in result.attrs:
                client.cache.learn_change(attr, token)
            absent = Name(name, 0, 0, UNKNOWN_COOKIE, at)
            client.cache.change_name(parent, absent, token)
        self._discard_if_gone(result.attrs[0])

    async def rmdir(self, parent: int, name: bytes, *, caller: Caller | None = None) -> None:
        """Remove an empty directory."""
        client = self.client
        op = meta.Rmdir(parent=parent, name=name, caller=caller)
        if await client.ahead.rmdir(op, client.deadline()):
            return
        await self._find(parent, name)  # nothing may be made in it from now on
        shard = shard_of(Ino(parent))
        with client.writeback.request() as token:
            at, result = await client.session.mutate(shard, op, deadline=client.deadline())
            if not result.attrs:
                client.abandoned(op)
                return
            for attr in result.attrs:
                client.cache.learn_change(attr, token)
            absent = Name(name, 0, 0, UNKNOWN_COOKIE, at)
            client.cache.change_name(parent, absent, token)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0, *,
        caller: Caller | None = None,
    ) -> None:  # fmt: skip
        """Move a name as renameat2 does; `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE."""
        client = self.client
        op = meta.Rename(
            parent=parent, name=name, new_parent=new_parent, new_name=new_name, flags=flags,
            caller=caller,
        )  # fmt: skip
        if await client.ahead.rename(op, client.deadline()):
            return
        moved = await self._find(parent, name)
        if moved is None:
            raise FsError(errno.ENOENT)
        await self._commit(moved)
        replaced = await self._pin_if_open(new_parent, new_name)
        if flags & RENAME_EXCHANGE and replaced is not None:
            await self._commit(replaced)
        shard = shard_of(Ino(new_parent))
        with client.writeback.request() as token:
            at, result = await client.session.mutate(shard, op, deadline=client.deadline())
            if not result.attrs:
                client.abandoned(op)
                return
            for attr in result.attrs:
                client.cache.learn_change(attr, token)
            attr = result.attrs[0]
            plain = not flags & RENAME_EXCHANGE and replaced != moved and attr.ino == moved
            if plain and shard_of(Ino(parent)) == shard:
                cache = client.cache
                cache.change_name(parent, Name(name, 0, 0, UNKNOWN_COOKIE, at), token)
                kind = stat.S_IFMT(attr.mode)
                entry = Name(new_name, moved, kind, UNKNOWN_COOKIE, at)
                cache.change_name(new_parent, entry, token)
            else:
                client.cache.unlearn_name(parent, name)
                client.cache.unlearn_name(new_parent, new_name)
        for attr in result.attrs[3:]:
            self._discard_if_gone(attr)

    async def _find(self, parent: int, name: bytes) -> int | None:
        known = self.client.cache.name(parent, name)
        if known is not None:
            return known.ino or None
        try:
            return (await self._lookup(parent, name))[0]
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    async def _pin_if_open(self, parent: int, name: bytes) -> int | None:
        """Pin what a name leads to if it is open here; give its inode."""
        ino = await self._find(parent, name)
        if ino is not None:
            file = self.client.writeback.files.get(ino)
            if file is not None and file.opens and not file.pinned:
                await self.client.pin(ino, self.client.deadline())
        return ino

    async def _commit(self, ino: int) -> None:
        file = self.client.writeback.files.get(ino)
        if file is not None and file.unclean:
            await self.client.writeback.flush(file, self.client.deadline())

    def _discard_if_gone(self, attr: Attr) -> None:
        """Nobody can read an inode without a name that is not open: its bytes need no commit."""
        file = self.client.writeback.files.get(attr.ino)
        if attr.nlink == 0 and file is not None and not file.opens:
            self.client.writeback.cut(file.discard())

    def _take_handle(self) -> int:
        handle = self._next_fh
        self._next_fh += 1
        return handle


def is_due(atime_ns: int, mtime_ns: int, ctime_ns: int, now_ns: int) -> bool:
    """Tell whether a read moves the access time (relatime): not after the last change, or old."""
    return atime_ns <= max(mtime_ns, ctime_ns) or now_ns - atime_ns > DAY_NS
