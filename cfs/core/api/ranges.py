"""Operations on ranges of files, and on files without a name."""

from __future__ import annotations

import msgspec

from cfs.core.api.attr import Caller


class CopyRange(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="copy"):
    """Let `[to, to + length)` of a file be the bytes of another (or itself) of the same shard.

    By reference: chunks are shared, holes stay holes, sealed inline bytes are copied. Less where
    the source ends. Requires the WRITE lease on `ino` (else ESTALE). Raises EXDEV (another shard),
    EINVAL (overlap), EISDIR, EFBIG, E2BIG (too many extents for one entry: copy less, or bytes),
    Condemned. Answers the target, then the source.
    """

    ino: int
    to: int
    source: int
    start: int
    length: int
    mtime_ns: int | None = None


class MakeOrphan(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="orphan"):
    """Make a regular file without a name in `parent`'s shard; it lives while somebody pins it.

    `lease` as in `Create`, OPEN among them. `linkable`: `Link` may give it its first name. Answers
    the inode. Raises ENOENT, ENOTDIR, EINVAL.
    """

    parent: int
    mode: int
    uid: int
    gid: int
    lease: int = 0
    linkable: bool = True
    umask: int = 0
    caller: Caller | None = None
