"""What snapshots show, as one client sees it: names, attributes, extents. Nothing here changes.

Every directory has a `.snapshots`, which no listing shows: in it lies every snapshot that has the
directory, under its name. What is learnt of a snapshot stays true, so it is kept without a lease,
within bounds. Which snapshots there are is asked of the root leader whenever `.snapshots` is looked
at; one that is gone shows as ESTALE.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Extent, Lookup
from cfs.core.api.snapshots import GetSnapshots, GetSnapshotsReply, Snapshot
from cfs.core.errors import FsError
from cfs.core.ids import ROOT_GROUP, ROOT_INO, Ino, group_of, shard_of
from cfs.fs.client.listing import Listed
from cfs.fs.client.numbers import SLOTS, of_present, seen_in, slot_of
from cfs.fs.client.router import Router

ATTRS_MAX = 32_768
NAMES_MAX = 65_536
LAYOUT_BYTES = 64 << 20
"""Of a file, asked for at once."""
DEPTH_MAX = 4096


class PastFile:
    """An open file of a snapshot, in the place of a `File`."""

    error = None
    error_count = 0
    unclean = False
    opens = 1
    pinned = False

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.tiles: list[Extent] = []
        self.start = self.stop = 0
        self.asking = trio.Lock()
        self.next_offset = 0


class Past:
    """The snapshots, through the eyes of one client."""

    def __init__(self, router: Router, deadline: Callable[[], float]) -> None:
        self._router = router
        self._deadline = deadline
        self._site = router.site
        self._epochs: dict[int, int] = {}
        self._attrs: dict[int, Attr] = {}
        self._names: dict[tuple[int, bytes], int] = {}
        self._inside: dict[tuple[int, int], bool] = {}

    # --- snapshots

    async def snapshots(self) -> tuple[Snapshot, ...]:
        """Give every snapshot there is now."""
        reply: GetSnapshotsReply = await self._router.ask(
            ROOT_GROUP, "root.snapshots", GetSnapshots(), deadline=self._deadline()
        )
        epochs = {s.epoch % SLOTS: s.epoch for s in reply.snapshots}
        if any(epochs.get(slot, epoch) != epoch for slot, epoch in self._epochs.items()):
            self._attrs.clear()  # a slot was given anew
            self._names.clear()
            self._inside.clear()
        self._epochs = epochs
        return reply.snapshots

    async def epoch(self, number: int) -> int:
        """Give the epoch of the snapshot that a number is of. Raises ESTALE."""
        slot = slot_of(number)
        if slot not in self._epochs:
            await self.snapshots()
        if slot not in self._epochs:
            raise FsError(errno.ESTALE, "the snapshot is gone")
        return self._epochs[slot]

    # --- names and attributes

    def door(self, directory: Attr) -> Attr:
        """Show `.snapshots` in a directory of the present."""
        return msgspec.structs.replace(
            directory,
            ino=seen_in(0, directory.ino),
            mode=stat.S_IFDIR | 0o555,
            nlink=2,
            size=0,
            allocated=0,
            parent=directory.ino,
        )

    async def attr(self, number: int) -> Attr:
        """Give attributes of what a snapshot shows. Raises ENOENT, ESTALE."""
        known = self._attrs.get(number)
        if known is not None:
            return known
        request = meta.GetAttr(shard=0, session=0, ino=0)
        reply: meta.GetAttrReply = await self._ask("meta.getattr", number, request)
        return self._learn(slot_of(number), reply.attr)

    async def lookup(self, parent: int, name: bytes) -> Attr:
        """Find a name in a snapshot, or a snapshot in `.snapshots`. Raises ENOENT."""
        if not slot_of(parent):
            return await self._enter(parent, name)
        known = self._names.get((parent, name))
        if known is None:
            request = Lookup(shard=0, session=0, parent=0, name=name, lease=False)
            reply: meta.LookupReply = await self._ask("meta.lookup", parent, request)
            if reply.entry is None:
                raise FsError(errno.ENOENT)
            slot = slot_of(parent)
            known = seen_in(slot, reply.entry.ino)
            self._keep_name(parent, name, known)
            if reply.entry.attr is not None:
                return self._learn(slot, reply.entry.attr)
        return await self.attr(known)

    async def listing(self, number: int, cookie: int, limit: int) -> list[Listed]:
        """List a directory of a snapshot, or the snapshots in `.snapshots`."""
        if not slot_of(number):
            return await self._doors(number, cookie, limit)
        request = meta.ReadDir(shard=0, session=0, ino=0, cookie=cookie, limit=limit, lease=False)
        reply: meta.ReadDirReply = await self._ask("meta.readdir", number, request)
        slot = slot_of(number)
        page: list[Listed] = []
        for entry in reply.entries:
            ino = seen_in(slot, entry.ino)
            self._keep_name(number, entry.name, ino)
            attr = self._learn(slot, entry.attr) if entry.attr else await self.attr(ino)
            page.append(Listed(entry.name, ino, entry.kind, entry.cookie, attr))
        return page

    async def xattr(self, number: int, name: bytes) -> bytes:
        """Give an extended attribute. Raises ENODATA."""
        if not slot_of(number):
            raise FsError(errno.ENODATA)
        request = meta.GetXattr(shard=0, session=0, ino=0, name=name)
        reply: meta.XattrReply = await self._ask("meta.getxattr", number, request)
        return reply.value

    async def xattr_names(self, number: int) -> frozenset[bytes]:
        """Give the names of all extended attributes."""
        if not slot_of(number):
            return frozenset()
        request = meta.ListXattr(shard=0, session=0, ino=0)
        reply: meta.XattrReply = await self._ask("meta.listxattr", number, request)
        return frozenset(reply.names)

    # --- bytes

    async def tiles(self, file: PastFile, offset: int, stop: int) -> list[Extent]:
        """Give the extents of a range that lies within the file, some on both sides too."""
        async with file.asking:  # the kernel reads ahead: several want the same at once
            if not file.start <= offset < stop <= file.stop:
                file.tiles, file.stop = await self._tiles(file.ino, offset, stop)
                file.start = offset
        return [t for t in file.tiles if t.offset < stop and t.offset + t.length > offset]

    async def _tiles(self, number: int, offset: int, stop: int) -> tuple[list[Extent], int]:
        """Ask for the extents from `offset` to `stop` at least; give them and where they end."""
        end = offset + max(stop - offset, LAYOUT_BYTES)
        tiles: list[Extent] = []
        at = offset
        while at < stop:
            request = meta.Layout(shard=0, session=0, ino=0, offset=at, length=end - at)
            reply: meta.LayoutReply = await self._ask("meta.layout", number, request)
            known = tiles[-1].offset + tiles[-1].length if tiles else 0
            tiles += [e for e in reply.extents if e.offset >= known]
            at = max(reply.end, at + 1)
        return tiles, at

    async def layout(self, number: int, request: meta.Layout) -> meta.LayoutReply:
        """Ask for extents; shard, inode and snapshot are filled in."""
        reply: meta.LayoutReply = await self._ask("meta.layout", number, request)
        return reply

    def present(self, number: int) -> int:
        """Give the inode that a number means, in the present's numbers."""
        return of_present(number, self._site())

    # --- inside

    async def _ask(self, method: str, number: int, request: Any) -> Any:
        ino = of_present(number, self._site())
        shard = shard_of(Ino(ino))
        fields = {"shard": shard, "snapshot": await self.epoch(number)}
        fields["parent" if isinstance(request, Lookup) else "ino"] = ino
        request = msgspec.structs.replace(request, **fields)
        return await self._router.ask(group_of(shard), method, request, deadline=self._deadline())

    async def _enter(self, door: int, name: bytes) -> Attr:
        for snapshot in await self.snapshots():
            if snapshot.name.encode() == name:
                found = await self._seen_through(door, snapshot)
                if found is not None:
                    return found
        raise FsError(errno.ENOENT)

    async def _doors(self, door: int, cookie: int, limit: int) -> list[Listed]:
        page: list[Listed] = []
        for snapshot in await self.snapshots():
            at = snapshot.epoch + 2  # above what stands for `.` and `..`
            if at <= cookie or len(page) >= limit:
                continue
            found = await self._seen_through(door, snapshot)
            if found is not None:
                page.append(Listed(snapshot.name.encode(), found.ino, stat.S_IFDIR, at, found))
        return page

    async def _seen_through(self, door: int, snapshot: Snapshot) -> Attr | None:
        """Give the directory of a `.snapshots` as a snapshot shows it, if it does."""
        number = seen_in(snapshot.epoch % SLOTS, of_present(door, self._site()))
        try:
            attr = await self.attr(number)
            if not await self._within(number, snapshot.scope):
                return None
        except FsError as error:
            if error.errno not in {errno.ENOENT, errno.ESTALE}:
                raise
            return None
        return attr if attr.nlink else None

    async def _within(self, number: int, scope: int) -> bool:
        """Tell whether a directory lies in the subtree of `scope`, in its snapshot."""
        if scope == ROOT_INO:
            return True
        known = self._inside.get((number, scope))
        if known is not None:
            return known
        inside, at = False, number
        for _ in range(DEPTH_MAX):
            ino = of_present(at, self._site())
            inside = ino == scope
            if inside or ino == ROOT_INO:
                break
            at = (await self.attr(at)).parent
        if len(self._inside) >= NAMES_MAX:
            self._inside.clear()
        self._inside[number, scope] = inside
        return inside

    def _learn(self, slot: int, attr: Attr) -> Attr:
        number = seen_in(slot, attr.ino)
        shown = msgspec.structs.replace(
            attr, ino=number, parent=seen_in(slot, attr.parent) if attr.parent else 0
        )
        if len(self._attrs) >= ATTRS_MAX:
            self._attrs.pop(next(iter(self._attrs)))
        self._attrs[number] = shown
        return shown

    def _keep_name(self, parent: int, name: bytes, number: int) -> None:
        if len(self._names) >= NAMES_MAX:
            self._names.pop(next(iter(self._names)))
        self._names[parent, name] = number
