"""Where the bytes of files are: of one, and of many that are likely to be read next."""

from __future__ import annotations

import stat

from cfs.core.api import meta
from cfs.core.api.layout import Layouts, LayoutsReply
from cfs.core.api.meta import ExtentKind, Lease
from cfs.core.errors import Corrupt, FsError
from cfs.core.meta import read
from cfs.fs.meta import past
from cfs.fs.meta.leases import Session
from cfs.fs.meta.led import LedShard, MustWaitError

LAYOUTS_MAX = 256


def layout(led: LedShard, session: Session | None, request: meta.Layout) -> meta.LayoutReply:
    """Read extents of one file. Raises ENOENT, MustWaitError."""
    led.check_pinnable(request.ino, request.lease)
    led.check_readable(request.session, (request.ino,))
    attr = read.attr(led.group.state, request.ino)
    extents, end = read.layout(
        led.group.state, request.ino, request.offset, request.length, past.LAYOUT_BYTES_MAX
    )
    return _granted(led, session, attr, extents, end, request.lease)


def layouts(led: LedShard, session: Session | None, request: Layouts) -> LayoutsReply:
    """Read extents of many regular files; leave out what would have to wait, or is not there."""
    room = past.LAYOUT_BYTES_MAX
    found: list[meta.LayoutReply] = []
    for ino in request.inos:
        try:
            led.check_readable(request.session, (ino,))
            attr = read.attr(led.group.state, ino)
            if not stat.S_ISREG(attr.mode):
                continue
            extents, end = read.layout(led.group.state, ino, 0, request.length, room)
        except (MustWaitError, FsError, Corrupt):
            continue
        room -= sum(64 + (e.stored if e.kind is ExtentKind.INLINE else 0) for e in extents)
        if room < 0:
            break
        found.append(_granted(led, session, attr, extents, end, Lease.READ))
    return LayoutsReply(layouts=tuple(found))


def _granted(
    led: LedShard, session: Session | None, attr: meta.Attr, extents: tuple[meta.Extent, ...],
    end: int, modes: int,
) -> meta.LayoutReply:  # fmt: skip
    """Answer with what was read, and the modes that may be granted of those asked for."""
    lease = led.grant(session, attr.ino, modes)
    return meta.LayoutReply(at=led.group.applied, attr=attr, extents=extents, end=end, lease=lease)
