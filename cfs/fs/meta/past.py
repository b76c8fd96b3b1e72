"""Reads of what a snapshot shows: nothing to lease, nothing to recall, the same for ever.

Raises ESTALE where the snapshot is gone, or never was.
"""

from __future__ import annotations

from cfs.core.api import meta
from cfs.core.kv import Reader
from cfs.core.meta import history, read
from cfs.fs.meta.host import Group

LAYOUT_BYTES_MAX = 1 << 20
"""A layout reply's extents and inline bytes; of the present too."""
ENTRIES_MAX = 1024
"""Of one listing's reply; of the present too."""


def state_of(group: Group, epoch: int) -> Reader:
    """Give the records of a snapshot, or of the present (0)."""
    return history.past(group.state, epoch) if epoch else group.state


def lookup(group: Group, request: meta.Lookup) -> meta.LookupReply:
    """Find a name."""
    state = history.past(group.state, request.snapshot)
    entry = read.lookup(state, request.parent, request.name)
    return meta.LookupReply(at=group.applied, entry=entry, directory_lease=0, lease=0)


def attributes(group: Group, request: meta.GetAttr) -> meta.GetAttrReply:
    """Read attributes."""
    attr = read.attr(history.past(group.state, request.snapshot), request.ino)
    return meta.GetAttrReply(at=group.applied, attr=attr, lease=0)


def listing(group: Group, request: meta.ReadDir) -> meta.ReadDirReply:
    """List a directory."""
    state = history.past(group.state, request.snapshot)
    limit = min(request.limit, ENTRIES_MAX)
    entries, end = read.listing(state, request.ino, request.cookie, limit)
    return meta.ReadDirReply(
        at=group.applied, entries=entries, end=end, lease=0, leased=(0,) * len(entries)
    )


def layout(group: Group, request: meta.Layout) -> meta.LayoutReply:
    """Read extents."""
    state = history.past(group.state, request.snapshot)
    attr = read.attr(state, request.ino)
    extents, end = read.layout(state, request.ino, request.offset, request.length, LAYOUT_BYTES_MAX)
    return meta.LayoutReply(at=group.applied, attr=attr, extents=extents, end=end, lease=0)
