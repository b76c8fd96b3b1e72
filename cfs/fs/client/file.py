"""One inode's content as this client sees it: committed extents under dirty bytes.

    dirty      written here, not on its way
    flushing   on its way: uploaded or being committed
    tiles      the committed extents that are known, of `[tiles_start, tiles_end)`

A byte is looked for in that order. `tiles` count under the lease they were learnt under (the
node's epoch) and are updated by the file's own commits. With the WRITE lease, `size` and
`mtime_ns` here are the truth and the shard's attributes follow; without it there are no dirty
bytes, except after the lease was lost: then the file is *suspect*, and its bytes are committed
only if the shard's data is still of version `base_version`.

Invariant: `flushing` is only changed while `flush_lock` is held.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec
import trio

from cfs.core.api.meta import Attr, Extent, ExtentKind, Lease
from cfs.core.errors import CfsError, FsError
from cfs.core.meta import extents
from cfs.fs.client.dirty import Dirty
from cfs.fs.client.landing import Kept
from cfs.fs.client.nodes import Node

if TYPE_CHECKING:
    from cfs.fs.client.stream import Stream

TILES_MAX = 16_384
"""Extents kept of one file (about 1 GiB of chunks, 8 MiB of memory)."""
GAP_TILES_MAX = 5_000
"""Extents that one layout reply holds for sure."""
SHORT = 16
"""A random read of a file with too many extents to keep asks for so much less."""
_OFFSET = attrgetter("offset")
_INLINE = ExtentKind.INLINE


class File:
    """State of an inode that is open, dirty, or write-leased."""

    __slots__ = (
        "acquiring", "ahead_until", "atime_ns", "base_size", "base_version", "changes", "charged",
        "cut_to", "dirty", "dirty_since", "error", "error_count", "flush_after", "flush_lock",
        "flushing", "in_line", "ino", "mtime_ns", "next_offset", "node", "opens", "pinned", "size",
        "stream", "tiles", "tiles_end", "tiles_epoch", "tiles_start", "version", "window",
    )  # fmt: skip

    def __init__(self, node: Node) -> None:
        self.ino = node.ino
        self.node = node
        self.opens = 0
        self.pinned = False
        """An open file is pinned, or its READ or WRITE lease keeps it: who unlinks recalls that."""
        self.dirty = Dirty()
        self.flushing: Dirty | None = None
        self.size = 0
        self.mtime_ns = 0
        self.atime_ns = 0
        self.base_version = 0
        self.base_size = 0
        """Of what is committed, known under the WRITE lease; set wherever `base_version` is."""
        self.charged = 0
        """The size up to which the shard has promised room under the WRITE lease: see `quotas`."""
        self.version = 0
        """Of the newest attributes that an own commit or size change was answered with."""
        self.changes = 0
        """Own commits and size changes so far: a reply that crossed one may be of before it."""
        self.cut_to: int | None = None
        """A size that is being set: what is committed beyond it is not in the file any more."""
        self.dirty_since = 0.0
        self.flush_after = 0.0
        self.flush_lock = trio.Semaphore(1, max_value=1)
        self.in_line = False
        """The commit of `flushing` is in the lane: what is put there now comes after it."""
        self.stream: Stream | None = None
        """What takes dirty bytes up as they come, while it does."""
        self.acquiring = trio.Lock()
        self.error: CfsError | None = None
        self.error_count = 0
        self.tiles: list[Extent] = []
        self.tiles_start = 0
        self.tiles_end = 0
        self.tiles_epoch = -1
        self.next_offset = 0
        self.window = 0
        self.ahead_until = 0

    # --- leases

    @property
    def unclean(self) -> bool:
        """Tell whether there are bytes that are not committed."""
        return bool(self.dirty) or self.flushing is not None

    @property
    def idle(self) -> bool:
        """Tell whether nothing needs this state but the lease."""
        return not self.opens and not self.unclean

    def take_write(self, attr: Attr) -> bool:
        """Begin to write under a WRITE lease just granted; False: suspect bytes were lost."""
        lost = self.unclean and attr.data_version != self.base_version
        if lost:
            self.fail(FsError(errno.EIO, f"inode {self.ino}: its lease was lost while dirty"))
        if not self.unclean or lost:
            self.size = attr.size
            self.mtime_ns = attr.mtime_ns
        self.base_version, self.base_size = attr.data_version, attr.size
        self.charged = attr.charged
        self.version = max(self.version, attr.version)
        return not lost

    def fail(self, error: CfsError) -> None:
        """Remember an error that lost bytes; every open file reports it once."""
        self.error = error
        self.error_count += 1

    def changed(self, attr: Attr) -> None:
        """Note the answer to an own commit or change of attributes."""
        self.changes += 1
        self.version = max(self.version, attr.version)

    # --- attributes

    def view(self, attr: Attr) -> Attr:
        """Give `attr` with what only this client knows yet."""
        if self.node.modes & Lease.WRITE or self.unclean:
            pending = self.dirty.size + (self.flushing.size if self.flushing else 0)
            if attr.size != self.size or pending:
                return msgspec.structs.replace(
                    attr,
                    size=self.size,
                    mtime_ns=self.mtime_ns,
                    ctime_ns=max(attr.ctime_ns, self.mtime_ns),
                    atime_ns=max(attr.atime_ns, self.atime_ns),
                    allocated=min(self.size, attr.allocated + pending),
                )
        if self.atime_ns > attr.atime_ns:
            return msgspec.structs.replace(attr, atime_ns=self.atime_ns)
        return attr

    # --- dirty bytes

    def write(self, offset: int, data: bytes | Kept, now_ns: int) -> int:
        """Buffer bytes: a copy, or those that landed in a slab; give the change of memory held."""
        before = self.dirty.cost
        if isinstance(data, Kept):
            self.dirty.keep(offset, data)
        else:
            self.dirty.write(offset, data)
        self.size = max(self.size, offset + len(data))
        self.mtime_ns = now_ns
        return self.dirty.cost - before

    def truncate(self, size: int) -> int:
        """Forget bytes from `size` on; give the change of memory held."""
        before = self.dirty.cost
        if self.dirty.end > size:
            self.dirty.cut(size, self.dirty.end)
        self.size = size
        self.tiles_epoch = -1
        return self.dirty.cost - before

    def put_back(self) -> int:
        """Make what was being flushed dirty again; give the change of memory held."""
        assert self.flushing is not None
        before = self.flushing.cost + self.dirty.cost
        newer, self.dirty, self.flushing = self.dirty, self.flushing, None
        self.dirty.take_over(newer)
        return self.dirty.cost - before

    def discard(self) -> int:
        """Forget all dirty bytes; give the change of memory held."""
        before = self.dirty.cost
        self.dirty = Dirty()
        return -before

    def overlay_pieces(self, offset: int, length: int) -> list[tuple[int, bytes]]:
        """Copy the uncommitted bytes in a range, older ones first."""
        pieces: list[tuple[int, bytes]] = []
        for layer in (self.flushing, self.dirty):
            if layer is None or not layer.overlaps(offset, length):
                continue
            for start, run in layer.runs():
                low, high = max(start, offset), min(start + len(run), offset + length)
                if low < high:
                    pieces.append((low, bytes(memoryview(run)[low - start : high - start])))
        return pieces

    # --- committed extents

    def known_tiles(self, offset: int, stop: int) -> list[Extent] | None:
        """Give the extents over `[offset, stop)` if they are known under the present lease."""
        if (
            self.tiles_epoch != self.node.epoch
            or offset < self.tiles_start
            or stop > self.tiles_end
        ):
            return None
        return clip(self.tiles, offset, stop)

    def missing_range(self, offset: int, stop: int, ahead: int) -> tuple[int, int]:
        """Give `(offset, length)` to ask for so that `[offset, stop)` becomes known.

        What is asked for touches what is known, so that random reads come to know a whole file
        in a few questions; where that would be too much at once, it is only what is read next.
        """
        plain = offset, max(stop - offset, ahead)
        if self.tiles_epoch != self.node.epoch or not self.tiles:
            return plain
        bytes_a_tile = max(1, (self.tiles_end - self.tiles_start) // len(self.tiles))
        room = min(TILES_MAX - len(self.tiles), GAP_TILES_MAX) * bytes_a_tile
        if offset >= self.tiles_end:
            reach = max(stop, offset + ahead) - self.tiles_end
            return (self.tiles_end, reach) if reach <= room else (offset, ahead // SHORT)
        begin = max(0, min(offset, self.tiles_start - ahead))
        reach = self.tiles_start - begin
        if stop <= self.tiles_start:
            return (begin, reach) if reach <= room else (offset, ahead // SHORT)
        return plain

    def learn_tiles(self, tiles: list[Extent], start: int, end: int) -> None:
        """Keep extents, joined with those known when they touch."""
        known = self.tiles_epoch == self.node.epoch and self.tiles
        fits = len(self.tiles) + len(tiles) <= TILES_MAX
        if known and fits and start == self.tiles_end:
            self.tiles = [*self.tiles, *tiles]
            self.tiles_end = end
        elif known and fits and end == self.tiles_start:
            self.tiles = [*tiles, *self.tiles]
            self.tiles_start = start
        else:
            self.tiles = tiles
            self.tiles_start = start
            self.tiles_end = end
        self.tiles_epoch = self.node.epoch

    def take_tiles(self, tiles: list[Extent], start: int, end: int, attr: Attr) -> None:
        """Keep extents a shard told, unless a commit or a size of our own overtook the reply."""
        if self.flushing is not None or not self.flush_lock.value:
            return
        if self.node.modes & Lease.WRITE and attr.data_version != self.base_version:
            return
        if tiles and tiles[0].offset < start:
            start = tiles[0].offset
        self.learn_tiles(tiles, start, end)

    def committed(self, new: list[Extent], attr: Attr) -> None:
        """Lay committed extents over those known."""
        if not self.base_size and self.tiles_epoch != self.node.epoch:
            self.learn_tiles([], 0, 0)  # it was empty: what is committed now is all there is
        whole = self.tiles_end >= self.base_size  # else nothing is known of what follows
        self.base_version, self.base_size = attr.data_version, attr.size
        self.changed(attr)
        there = self.node.attr
        if there is not None and there.data_version <= attr.data_version:
            # an operation still in line keeps the rest of the answer out, but not what is read by
            self.node.attr = msgspec.structs.replace(
                there,
                size=attr.size,
                allocated=attr.allocated,
                data_version=attr.data_version,
                mtime_ns=self.mtime_ns if self.node.modes & Lease.WRITE else there.mtime_ns,
            )
        if self.tiles_epoch != self.node.epoch:
            return
        cut = self.tiles_end < extents.end_of(self.tiles)
        if not whole or self.tiles_start or cut:
            self.tiles_epoch = -1
            return
        joins = new and self.tiles and new[0].offset == extents.end_of(self.tiles)
        if joins and sum(e.length for e in new) == extents.end_of(new) - new[0].offset:
            self.tiles.extend(new)  # an append without gaps: nothing is laid over
            self.tiles_end = extents.end_of(self.tiles)
            if len(self.tiles) > TILES_MAX or self.tiles_end != attr.size:
                self.tiles_epoch = -1
            return
        tiles = extents.extend(extents.overlay(self.tiles, new), attr.size)
        if len(tiles) > TILES_MAX or any(t.kind is _INLINE and not t.inline for t in tiles):
            self.tiles_epoch = -1  # too many, or a piece of an inline one lost its bytes: ask
            return
        self.tiles = tiles
        self.tiles_end = max(self.tiles_end, attr.size)


def clip(tiles: list[Extent], offset: int, stop: int) -> list[Extent]:
    """Give the whole tiles that overlap `[offset, stop)`."""
    first = max(0, bisect_right(tiles, offset, key=_OFFSET) - 1)
    last = first
    while last < len(tiles) and tiles[last].offset < stop:
        last += 1
    if first < last and tiles[first].offset + tiles[first].length <= offset:
        first += 1
    return tiles[first:last]
