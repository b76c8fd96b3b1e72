"""Path helpers for Python: whole-path operations over the VFS, as root of the tree.

Paths are `str` or `bytes`, from the root directory; symbolic links are followed as
path_resolution(7) says, forty of them at most.
"""

from __future__ import annotations

import errno
import os
import stat

from cfs.core.api.meta import Attr
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_INO
from cfs.fs.client.listing import Listed
from cfs.fs.client.ranges import Ranges

LINKS_MAX = 40
_PIECE = 1 << 20


class Paths(Ranges):
    """Path operations of `Files`."""

    async def walk(self, path: str | bytes, *, follow: bool = True) -> Attr:
        """Give the attributes of what a path leads to. Raises ENOENT, ENOTDIR, ELOOP."""
        parent, name = await self._resolve(os.fsencode(path), 0)
        return await self._step(parent, name, follow=follow, links=0)

    async def read_file(self, path: str | bytes) -> bytes:
        """Give a whole file."""
        attr = await self.walk(path)
        fh = await self.open(attr.ino, os.O_RDONLY)
        try:
            pieces = []
            offset = 0
            while piece := await self.read(fh, offset, _PIECE):
                pieces.append(piece)
                offset += len(piece)
            return b"".join(pieces)
        finally:
            await self.release(fh)

    async def write_file(
        self, path: str | bytes, data: bytes, *, mode: int = 0o644, sync: bool = False
    ) -> Attr:
        """Replace a whole file, making it when it is not there; durable on return if `sync`."""
        parent, name = await self._resolve(os.fsencode(path), 0)
        fh, attr = await self.create_file(parent, name, mode, os.O_WRONLY | os.O_TRUNC)
        try:
            for offset in range(0, len(data), _PIECE):
                await self.write(fh, offset, data[offset : offset + _PIECE])
            if sync:
                await self.fsync(fh)
            await self.flush(fh)
        finally:
            await self.release(fh)
        return await self.getattr(attr.ino)

    async def make_directories(self, path: str | bytes, mode: int = 0o755) -> Attr:
        """Make a directory and those above it, where they are missing."""
        attr = await self.getattr(ROOT_INO)
        for name in _names(os.fsencode(path)):
            try:
                attr = await self._step(attr.ino, name, follow=True, links=0)
            except FsError as error:
                if error.errno != errno.ENOENT:
                    raise
                attr = await self.mkdir(attr.ino, name, mode)
        return attr

    async def list_directory(self, path: str | bytes) -> list[Listed]:
        """Give all entries of a directory."""
        attr = await self.walk(path)
        handle = await self.opendir(attr.ino)
        try:
            entries: list[Listed] = []
            while page := await self.readdir(handle, entries[-1].cookie if entries else 0):
                entries.extend(page)
            return entries
        finally:
            await self.releasedir(handle)

    async def _resolve(self, path: bytes, links: int, start: int = ROOT_INO) -> tuple[int, bytes]:
        """Give the directory that holds the last name of a path, and that name."""
        names = _names(path)
        parent = int(ROOT_INO) if path.startswith(b"/") else start
        if not names:
            return parent, b"."
        for name in names[:-1]:
            attr = await self._step(parent, name, follow=True, links=links)
            if not stat.S_ISDIR(attr.mode):
                raise FsError(errno.ENOTDIR)
            parent = attr.ino
        return parent, names[-1]

    async def _step(self, parent: int, name: bytes, *, follow: bool, links: int) -> Attr:
        attr = await (self.getattr(parent) if name == b"." else self.lookup(parent, name))
        if not follow or not stat.S_ISLNK(attr.mode):
            return attr
        if links >= LINKS_MAX:
            raise FsError(errno.ELOOP)
        into, last = await self._resolve(attr.target, links + 1, parent)
        return await self._step(into, last, follow=True, links=links + 1)


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name and name != b"."]
