"""What can be answered without waiting: the same operations, for gateways that would need a task.

Each `try_` method does what the method of that name does, wholly, when nothing has to be waited
for, and gives None, having changed nothing, when something has to be. Errors are raised only where
they are certain. The checks are those of the waiting methods; there is no other semantics here.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import FsError
from cfs.core.meta import access
from cfs.core.meta import acl as lists
from cfs.core.meta.entries import NAME_BYTES_MAX, RESERVED
from cfs.core.meta.extents import end_of
from cfs.core.meta.files import SIZE_MAX
from cfs.core.meta.xattrs import check_space
from cfs.fs.client.attributes import access_list, xattrs_shown
from cfs.fs.client.contents import SYNCED, room_at
from cfs.fs.client.landing import Landing
from cfs.fs.client.listing import READDIR_ENTRIES, Directory, Listed
from cfs.fs.client.nodes import Name
from cfs.fs.client.paths import Paths


class Instant(Paths):
    """The operations of `Files` that may be answered from what is here."""

    # --- names and attributes

    def try_lookup(self, parent: int, name: bytes, *, caller: Caller | None = None) -> Attr | None:
        """See `lookup`. Raises ENOENT, ENAMETOOLONG, EACCES."""
        if len(name) > NAME_BYTES_MAX:
            raise FsError(errno.ENAMETOOLONG)
        cache = self.client.cache
        if caller is not None:
            directory = cache.attr(parent)
            if directory is None:
                return None
            access.may_enter(directory, caller)
        known = cache.name(parent, name) if name not in RESERVED else None
        if known is None:
            return None
        if not known.ino:
            raise FsError(errno.ENOENT)
        attr = cache.attr(known.ino)
        return None if attr is None else self.view(attr)

    def try_getattr(self, ino: int) -> Attr | None:
        """See `getattr`."""
        attr = self.client.cache.attr(ino)
        return None if attr is None else self.view(attr)

    def try_readlink(self, ino: int) -> bytes | None:
        """See `readlink`. Raises EINVAL."""
        attr = self.client.cache.attr(ino)
        if attr is None:
            return None
        if not stat.S_ISLNK(attr.mode):
            raise FsError(errno.EINVAL)
        self.touch(ino)
        return attr.target

    def try_listxattr(self, ino: int, *, caller: Caller | None = None) -> frozenset[bytes] | None:
        """See `listxattr`."""
        attr = self.client.cache.attr(ino)
        names = self.client.cache.node(ino).xattr_names
        return None if attr is None or names is None else xattrs_shown(attr, names, caller)

    def try_getxattr(self, ino: int, name: bytes, *, caller: Caller | None = None) -> bytes | None:
        """See `getxattr`. Raises ENODATA, EACCES, ENOTSUP, EINVAL."""
        check_space(name)
        cache = self.client.cache
        attr = cache.attr(ino)
        if attr is None:
            return None
        access.may_get_xattr(attr, name, caller)
        if name in lists.NAMES:
            return access_list(attr, name)
        node = cache.node(ino)
        if node.xattr_names is None:
            return None
        if name not in node.xattr_names:
            raise FsError(errno.ENODATA)
        return node.xattrs.get(name)

    # --- changes, ahead of the shard

    def try_create(
        self, parent: int, name: bytes, mode: int, *, uid: int = 0, gid: int = 0, rdev: int = 0,
        target: bytes = b"", umask: int = 0, caller: Caller | None = None,
    ) -> Attr | None:  # fmt: skip
        """See `create`; without opening it."""
        made = self.client.ahead.try_create(
            meta.Create(
                parent=parent, name=name, mode=mode, uid=uid, gid=gid, rdev=rdev, target=target,
                umask=umask, caller=caller,
            )
        )  # fmt: skip
        if made is not None and stat.S_ISREG(mode):
            self.made(made, opened=False)
        return made

    def try_create_file(
        self, parent: int, name: bytes, mode: int, flags: int, *, uid: int = 0, gid: int = 0,
        umask: int = 0, caller: Caller | None = None,
    ) -> tuple[int, Attr] | None:  # fmt: skip
        """See `create_file`; None too when the name is there."""
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        try:
            made = self.client.ahead.try_create(
                meta.Create(
                    parent=parent, name=name, mode=mode, uid=uid, gid=gid, umask=umask,
                    caller=caller,
                )
            )  # fmt: skip
        except FsError as error:
            if error.errno != errno.EEXIST:
                raise
            return None
        if made is None:
            return None
        return self._opened(self.made(made, opened=True), flags & ~os.O_TRUNC), made

    def try_link(
        self, ino: int, parent: int, name: bytes, *, caller: Caller | None = None
    ) -> Attr | None:
        """See `link`."""
        op = meta.Link(ino=ino, parent=parent, name=name, caller=caller)
        attr = self.client.ahead.try_link(op)
        return None if attr is None else self.view(attr)

    def try_unlink(self, parent: int, name: bytes, *, caller: Caller | None = None) -> bool | None:
        """See `unlink`: True when it is removed."""
        op = meta.Unlink(parent=parent, name=name, caller=caller)
        return self.client.ahead.try_unlink(op)

    def try_rmdir(self, parent: int, name: bytes, *, caller: Caller | None = None) -> bool | None:
        """See `rmdir`: True when it is removed."""
        op = meta.Rmdir(parent=parent, name=name, caller=caller)
        return self.client.ahead.try_rmdir(op)

    def try_rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0, *,
        caller: Caller | None = None,
    ) -> bool | None:  # fmt: skip
        """See `rename`: True when it is moved."""
        op = meta.Rename(
            parent=parent, name=name, new_parent=new_parent, new_name=new_name, flags=flags,
            caller=caller,
        )  # fmt: skip
        return self.client.ahead.try_rename(op)

    def try_setattr(
        self, ino: int, *, mode: int | None = None, uid: int | None = None,
        gid: int | None = None, atime_ns: int | None = None, mtime_ns: int | None = None,
        now: bool = False, caller: Caller | None = None,
    ) -> Attr | None:  # fmt: skip
        """See `setattr`; not of the size."""
        attr = self.client.ahead.try_setattr(
            meta.SetAttr(
                ino=ino, mode=mode, uid=uid, gid=gid, atime_ns=atime_ns, mtime_ns=mtime_ns,
                now=now, caller=caller,
            )
        )  # fmt: skip
        return None if attr is None else self.view(attr)

    # --- listings

    def try_opendir(self, ino: int, *, caller: Caller | None = None) -> int | None:
        """See `opendir`. Raises ENOTDIR, EACCES."""
        attr = self.client.cache.attr(ino)
        if attr is None:
            return None
        if not stat.S_ISDIR(attr.mode):
            raise FsError(errno.ENOTDIR)
        if caller is not None:
            access.check(attr, caller, access.READ)
        handle = self._take_handle()
        self._directories[handle] = Directory(ino)
        return handle

    def try_releasedir(self, handle: int) -> bool | None:
        """See `releasedir`: True when it is closed."""
        self._directories.pop(handle, None)
        return True

    def try_readdir(
        self, handle: int, cookie: int, limit: int = READDIR_ENTRIES
    ) -> list[Listed] | None:
        """See `readdir`."""
        ino = self._directories[handle].ino
        listed = self._list_cached(ino, cookie, limit)
        if listed is not None:
            self.touch(ino)
        return listed

    def try_names(self, ino: int) -> list[Name] | None:
        """Give all entries of a directory in cookie order, without attributes; leave it alone."""
        names = self.client.cache.listing(ino)
        if names is not None:
            self.touch(ino)
        return names

    # --- open files

    def try_open(self, ino: int, flags: int, *, caller: Caller | None = None) -> int | None:
        """See `open`. Raises EISDIR, EACCES."""
        client = self.client
        attr = client.cache.attr(ino)
        if attr is None:
            return None
        if stat.S_ISDIR(attr.mode) and flags & os.O_ACCMODE != os.O_RDONLY:
            raise FsError(errno.EISDIR)
        if caller is not None:
            access.check(attr, caller, access.wanted(flags))
        if flags & os.O_TRUNC and stat.S_ISREG(attr.mode):
            return None
        file = client.writeback.file(ino)
        file.opens += 1
        return self._opened(file, flags)

    def try_release(self, fh: int) -> bool | None:
        """See `release`: True when it is closed."""
        handle = self.handle(fh)
        if self.holds_locks(handle.file.ino):
            return None
        del self._handles[fh]
        self.closed(handle.file)
        return True

    def try_flush(self, fh: int, owner: int | None = None) -> bool | None:
        """See `flush`: True when there is nothing to report and nothing to unlock. Raises EIO."""
        handle = self.handle(fh)
        if owner is not None and self.holds_locks(handle.file.ino, owner):
            return None
        self.report(handle)
        return True

    def try_fsync(self, fh: int) -> bool | None:
        """See `fsync`: True when nothing is to be committed. Raises EIO."""
        handle = self.handle(fh)
        if handle.file.unclean or handle.file.ino in self.client.queue.pending:
            return None
        self.report(handle)
        return True

    def try_write(
        self, fh: int, offset: int, data: Any, landing: Landing | None = None
    ) -> int | None:
        """See `write`; `data` may be a view. Raises EBADF, EFBIG, EIO.

        It is copied, unless it is what landed in `landing`, which may keep it.
        """
        handle = self.handle(fh)
        file = handle.file
        count = len(data)
        if not handle.writes:
            raise FsError(errno.EBADF)
        if handle.errors_seen != file.error_count:
            self.report(handle)
        if not count:
            return 0
        flags = handle.flags
        if flags & SYNCED or not self._may_write(handle, offset, count):
            return None
        if flags & os.O_APPEND:
            offset = file.size
        if offset + count > SIZE_MAX:
            count = room_at(offset)
            data = data[:count]
        client = self.client
        held = landing.keep(count) if landing is not None else None
        client.writeback.wrote(
            file, file.write(offset, data if held is None else held, client.clock.time_ns())
        )
        return count

    def try_read(self, fh: int, offset: int, length: int) -> bytes | None:
        """See `read`."""
        file = self.handle(fh).file
        attr = self.client.cache.attr(file.ino)
        if attr is None:
            return None
        size = file.view(attr).size
        stop = min(offset + length, size)
        if stop <= offset:
            return b""
        end = min(offset + length, attr.size)
        tiles = file.known_tiles(offset, end) if end > offset else []
        if tiles is None:
            return None
        pieces = file.overlay_pieces(offset, stop - offset) if file.unclean else []
        whole = len(pieces) == 1 and len(pieces[0][1]) == stop - offset
        if whole:
            data: bytes | None = pieces[0][1]
        else:
            reached = max(offset, min(stop, end_of(tiles, offset)))
            data = b""
            if reached > offset:
                data = self.client.fetches.cached(tiles, offset, reached - offset)
            if data is not None and (pieces or reached != stop):
                data = self.overlaid(data, offset, stop, pieces)
        if data is None:
            return None
        self._touch(file, attr)
        if offset == file.next_offset and length:
            self._read_ahead(file, stop, size)
        file.next_offset = stop
        return data
