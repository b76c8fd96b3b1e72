"""Operations carried out here, ahead of the shard: under delegations and WRITE leases.

Each is checked by the rules of the shard, on what the cache knows, changes the cache as the shard
will change its records (`core.meta.change`), and is put in the queue. Nothing waits between the
check and the end of the change. An operation that this client may not carry out alone answers None:
it goes the synchronous way. Everything an operation touches must be held for writing, so what is
done here nobody else can see differently before it has been recalled.

A file's dirty bytes are put in line before an operation that must not survive without them when
they are few; otherwise they are flushed first.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Lease
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.core.meta import attributes, change, namespace, renaming
from cfs.core.meta.entries import NAME_BYTES_MAX, check_name
from cfs.core.meta.links import NLINK_MAX
from cfs.fs.client.cache import UNKNOWN_COOKIE, Cache, Name, Node
from cfs.fs.client.delegation import Delegations
from cfs.fs.client.fences import Fences
from cfs.fs.client.file import File
from cfs.fs.client.lane import Lane
from cfs.fs.client.queue import Queue
from cfs.fs.client.session import Session
from cfs.fs.client.writeback import Writeback
from cfs.net.ports import WallClock

SPREAD_XATTR = b"user.cfs.spread"
_HELD = Lease.READ | Lease.WRITE
_DOTS = frozenset({b".", b".."})


class Ahead:
    """The operations of `Files` that need not ask."""

    def __init__(
        self, *, session: Session, fences: Fences, cache: Cache, writeback: Writeback,
        queue: Queue, delegations: Delegations, clock: WallClock,
    ) -> None:  # fmt: skip
        self._session = session
        self._fences = fences
        self._cache = cache
        self._writeback = writeback
        self._queue = queue
        self._delegations = delegations
        self._clock = clock

    # --- making

    async def create(self, op: meta.Create, deadline: float) -> Attr | None:
        """Make what `op` says. Raises as `Create`."""
        while True:
            lane = await self._place((op.parent,), deadline)
            if lane is None:
                return None
            node = self._cache.node(op.parent)
            directory = _known(node)
            check_name(op.name)
            if self._find(node, op.name) is not None:
                raise FsError(errno.EEXIST)
            kind = namespace.check_new(op)
            is_directory = kind == stat.S_IFDIR
            if is_directory:
                if op.parent == ROOT_INO or node.xattr_names is None:
                    return None
                if SPREAD_XATTR in node.xattr_names:
                    return None
                _check_links(directory)
            ino = self._delegations.take_number(node.shard)
            if ino:
                break
            await self._delegations.reserve(node.shard, deadline)
        now = self._clock.time_ns()
        self._put(lane, replace(op, ino=ino, time_ns=now, lease=int(_HELD)), (op.parent, ino))
        self._queue.made.add(ino)
        mode, gid = change.inherit(directory, op.mode, op.gid)
        attr = Attr(
            ino=ino,
            **change.born(
                now, mode=mode, uid=op.uid, gid=gid, rdev=op.rdev, target=op.target,
                parent=op.parent if is_directory else 0,
            ),
        )  # fmt: skip
        made = self._cache.node(ino)
        made.modes = int(_HELD)
        made.attr = attr
        made.xattr_names = frozenset()
        made.complete = is_directory
        self._set_name(node, op.name, ino, kind)
        self._count(node, now, came=1, subdirectories=int(is_directory))
        if kind != stat.S_IFREG:
            self._delegations.keep(ino)
        return attr

    async def link(self, op: meta.Link, deadline: float) -> Attr | None:
        """Give a non-directory another name. Raises as `Link`."""
        while True:
            lane = await self._place((op.parent,), deadline, (op.ino,))
            target = self._delegations.mine(op.ino) if lane is not None else None
            if lane is None or target is None:
                return None
            node = self._cache.node(op.parent)
            attr = _known(target)
            check_name(op.name)
            if stat.S_ISDIR(attr.mode):
                raise FsError(errno.EPERM)
            if self._find(node, op.name) is not None:
                raise FsError(errno.EEXIST)
            if target.shard != node.shard or not attr.nlink:
                return None
            _check_links(attr)
            if await self._commit(op.ino, deadline):
                break
        now = self._clock.time_ns()
        self._put(lane, replace(op, time_ns=now), (op.parent, op.ino))
        target.attr = attr = replace(attr, **change.links(attr, now, 1))
        self._set_name(node, op.name, op.ino, stat.S_IFMT(attr.mode))
        self._count(node, now, came=1, subdirectories=0)
        return attr

    # --- removing

    async def unlink(self, op: meta.Unlink, deadline: float) -> bool:
        """Remove a name that is not a directory; False: not from here. Raises as `Unlink`."""
        lane = await self._place((op.parent,), deadline)
        if lane is None:
            return False
        node = self._cache.node(op.parent)
        there = self._require(node, op.name)
        if there.kind == stat.S_IFDIR:
            raise FsError(errno.EISDIR)
        target = self._removable(there.ino, lane)
        if target is None:
            return False
        now = self._clock.time_ns()
        inos = (op.parent, there.ino)
        self._put(lane, replace(op, ino=there.ino, time_ns=now), inos)
        self._set_name(node, op.name, 0, 0)
        self._count(node, now, came=-1, subdirectories=0)
        self._drop_link(target, now)
        return True

    async def rmdir(self, op: meta.Rmdir, deadline: float) -> bool:
        """Remove an empty directory; False: not from here. Raises as `Rmdir`."""
        lane = await self._place((op.parent,), deadline)
        if lane is None or op.name in _DOTS:
            return False
        node = self._cache.node(op.parent)
        there = self._require(node, op.name)
        if there.kind != stat.S_IFDIR:
            raise FsError(errno.ENOTDIR)
        target = self._removable(there.ino, lane)
        if target is None:
            return False
        namespace.check_empty(_known(target), there.ino)
        now = self._clock.time_ns()
        self._put(lane, replace(op, ino=there.ino, time_ns=now), (op.parent, there.ino))
        self._set_name(node, op.name, 0, 0)
        self._count(node, now, came=-1, subdirectories=-1)
        self._drop_link(target, now)
        return True

    # --- moving

    async def rename(self, op: meta.Rename, deadline: float) -> bool:
        """Move a name; False: not from here. Raises as `Rename`."""
        if op.flags not in {0, renaming.NOREPLACE}:
            return False
        while True:
            lane = await self._place((op.parent, op.new_parent), deadline)
            if lane is None:
                return False
            old, new = self._cache.node(op.parent), self._cache.node(op.new_parent)
            source, there = self._names_moved(op, old, new)
            if there is not None and there.ino == source.ino:
                return True
            is_directory = source.kind == stat.S_IFDIR
            moved = self._held(source.ino, lane)
            if moved is None or (is_directory and old is not new):
                return False
            replaced = None if there is None else self._replaceable(source, there, lane)
            if there is not None and replaced is None:
                return False
            if await self._commit(source.ino, deadline):
                break
        now = self._clock.time_ns()
        gone = there.ino if there is not None else 0
        inos = tuple(i for i in (op.parent, op.new_parent, source.ino, gone) if i)
        self._put(lane, replace(op, ino=source.ino, replaces=gone, time_ns=now), inos)
        self._set_name(old, op.name, 0, 0)
        self._set_name(new, op.new_name, source.ino, source.kind)
        attr = _known(moved)
        moved.attr = replace(attr, **change.links(attr, now, 0))
        if replaced is not None:
            self._drop_link(replaced, now)
        lost = int(is_directory)
        came = lost - int(there is not None and there.kind == stat.S_IFDIR)
        self._count(old, now, came=-1, subdirectories=-lost)
        self._count(new, now, came=int(there is None), subdirectories=came)
        return True

    def _names_moved(self, op: meta.Rename, old: Node, new: Node) -> tuple[Name, Name | None]:
        for name in (op.name, op.new_name):
            renaming.check_renamed(name)
        source = self._require(old, op.name)
        there = self._find(new, op.new_name)
        if there is not None and op.flags & renaming.NOREPLACE:
            raise FsError(errno.EEXIST)
        return source, there

    def _replaceable(self, source: Name, there: Name, lane: Lane) -> Node | None:
        renaming.check_kinds(source.kind, there.kind, there.name)
        replaced = self._removable(there.ino, lane)
        if replaced is not None and there.kind == stat.S_IFDIR:
            namespace.check_empty(_known(replaced), there.ino)
        return replaced

    # --- attributes

    async def setattr(self, op: meta.SetAttr, deadline: float) -> Attr | None:
        """Change attributes. Raises as `SetAttr`."""
        while True:
            node = self._delegations.mine(op.ino)
            if node is None or self._session.trusted_lane(node.shard) is None:
                return None
            lane = await self._line(node.shard, (op.ino,), deadline)
            if lane is None or self._delegations.mine(op.ino) is not node:
                return None
            attr = _known(node)
            attributes.check(attr, op)
            file = self._writeback.files.get(op.ino)
            if op.size is not None:
                if file is None or not self._may_resize(file, attr, op.size):
                    return None
                break
            if await self._commit(op.ino, deadline):
                break
        now = self._clock.time_ns()
        self._put(lane, replace(op, time_ns=now), (op.ino,))
        size = attr.size if op.size is None else op.size
        fields = change.attributes(attr, op, now, resized=size != attr.size)
        allocated = attr.allocated if size else 0
        node.attr = replace(attr, **fields, size=size, allocated=allocated)
        if file is not None:
            self._set_file(file, op, now)
        return node.attr

    def _may_resize(self, file: File, attr: Attr, size: int) -> bool:
        if not stat.S_ISREG(attr.mode) or file.flushing is not None or not file.flush_lock.value:
            return False
        return size == 0 or (not file.dirty and size >= attr.size)

    def _set_file(self, file: File, op: meta.SetAttr, now: int) -> None:
        if op.size is not None:
            self._writeback.cut(file.truncate(op.size))
            file.mtime_ns, file.base_size = now, op.size
            if not op.size:
                file.tiles, file.tiles_start, file.tiles_end = [], 0, 0
                file.tiles_epoch = file.node.epoch
        if op.mtime_ns is not None:
            file.mtime_ns = op.mtime_ns
        if op.atime_ns is not None:
            file.atime_ns = 0

    # --- what they share

    async def _place(
        self, parents: tuple[int, ...], deadline: float, inos: tuple[int, ...] = ()
    ) -> Lane | None:
        """Give the lane for an operation in these directories, all of them delegated, or None."""
        delegations = self._delegations
        if delegations.failed:
            for ino in parents:
                error = delegations.failed.pop(ino, None)
                if error is not None:
                    raise error
        shard = -1
        for ino in parents:
            node = delegations.here(ino) or await delegations.directory(ino, deadline)
            if node is None or shard not in {-1, node.shard}:
                return None
            shard = node.shard
        lane = await self._line(shard, (*parents, *inos), deadline)
        if lane is None or any(delegations.here(ino) is None for ino in parents):
            return None
        return lane

    async def _line(self, shard: int, inos: tuple[int, ...], deadline: float) -> Lane | None:
        lane = self._session.trusted_lane(shard)
        if lane is None or self._queue.admits(lane, inos):
            return lane
        await self._queue.room(lane, deadline)
        lane = self._session.trusted_lane(shard)
        return lane if lane is not None and self._queue.admits(lane, inos) else None

    def _held(self, ino: int, lane: Lane) -> Node | None:
        """Give the node of an inode of the lane's shard that may be changed here."""
        node = self._delegations.mine(ino)
        if node is None or self._session.trusted_lane(node.shard) is not lane:
            return None
        return node if self._queue.admits(lane, (ino,)) else None

    def _removable(self, ino: int, lane: Lane) -> Node | None:
        """Give the node of what may lose a name here: an open file must be pinned first."""
        file = self._writeback.files.get(ino)
        if file is not None and file.opens and not file.pinned:
            return None
        return self._held(ino, lane)

    async def _commit(self, ino: int, deadline: float) -> bool:
        """Have a file's bytes in line; False: that took a while, look at everything again."""
        file = self._writeback.files.get(ino)
        if file is None or not file.unclean or self._writeback.commit_ahead(file):
            return True
        await self._writeback.flush(file, deadline)
        return False

    def _put(self, lane: Lane, op: object, inos: tuple[int, ...]) -> None:
        self._queue.put(lane, op, tuple(dict.fromkeys(inos)))

    def _find(self, node: Node, name: bytes) -> Name | None:
        there = node.entries.get(name)
        return there if there is not None and there.ino else None

    def _require(self, node: Node, name: bytes) -> Name:
        if len(name) > NAME_BYTES_MAX:
            raise FsError(errno.ENAMETOOLONG)
        there = self._find(node, name)
        if there is None:
            raise FsError(errno.ENOENT)
        return there

    def _set_name(self, node: Node, name: bytes, ino: int, kind: int) -> None:
        self._fences.close_ino(node.ino)  # what was asked before this does not know of it
        self._cache.set_name(node, Name(name, ino, kind, UNKNOWN_COOKIE, 0))

    def _count(self, node: Node, now: int, *, came: int, subdirectories: int) -> None:
        attr = _known(node)
        fields = change.entries(attr, now, came=came, subdirectories=subdirectories)
        node.attr = replace(attr, **fields)

    def _drop_link(self, node: Node, now: int) -> None:
        attr = _known(node)
        node.attr = attr = replace(attr, **change.links(attr, now, -1))
        file = self._writeback.files.get(node.ino)
        if not attr.nlink and file is not None and not file.opens:
            self._writeback.cut(file.discard())  # nobody can read them any more


def _known(node: Node) -> Attr:
    assert node.attr is not None
    return node.attr


def _check_links(attr: Attr) -> None:
    if attr.nlink >= NLINK_MAX:
        raise FsError(errno.EMLINK)
