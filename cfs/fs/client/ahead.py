"""Operations carried out here, ahead of the shard: under delegations and WRITE leases.

Each is checked by the rules of the shard, on what the cache knows, changes the cache as the shard
will change its records (`core.meta.change`), and is put in the queue. Nothing waits between the
check and the end of the change. An operation that this client may not carry out alone answers
None: it goes the synchronous way. `try_` methods answer None too where something has to be waited
for first; the others wait for it and try again. Everything an operation touches must be held for
writing, so what is done here nobody else can see differently before it has been recalled.

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
from cfs.core.meta import access, attributes, change, namespace, renaming
from cfs.core.meta.entries import check_name
from cfs.fs.client.file import File
from cfs.fs.client.ground import Ground, check_links, known
from cfs.fs.client.lane import Lane
from cfs.fs.client.nodes import Name, Node

SPREAD_XATTR = b"user.cfs.spread"
_HELD = Lease.READ | Lease.WRITE
_DOTS = frozenset({b".", b".."})


class Ahead(Ground):
    """The operations of `Files` that need not ask."""

    # --- making

    async def create(self, op: meta.Create, deadline: float) -> Attr | None:
        """Make what `op` says. Raises as `Create`."""
        made = self.try_create(op)
        if made is None and await self._prepare((op.parent,), deadline):
            await self._quotas.learn(self._cache.node(op.parent).shard, deadline)
            await self._delegations.reserve(self._cache.node(op.parent).shard, deadline)
            made = self.try_create(op)
        return made

    def try_create(self, op: meta.Create) -> Attr | None:
        """See `create`."""
        lane = self._ready((op.parent, op.name))
        if lane is None:
            return None
        node = self._cache.node(op.parent)
        directory = known(node)
        check_name(op.name)
        access.may_enter(directory, op.caller)
        if self._find(node, op.name) is not None:
            raise FsError(errno.EEXIST)
        kind = namespace.check_new(op)
        access.may_make(directory, op)
        if not self._quotas.may_make(node.shard, directory, op):
            return None
        is_directory = kind == stat.S_IFDIR
        if is_directory:
            if op.parent == ROOT_INO or node.xattr_names is None:
                return None
            if SPREAD_XATTR in node.xattr_names:
                return None
        ino = self._delegations.take_number(node.shard)
        if not ino:
            return None
        now = self._clock.time_ns()
        self._put(lane, replace(op, ino=ino, time_ns=now, lease=int(_HELD)), (op.parent, ino))
        self._queue.made.add(ino)
        attr = Attr(
            ino=ino,
            **change.born(
                now, **change.inherit(directory, op), rdev=op.rdev, target=op.target,
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
        linked = self.try_link(op)
        if linked is None and await self._prepare((op.parent,), deadline):
            await self._flush(op.ino, deadline)
            linked = self.try_link(op)
        return linked

    def try_link(self, op: meta.Link) -> Attr | None:
        """See `link`."""
        lane = self._ready((op.parent, op.name))
        target = self._held(op.ino, lane) if lane is not None else None
        if lane is None or target is None:
            return None
        node = self._cache.node(op.parent)
        attr = known(target)
        check_name(op.name)
        access.may_enter(known(node), op.caller)
        if stat.S_ISDIR(attr.mode):
            raise FsError(errno.EPERM)
        if self._find(node, op.name) is not None:
            raise FsError(errno.EEXIST)
        if not attr.nlink:
            return None
        access.may_add(known(node), op.caller)
        check_links(attr)
        if attr.project != known(node).project or not self._in_line(op.ino):
            return None
        now = self._clock.time_ns()
        self._put(lane, replace(op, time_ns=now), (op.parent, op.ino))
        target.attr = attr = replace(attr, **change.links(attr, now, 1))
        self._set_name(node, op.name, op.ino, stat.S_IFMT(attr.mode))
        self._count(node, now, came=1, subdirectories=0)
        return attr

    # --- removing

    async def unlink(self, op: meta.Unlink, deadline: float) -> bool | None:
        """Remove a name that is not a directory. Raises as `Unlink`."""
        done = self.try_unlink(op)
        if done is None and await self._prepare((op.parent,), deadline):
            there = self._find(self._cache.node(op.parent), op.name)
            if there is not None:
                await self._delegations.own(op.parent, there, deadline)
            done = self.try_unlink(op)
        return done

    def try_unlink(self, op: meta.Unlink) -> bool | None:
        """See `unlink`: True when it is removed."""
        lane = self._ready((op.parent, op.name))
        if lane is None:
            return None
        node = self._cache.node(op.parent)
        access.may_enter(known(node), op.caller)
        there = self._require(node, op.name)
        if there.kind == stat.S_IFDIR:
            raise FsError(errno.EISDIR)
        return self._remove(lane, node, there, op, subdirectories=0)

    async def rmdir(self, op: meta.Rmdir, deadline: float) -> bool | None:
        """Remove an empty directory. Raises as `Rmdir`."""
        done = self.try_rmdir(op)
        if done is None and await self._prepare((op.parent,), deadline):
            done = self.try_rmdir(op)
        return done

    def try_rmdir(self, op: meta.Rmdir) -> bool | None:
        """See `rmdir`: True when it is removed."""
        lane = self._ready((op.parent, op.name))
        if lane is None or op.name in _DOTS:
            return None
        node = self._cache.node(op.parent)
        access.may_enter(known(node), op.caller)
        there = self._require(node, op.name)
        if there.kind != stat.S_IFDIR:
            raise FsError(errno.ENOTDIR)
        target = self._removable(there.ino, lane)
        if target is None:
            return None
        access.may_remove(known(node), known(target), op.caller)
        namespace.check_empty(known(target), there.ino)
        return self._remove(lane, node, there, op, subdirectories=-1)

    def _remove(
        self, lane: Lane, node: Node, there: Name, op: meta.Unlink | meta.Rmdir, *,
        subdirectories: int,
    ) -> bool | None:  # fmt: skip
        target = self._removable(there.ino, lane)
        if target is None:
            return None
        access.may_remove(known(node), known(target), op.caller)
        now = self._clock.time_ns()
        self._put(lane, replace(op, ino=there.ino, time_ns=now), (op.parent, there.ino))
        self._set_name(node, op.name, 0, 0)
        self._count(node, now, came=-1, subdirectories=subdirectories)
        self._drop_link(target, now)
        return True

    # --- moving

    async def rename(self, op: meta.Rename, deadline: float) -> bool | None:
        """Move a name. Raises as `Rename`."""
        done = self.try_rename(op)
        if done is None and await self._prepare((op.parent, op.new_parent), deadline):
            source = self._find(self._cache.node(op.parent), op.name)
            if source is not None:
                await self._flush(source.ino, deadline)
            done = self.try_rename(op)
        return done

    def try_rename(self, op: meta.Rename) -> bool | None:
        """See `rename`: True when it is moved."""
        if op.flags not in {0, renaming.NOREPLACE}:
            return None
        lane = self._ready((op.parent, op.name), (op.new_parent, op.new_name))
        if lane is None:
            return None
        old, new = self._cache.node(op.parent), self._cache.node(op.new_parent)
        access.may_enter(known(old), op.caller)
        access.may_enter(known(new), op.caller)
        source, there = self._names_moved(op, old, new)
        if there is not None and there.ino == source.ino:
            return True
        is_directory = source.kind == stat.S_IFDIR
        moved = self._held(source.ino, lane)
        if moved is None or (is_directory and old is not new):
            return None
        if old is not new and not known(old).project == known(new).project == known(moved).project:
            return None
        replaced = None if there is None else self._replaceable(source, there, lane)
        if op.caller is not None and (there is None or replaced is not None):
            access.may_rename(
                op.caller, known(old), known(new), known(moved),
                None if replaced is None else known(replaced), crosses=old is not new,
            )  # fmt: skip
        if (there is not None and replaced is None) or not self._in_line(source.ino):
            return None
        now = self._clock.time_ns()
        gone = there.ino if there is not None else 0
        inos = tuple(i for i in (op.parent, op.new_parent, source.ino, gone) if i)
        self._put(lane, replace(op, ino=source.ino, replaces=gone, time_ns=now), inos)
        self._set_name(old, op.name, 0, 0)
        self._set_name(new, op.new_name, source.ino, source.kind)
        moved.attr = replace(known(moved), **change.links(known(moved), now, 0))
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
            namespace.check_empty(known(replaced), there.ino)
        return replaced

    # --- attributes

    async def setattr(self, op: meta.SetAttr, deadline: float) -> Attr | None:
        """Change attributes. Raises as `SetAttr`."""
        changed = self.try_setattr(op)
        node = self._delegations.mine(op.ino) if changed is None else None
        if node is not None and await self._room(node.shard, (op.ino,), deadline):
            if op.size is None:
                await self._flush(op.ino, deadline)
            changed = self.try_setattr(op)
        return changed

    def try_setattr(self, op: meta.SetAttr) -> Attr | None:
        """See `setattr`."""
        node = self._delegations.mine(op.ino)
        lane = self._session.trusted_lane(node.shard) if node is not None else None
        if node is None or lane is None or not self._queue.admits(lane, (op.ino,)):
            return None
        attr = known(node)
        attributes.check(attr, op)
        file = self._writeback.files.get(op.ino)
        charged = 0 if file is None else file.charged
        if not self._quotas.may_set(node.shard, attr, op, charged):
            return None
        if op.size is None:
            # mode and times of a large file need not wait for its upload: what is not committed
            # yet carries the time that is set here
            if not self._in_line(op.ino) and (file is None or self._writeback.small(file)):
                return None
        elif file is None or not self._may_resize(file, attr, op.size):
            return None
        now = self._clock.time_ns()
        self._put(lane, replace(op, time_ns=now), (op.ino,))
        size = attr.size if op.size is None else op.size
        fields = change.attributes(attr, op, now, resized=size != attr.size)
        if op.size is not None:
            fields |= {"size": size, "allocated": attr.allocated if size else 0}
        node.attr = replace(attr, **fields)
        if op.atime_ns is not None:
            node.atime_ns = 0
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
