"""The operations on attributes, extended ones too, and the figures of the whole file system.

`setattr` is carried out ahead of the shard where that is allowed (`ahead`). Elsewhere it commits a
file's dirty bytes first, so no later size, mode or time survives without them; a size is set under
the WRITE lease, in order with the file's commits. Extended attributes are cached under the inode's
lease: their names all together, small values one by one. Access lists come with the attributes.
"""

from __future__ import annotations

import errno
import stat

import msgspec

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Caller, Lease
from cfs.core.errors import CfsError, FsError, NoSpace
from cfs.core.meta import access, attributes
from cfs.core.meta import acl as lists
from cfs.core.meta.xattrs import check_space
from cfs.fs.client.file import File
from cfs.fs.client.lane import Follow
from cfs.fs.client.listing import Listings
from cfs.fs.client.space import Totals

XATTR_CACHED_MAX = 4096


class Attributes(Listings):
    """Attribute operations of `Files`."""

    async def setattr(
        self, ino: int, *, mode: int | None = None, uid: int | None = None,
        gid: int | None = None, size: int | None = None, atime_ns: int | None = None,
        mtime_ns: int | None = None, now: bool = False, drop_ids: bool = False,
        caller: Caller | None = None,
    ) -> Attr:  # fmt: skip
        """Change attributes; None leaves one. See `meta.SetAttr`.

        Raises EFBIG, EINVAL, EISDIR, ENOENT, ENOSPC, EACCES, EPERM.
        """
        client = self.client
        op = meta.SetAttr(
            ino=ino, mode=mode, uid=uid, gid=gid, size=size, atime_ns=atime_ns, mtime_ns=mtime_ns,
            now=now, drop_ids=drop_ids, caller=caller,
        )  # fmt: skip
        attributes.check_values(op)  # what cannot be encoded must not get into a lane
        if size is not None:
            return await self._set_size(op, size)
        changed = await client.ahead.setattr(op, client.deadline())
        if changed is not None:
            return self.view(changed)
        file = client.writeback.files.get(ino)
        follow = Follow(op)
        if file is not None and file.unclean:
            # the token is of before the operation is sent, wherever that happens
            with client.writeback.request() as token:
                await client.queue.drained(client.deadline())
                await client.writeback.flush(file, client.deadline(), follow=follow)
                if follow.begun:
                    return await self._answered(follow, file, token)
        if file is not None and client.writeback.writable(file):
            async with file.flush_lock:  # in order with commits, which carry times
                return await self._set(op, file, held=bool(file.node.modes & Lease.WRITE))
        return await self._set(op, file, held=False)

    async def _set(self, op: meta.SetAttr, file: File | None, *, held: bool) -> Attr:
        """Have the shard change attributes.

        `held`: under the WRITE lease and the file's lock, for which a recall waits, so on the lane
        that waits for nobody.
        """
        client = self.client
        deadline = client.deadline()
        shard = client.cache.node(op.ino).shard
        with client.writeback.request() as token:
            await client.queue.drained(deadline)
            if held and file is not None:
                follow = Follow(op)
                follow.begin(await client.session.data_lane(shard, deadline))
                return await self._answered(follow, file, token)
            _, result = await client.session.mutate(shard, op, deadline=deadline)
            return self._taken(result.attrs[0], op, file, token)

    async def _answered(self, follow: Follow, file: File, token: int) -> Attr:
        _, result = await follow.answer(self.client.deadline())
        return self._taken(result.attrs[0], follow.op, file, token)

    def _taken(self, attr: Attr, op: meta.SetAttr, file: File | None, token: int) -> Attr:
        self.client.cache.learn_change(attr, token)
        if op.atime_ns is not None and (node := self.client.cache.peek(op.ino)) is not None:
            node.atime_ns = 0
        if file is not None:
            file.changed(attr)
            if op.mtime_ns is not None:
                file.mtime_ns = op.mtime_ns
            if op.atime_ns is not None:
                file.atime_ns = 0
        return self.view(attr)

    async def _set_size(self, op: meta.SetAttr, size: int) -> Attr:
        """Set the size under the WRITE lease: bytes below it first, those above are forgotten."""
        client = self.client
        attr = await self.getattr(op.ino)
        if not stat.S_ISREG(attr.mode):
            raise FsError(errno.EISDIR if stat.S_ISDIR(attr.mode) else errno.EINVAL)
        file = client.writeback.file(op.ino)
        file.opens += 1  # keeps this state the only one of the inode
        try:
            while True:
                deadline = client.deadline()
                await client.session.ensure(file.node.shard, deadline)
                await client.writeback.acquire(file, deadline)
                # under the lease nobody changes what this looks at, and the bytes are still here
                access.may_set(client.cache.attr(op.ino) or attr, op)
                changed = await client.ahead.setattr(op, deadline)
                if changed is not None:
                    return self.view(changed)
                if file.unclean and size:
                    await self._commit_below(file, size, deadline)
                async with file.flush_lock:
                    if not client.writeback.writable(file):
                        continue
                    client.writeback.cut(file.truncate(size))
                    file.cut_to = size
                    try:
                        attr = await self._set(op, file, held=True)
                    except CfsError:
                        client.cache.forget(op.ino)
                        raise
                    finally:
                        file.cut_to = None
                    file.base_version, file.base_size = attr.data_version, attr.size
                    if op.mtime_ns is None:
                        file.mtime_ns = attr.mtime_ns
                    if size == 0 and file.node.modes & Lease.WRITE:
                        file.tiles, file.tiles_start, file.tiles_end = [], 0, 0
                        file.tiles_epoch = file.node.epoch
                return attr
        finally:
            self.closed(file)

    async def _commit_below(self, file: File, size: int, deadline: float) -> None:
        """Commit what is dirty before the size is set; on a full cluster, no more than will stay.

        What will be cut is committed too: were it forgotten here and the lease recalled before the
        size is set, others would see the file as it never was.
        """
        writeback = self.client.writeback
        try:
            await writeback.flush(file, deadline)
        except NoSpace:
            writeback.cut(file.truncate(size) if size < file.size else 0)
            await writeback.flush(file, deadline)

    def closed(self, file: File) -> None:
        """Count one use of a file's state less."""
        file.opens -= 1
        if file.opens == 0:
            if file.pinned:
                file.pinned = False
                self.client.session.drop_pin(file.ino)
            self.client.writeback.settle(file)

    async def statfs(self, ino: int = 0) -> Totals:
        """Give the cluster's capacity and free space in bytes, and its inodes.

        Of an inode in a tree with a quota: what that lets it hold.
        """
        client = self.client
        totals = await client.space.totals()
        free = max(0, totals.free - client.buffer.used)
        totals = msgspec.structs.replace(totals, free=free, available=free)
        attr = client.cache.attr(ino)
        if attr is None and ino:
            try:
                attr = await self.getattr(ino)
            except FsError:  # removed meanwhile, or of a snapshot
                return totals
        if attr is None or not attr.project:
            return totals
        return await client.quotas.narrowed(totals, attr.project, client.deadline())

    # --- extended attributes

    async def getxattr(self, ino: int, name: bytes, *, caller: Caller | None = None) -> bytes:
        """Give an extended attribute. Raises ENODATA, EACCES, ENOTSUP, EINVAL."""
        check_space(name)
        attr = await self.getattr(ino)
        access.may_get_xattr(attr, name, caller)
        if name in lists.NAMES:
            return access_list(attr, name)
        names = await self._xattr_names(ino)
        if name not in names:
            raise FsError(errno.ENODATA)
        client = self.client
        node = client.cache.peek(ino)
        if node is not None and client.cache.leased(node) and name in node.xattrs:
            return node.xattrs[name]
        shard = client.cache.node(ino).shard
        with client.writeback.request() as token:
            request = meta.GetXattr(shard=shard, session=client.session.id, ino=ino, name=name)
            reply: meta.XattrReply = await client.session.read(
                shard, "meta.getxattr", request, deadline=client.deadline()
            )
            node = client.cache.peek(ino)
            keep = node is not None and client.cache.leased(node)
            if (
                node
                and keep
                and len(reply.value) <= XATTR_CACHED_MAX
                and client.fences.passes(token, ino)
            ):
                node.xattrs[name] = reply.value
        return reply.value

    async def listxattr(self, ino: int, *, caller: Caller | None = None) -> frozenset[bytes]:
        """Give the names of all extended attributes that the caller may see."""
        attr = await self.getattr(ino)  # under its lease the answer may be kept
        return xattrs_shown(attr, await self._xattr_names(ino), caller)

    async def _xattr_names(self, ino: int) -> frozenset[bytes]:
        client = self.client
        node = client.cache.node(ino)
        if node.xattr_names is not None and client.cache.leased(node):
            return node.xattr_names
        with client.writeback.request() as token:
            request = meta.ListXattr(shard=node.shard, session=client.session.id, ino=ino)
            reply: meta.XattrReply = await client.session.read(
                node.shard, "meta.listxattr", request, deadline=client.deadline()
            )
            names = frozenset(reply.names)
            if client.cache.leased(node) and client.fences.passes(token, ino):
                node.xattr_names = names
        return names

    async def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int = 0, *, caller: Caller | None = None
    ) -> None:
        """Set an extended attribute; `flags`: 1 CREATE, 2 REPLACE. Raises EEXIST, ENODATA..."""
        check_space(name)
        if name == lists.ACCESS and not flags and self._set_as_mode(ino, value, caller):
            return
        await self._change_xattr(
            meta.SetXattr(ino=ino, name=name, value=value, flags=flags, caller=caller)
        )

    async def removexattr(self, ino: int, name: bytes, *, caller: Caller | None = None) -> None:
        """Remove an extended attribute. Raises ENODATA, ENOTSUP, EINVAL."""
        check_space(name)
        op = meta.RemoveXattr(ino=ino, name=name, caller=caller)
        attr = self.client.cache.attr(ino)
        if attr is not None and name in lists.NAMES:
            access.may_set_xattr(attr, op)
            access_list_kept(attr, name)
        await self._change_xattr(op)

    def _set_as_mode(self, ino: int, value: bytes, caller: Caller | None) -> bool:
        """Set an access list that a mode can say as the mode, ahead of the shard, if that may be.

        `cp -a` sets one on every file.
        """
        node = self.client.delegations.mine(ino)
        attr = node.attr if node is not None else None
        acl = lists.from_xattr(value)
        if attr is None or acl is None or acl.extended or attr.acl:
            return False
        if not stat.S_ISREG(attr.mode) and not stat.S_ISDIR(attr.mode):
            return False
        op = meta.SetAttr(ino=ino, mode=attr.mode & ~0o777 | acl.bits, caller=caller)
        return self.client.ahead.try_setattr(op) is not None

    async def _change_xattr(self, op: meta.SetXattr | meta.RemoveXattr) -> None:
        client = self.client
        node = client.cache.node(op.ino)
        with client.writeback.request() as token:
            try:
                _, result = await client.session.mutate(node.shard, op, deadline=client.deadline())
            finally:
                node.xattr_names = None
                node.xattrs = {}
                client.fences.close_ino(op.ino)
            for attr in result.attrs:
                client.cache.learn_change(attr, token)


def access_list(attr: Attr, name: bytes) -> bytes:
    """Give an access list as an extended attribute shows it. Raises ENODATA."""
    value = lists.shown(name, attr.mode, attr.acl, attr.default_acl)
    if value is None:
        raise FsError(errno.ENODATA)
    return value


def access_list_kept(attr: Attr, name: bytes) -> bytes:
    """Give what is kept of an access list beside the mode. Raises ENODATA."""
    kept = attr.acl if name == lists.ACCESS else attr.default_acl
    if not kept:
        raise FsError(errno.ENODATA)
    return kept


def xattrs_shown(attr: Attr, names: frozenset[bytes], caller: Caller | None) -> frozenset[bytes]:
    """Give the names a caller is told: access lists too, what is for root only to root."""
    if attr.acl:
        names |= {lists.ACCESS}
    if attr.default_acl:
        names |= {lists.DEFAULT}
    if caller is None or not caller.uid:
        return names
    return frozenset(name for name in names if not name.startswith(b"trusted."))
