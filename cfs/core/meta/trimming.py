"""Trimming: what truncating a long file leaves behind goes in bounded steps.

Such a file may have millions of pages, and applying an entry must stay short. So its size changes
at once and its pages beyond are *doomed*: pages that start in `[size, doomed)` are no part of the
file. Each later entry of the shard removes a few; growth first removes those it would reach. Until
then they still count: as references, so nothing they name is collected early, and as allocated.
"""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from cfs.core.api.meta import Extent
from cfs.core.errors import Unavailable
from cfs.core.kv import prefix_end
from cfs.core.meta import keys, pages
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import PRESENT, Inode, Present

LAZY_PAGES_MIN = 64
"""Fewer pages are dropped at once: 47 us a page measured, 3 ms together."""
STEP_PAGES = 32
"""Doomed pages that an entry removes beside its own work: 1.5 ms."""
GROWTH_PAGES_MAX = 4096
"""Doomed pages that one growth removes: 0.2 s; a larger leap waits for trimming."""


def is_long(draft: Draft, ino: int, inode: Inode, size: int) -> bool:
    """Tell whether dropping the pages from `size` on is left to trimming."""
    scan = draft.scan(keys.page(ino, size), keys.page(ino, inode.size))
    return next(itertools.islice(scan, LAZY_PAGES_MIN, None), None) is not None


def doom(draft: Draft, ino: int, inode: Inode, size: int) -> Inode:
    """Make the file end at `size`, where its last page must end, and the pages beyond doomed."""
    if not inode.doomed:
        draft.state.doomed += 1
        draft.put(keys.doomed(ino), PRESENT.encode(Present(draft.now), draft.state.epoch))
    return replace(inode, size=size, doomed=max(inode.doomed, inode.size))


def make_room(draft: Draft, ino: int, inode: Inode, size: int) -> Inode:
    """Remove the doomed pages that growing to `size` would reach.

    Raises Unavailable when they are too many for one entry; later they are fewer.
    """
    if not inode.doomed or size <= inode.size:
        return inode
    start, stop = keys.page(ino, inode.size), keys.page(ino, min(size, inode.doomed))
    allocated = inode.allocated
    for count, (key, value) in enumerate(draft.scan(start, stop)):
        if count >= GROWTH_PAGES_MAX:
            raise Unavailable(f"inode {ino} is being trimmed: try again")
        allocated += discard(draft, ino, key, value)
    inode = replace(inode, allocated=allocated)
    return _done(draft, ino, inode) if size >= inode.doomed else inode


def step(draft: Draft) -> None:
    """Remove a few doomed pages, if there are any: the last act of every entry."""
    if not draft.state.doomed:
        return
    first = next(draft.scan(b"u", prefix_end(b"u")), None)
    assert first is not None
    ino = keys.number_at(first[0], 1)
    inode = draft.inode(ino)
    start, stop = keys.page(ino, inode.size), keys.page(ino, max(inode.doomed, inode.size))
    found = list(itertools.islice(draft.scan(start, stop, reverse=True), STEP_PAGES))
    freed = sum(discard(draft, ino, key, value) for key, value in found)
    inode = replace(inode, allocated=inode.allocated + freed)
    lowest = keys.number_at(found[-1][0], 9) if len(found) == STEP_PAGES else inode.size
    if lowest > inode.size:
        draft.set_inode(ino, replace(inode, doomed=lowest))
    else:
        draft.set_inode(ino, _done(draft, ino, inode))
    draft.commit(changed=False)


def discard(draft: Draft, ino: int, key: bytes, value: bytes) -> int:
    """Remove a page; give the difference in allocated bytes."""
    start = keys.number_at(key, 9)
    tiles: list[Extent] = []
    pages.decode_into(tiles, start, value)
    return pages.store(draft, ino, pages.Window([start], tiles), ())


def forget(draft: Draft, ino: int) -> None:
    """Take the inode off the list of those with doomed pages."""
    draft.delete(keys.doomed(ino))
    draft.state.doomed -= 1


def _done(draft: Draft, ino: int, inode: Inode) -> Inode:
    forget(draft, ino)
    return replace(inode, doomed=0)
