"""Files that are likely to be read next: where their bytes are, and these, asked for many at once.

Whoever reads a directory's files in the order in which it lists them (`grep -r`, `cp -r`, `tar`)
waits for the shard once a file, and then for storage nodes. Here the first that is read in a row
has those after it asked for: 8, then twice as many up to 64, again when half of them are reached.

What comes is kept until its file is opened. It counts as long as the READ lease that came with it
goes on and the file's data is of that version. Nobody waits for it but who would ask for the same,
and its failures are left for the reader to meet.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import trio

from cfs.core.api import meta
from cfs.core.api.layout import Layouts, LayoutsReply
from cfs.core.api.meta import Extent, Lease
from cfs.core.errors import CfsError
from cfs.core.ids import Ino, shard_of
from cfs.fs.client.file import File
from cfs.fs.client.nodes import Name

if TYPE_CHECKING:
    from cfs.fs.client.client import Client

AHEAD_MIN = 8
AHEAD_MAX = 64
"""Entries looked through for files to ask for at once."""
SKIPPED_MAX = 8
"""Who leaves out so many entries (directories, say) still reads in order."""
LENGTH = 128 << 10
"""What is wanted of each file from its start: the kernel's first read."""
DIRECTORIES_MAX = 16
ENTRIES_MAX = 8_192
"""Of larger directories the order is not worked out."""
KEPT_MAX = 256
KEPT_BYTES_MAX = 4 << 20
"""Inline bytes kept for files that are not open yet."""


class _Walk(msgspec.Struct):
    """How far somebody is in a directory."""

    listing: list[Name]
    places: dict[int, int]
    last: int = -1
    reached: int = 0
    window: int = 0


class _Kept(msgspec.Struct, frozen=True):
    """What came for a file that is not open."""

    epoch: int
    data_version: int
    extents: tuple[Extent, ...]
    end: int
    weight: int


class Siblings:
    """Reads ahead of whoever reads one file of a directory after the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._walks: OrderedDict[int, _Walk] = OrderedDict()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._weight = 0
        self._coming: dict[int, trio.Event] = {}

    async def arrived(self, ino: int) -> bool:
        """Wait for what is on its way of a file; False: nothing is."""
        event = self._coming.get(ino)
        if event is None:
            return False
        await event.wait()
        return True

    def take(self, file: File) -> None:
        """Give a new state what came for it."""
        if file.node.parent:
            self._give(file)
            if file.tiles:
                self.reading(file)

    def _give(self, file: File) -> None:
        kept = self._kept.pop(file.ino, None)
        if kept is None:
            return
        self._weight -= kept.weight
        attr = self._client.cache.attr(file.ino)
        if attr is None or kept.epoch != file.node.epoch or file.unclean or self._busy(file.ino):
            return
        if attr.data_version == kept.data_version:
            file.take_tiles(list(kept.extents), 0, kept.end, attr)

    def _busy(self, ino: int) -> bool:
        return ino in self._client.recalling or ino in self._client.queue.pending

    # --- in which order

    def reading(self, file: File) -> None:
        """Note that a file is read from its start; ask for those after it if it is one in a row."""
        walk = self._walk(file.node.parent)
        place = walk.places.get(file.ino) if walk is not None else None
        if walk is None or place is None or place == walk.last:
            return
        if place < walk.last and file.node.attr is not None and file.node.attr.nlink > 1:
            return  # by a second name of it, most likely
        in_row = walk.last < place <= walk.last + SKIPPED_MAX
        walk.last = place
        if not in_row:
            walk.window, walk.reached = 0, place + 1
            return
        walk.reached = max(walk.reached, place + 1)
        if walk.reached - place - 1 > walk.window // 2:
            return
        walk.window = min(max(AHEAD_MIN, 2 * walk.window), AHEAD_MAX)
        self._begin(walk, file.node.shard)

    def _walk(self, parent: int) -> _Walk | None:
        """Give how far somebody is in a directory whose order is known."""
        node = self._client.cache.peek(parent) if parent else None
        if node is None or not node.complete or len(node.entries) > ENTRIES_MAX:
            return None
        listing = self._client.cache.listing(parent)
        if listing is None:
            return None
        walk = self._walks.get(parent)
        if walk is None or walk.listing is not listing:
            places: dict[int, int] = {}
            for place, name in enumerate(listing):
                places.setdefault(name.ino, place)
            walk = self._walks[parent] = _Walk(listing, places)
            if len(self._walks) > DIRECTORIES_MAX:
                self._walks.popitem(last=False)
        self._walks.move_to_end(parent)
        return walk

    # --- asking

    def _begin(self, walk: _Walk, shard: int) -> None:
        client = self._client
        asked: list[int] = []
        known: list[Extent] = []
        names = walk.listing[walk.reached : walk.reached + walk.window]
        walk.reached += len(names)
        for name in names:
            if not stat.S_ISREG(name.kind) or shard_of(Ino(name.ino)) != shard:
                continue
            if name.ino in self._coming or name.ino in self._kept or self._busy(name.ino):
                continue
            file = client.writeback.files.get(name.ino)
            if file is not None and file.unclean:
                continue
            if file is not None and file.tiles_epoch == file.node.epoch:
                known.extend(file.tiles)
                continue
            node = client.cache.peek(name.ino)
            if node is None or node.attr is None or node.attr.size:
                asked.append(name.ino)
                self._coming[name.ino] = trio.Event()  # at once: it may have another name here
        if asked or known:
            assert client.nursery is not None
            client.nursery.start_soon(self._fetch, shard, asked, known)

    async def _fetch(self, shard: int, asked: list[int], extents: list[Extent]) -> None:
        try:
            if asked:
                extents = extents + await self._ask(shard, asked)
        except CfsError:
            return
        finally:
            for ino in asked:
                self._coming.pop(ino).set()
        await self._client.fetches.prefetch([e for e in extents if e.offset < LENGTH])

    async def _ask(self, shard: int, asked: list[int]) -> list[Extent]:
        client = self._client
        extents: list[Extent] = []
        with client.writeback.request() as token:
            request = Layouts(
                shard=shard, session=client.session.id, inos=tuple(asked), length=LENGTH
            )
            reply: LayoutsReply = await client.session.read(
                shard, "meta.layouts", request, deadline=client.deadline()
            )
            for layout in reply.layouts:
                ino = layout.attr.ino
                node = client.cache.learn_attr(layout.attr, layout.lease & Lease.READ, token)
                if node is None or not client.cache.leased(node) or self._busy(ino):
                    continue
                file = client.writeback.files.get(ino)
                end = min(layout.end, layout.attr.size)
                if file is None:
                    self._keep(ino, node.epoch, layout, end)
                elif not file.unclean:
                    file.take_tiles(list(layout.extents), 0, end, layout.attr)
                extents.extend(layout.extents)
        return extents

    def _keep(self, ino: int, epoch: int, layout: meta.LayoutReply, end: int) -> None:
        weight = sum(len(extent.inline) for extent in layout.extents)
        old = self._kept.pop(ino, None)
        self._weight += weight - (old.weight if old is not None else 0)
        self._kept[ino] = _Kept(epoch, layout.attr.data_version, layout.extents, end, weight)
        while len(self._kept) > KEPT_MAX or self._weight > KEPT_BYTES_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._weight -= oldest.weight
