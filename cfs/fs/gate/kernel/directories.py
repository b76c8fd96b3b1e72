"""Handlers of listings.

A directory that is whole in the leased cache is listed from there, without a task; attributes are
looked at only for READDIRPLUS. `.` and `..`, which no directory stores, come first. Cookies are
`Files`' own, so a listing goes on where it was whatever changed meanwhile.

The kernel keeps a listing (CACHE_DIR) while one lease lasts, as it keeps pages: what was listed
without a lease is tainted and dropped before the directory's attributes are next given.
"""

from __future__ import annotations

import errno
import stat
from bisect import bisect_right
from operator import attrgetter

from cfs.core.api.meta import Caller
from cfs.core.errors import FsError
from cfs.fs.client.files import Files
from cfs.fs.client.listing import Listed
from cfs.fs.client.nodes import Name
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.invalidate import Invalidator
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.entries import Entries
from cfs.fs.gate.kernel.flags import Fopen
from cfs.fs.gate.kernel.message import DIRENT_SIZE, ENTRY_SIZE, NO_ENTRY, Request
from cfs.fs.gate.kernel.names import Names
from cfs.fs.gate.kernel.replies import DONE, Answer

COOKIE_START, COOKIE_SELF, COOKIE_PARENT = 0, 1, 2
"""Where a listing begins; after `.`; after `..`. Real entries have greater ones."""
_KEEP_CACHE, _CACHE_DIR = int(Fopen.KEEP_CACHE), int(Fopen.CACHE_DIR)
_COOKIE = attrgetter("cookie")


class _Listing:
    """What a directory handle has fetched and not given yet."""

    __slots__ = ("entries", "index", "ino")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.entries: list[Listed] = []
        self.index = 0

    def take(self, entries: list[Listed]) -> bool:
        """Stand before newly fetched entries; False when there are none."""
        self.entries = entries
        self.index = 0
        return bool(entries)

    def seek(self, cookie: int) -> bool:
        """Stand after `cookie` if that is inside what is here."""
        entries = self.entries
        if not cookie or not entries:
            return False
        if not self.index or entries[self.index - 1].cookie != cookie:
            index = bisect_right(entries, cookie, key=_COOKIE)
            if not index or entries[index - 1].cookie != cookie:
                return False
            self.index = index
        return self.index < len(entries)


class _Page:
    """The answer to one READDIR, as far as it is filled."""

    __slots__ = ("parts", "plus", "room")

    def __init__(self, size: int, *, plus: bool) -> None:
        self.parts: list[bytes] = []
        self.room = size
        self.plus = plus

    def fits(self, name: bytes) -> bool:
        """Tell whether an entry of that name still fits; if so, take its room."""
        size = (DIRENT_SIZE + len(name) + 7) & ~7
        if self.plus:
            size += ENTRY_SIZE
        if size > self.room:
            return False
        self.room -= size
        return True

    def add(self, ino: int, cookie: int, kind: int, name: bytes, entry: bytes = NO_ENTRY) -> None:
        """Add what fits."""
        if self.plus:
            self.parts.append(entry)
        self.parts.append(message.dirent(ino, cookie, kind, name))

    def whole(self) -> bytes:
        """Give the answer's body."""
        return b"".join(self.parts)


class Directories(Names):
    """Directory handlers."""

    def __init__(
        self, files: Files, inodes: Inodes, invalidator: Invalidator, entries: Entries
    ) -> None:
        super().__init__(files, inodes, invalidator, entries)
        self.listings: dict[int, _Listing] = {}

    def _listing_of(self, handle: int) -> _Listing:
        try:
            return self.listings[handle]
        except KeyError:
            raise FsError(errno.EBADF) from None

    def opendir(self, request: Request) -> Answer:
        """OPENDIR."""
        ino = request.node
        caller = self.caller(request)
        handle = self.files.try_opendir(ino, caller=caller)
        return self._opendir(ino, caller) if handle is None else self._opened_directory(ino, handle)

    async def _opendir(self, ino: int, caller: Caller | None) -> bytes:
        return self._opened_directory(ino, await self.files.opendir(ino, caller=caller))

    def _opened_directory(self, ino: int, handle: int) -> bytes:
        self.listings[handle] = _Listing(ino)
        lease = self.files.lease_epoch(ino)
        said = 0
        if self.inodes.may_keep(ino, lease):
            said = _KEEP_CACHE
        if lease is not None and not self.invalidator.pending(ino):
            said |= _CACHE_DIR
        return message.OPEN_OUT.pack(handle, said, 0)

    def listed(self, handle: int, ino: int) -> None:
        """Know a directory that another process opened."""
        self.listings[handle] = _Listing(ino)

    def releasedir(self, request: Request) -> Answer:
        """RELEASEDIR."""
        handle = request.fields[0]
        self.listings.pop(handle, None)
        self.files.try_releasedir(handle)
        return DONE

    def fsyncdir(self, request: Request) -> Answer:
        """FSYNCDIR."""
        return self._done(self.files.fsyncdir(request.fields[0]))

    def readdir(self, request: Request) -> Answer:
        """READDIR: names alone."""
        handle, cookie, size, *_ = request.fields
        listing = self._listing_of(handle)
        names = self.files.try_names(listing.ino)
        if names is None:
            return self._list(handle, cookie, _Page(size, plus=False))
        page = _Page(size, plus=False)
        if cookie < COOKIE_PARENT:
            here = self.files.try_getattr(listing.ino)
            if here is None:
                return self._list(handle, cookie, page)
            if not self._give_dots(page, cookie, listing.ino, here.parent):
                return page.whole()
        self._give_names(page, names, cookie if cookie > COOKIE_PARENT else 0)
        return page.whole()

    def readdirplus(self, request: Request) -> Answer:
        """READDIRPLUS: entries with attributes, each counted as a LOOKUP."""
        handle, cookie, size, *_ = request.fields
        listing = self._listing_of(handle)
        page = _Page(size, plus=True)
        here = self.files.try_getattr(listing.ino)
        if here is None:
            return self._list(handle, cookie, page)
        start = cookie if cookie > COOKIE_PARENT else 0
        if not listing.seek(start):
            entries = self.files.try_readdir(handle, start)
            if entries is None:
                return self._list(handle, cookie, page)
            listing.take(entries)
        if cookie < COOKIE_PARENT and not self._give_dots(page, cookie, listing.ino, here.parent):
            return page.whole()
        if self._give_entries(page, listing) and not page.parts and listing.entries:
            return self._list(handle, cookie, page)  # all that was fetched has gone
        return page.whole()

    async def _list(self, handle: int, cookie: int, page: _Page) -> bytes:
        """Fill a page with what has to be fetched."""
        listing = self._listing_of(handle)
        if cookie < COOKIE_PARENT:
            here = await self.files.getattr(listing.ino)
            if not self._give_dots(page, cookie, listing.ino, here.parent):
                return page.whole()
        start = cookie if cookie > COOKIE_PARENT else 0
        if listing.seek(start) or listing.take(await self.files.readdir(handle, start)):
            while self._give_entries(page, listing) and not page.parts:
                if not listing.take(await self.files.readdir(handle, listing.entries[-1].cookie)):
                    break
        if self.files.lease_epoch(listing.ino) is None:
            self.inodes.tainted.add(listing.ino)
        return page.whole()

    def _give_dots(self, page: _Page, cookie: int, ino: int, parent: int) -> bool:
        """Give `.` and `..`, the mount's root for its own; False when there is no more room."""
        if ino == self.root:
            parent = ino
        if cookie == COOKIE_START:
            if not page.fits(b"."):
                return False
            page.add(ino, COOKIE_SELF, stat.S_IFDIR, b".")
        if not page.fits(b".."):
            return False
        page.add(parent or ino, COOKIE_PARENT, stat.S_IFDIR, b"..")
        return True

    @staticmethod
    def _give_names(page: _Page, names: list[Name], cookie: int) -> None:
        first = bisect_right(names, cookie, key=_COOKIE) if cookie else 0
        for index in range(first, len(names)):
            name = names[index]
            if not page.fits(name.name):
                return
            page.add(name.ino, name.cookie, name.kind, name.name)

    def _give_entries(self, page: _Page, listing: _Listing) -> bool:
        """Give what the handle has fetched; False when there is no more room."""
        entries = listing.entries
        while listing.index < len(entries):
            listed = entries[listing.index]
            attr = self.files.fresh(listed)
            if attr is not None:
                if not page.fits(listed.name):
                    return False
                entry = self.entry(attr, listing.ino, listed.name) if page.plus else NO_ENTRY
                page.add(attr.ino, listed.cookie, attr.mode & 0o170000, listed.name, entry)
            listing.index += 1
        return True
