"""The one error tree: every failure that crosses a layer or the wire.

    CfsError
    ├── FsError          a POSIX answer: errno says it all; final
    ├── Retryable        the same request, sent again, may succeed
    │   ├── NotLeader    this replica does not lead the group; `leader` may hint who does
    │   ├── StaleEpoch   refresh the cluster map, then send again
    │   ├── Unavailable  no quorum, node down, queue full, connection lost
    │   └── Locked       a cross-shard transaction holds the name; resolve `txid`, then again
    ├── DeadlineExceeded the caller's time is over; the outcome is unknown
    ├── SessionExpired   the server gave this session's leases away
    ├── Condemned        the commit refers to segments that are being collected: upload again
    ├── Corrupt          a checksum or tag did not match; never returned as data
    ├── NotFound         a fragment, node or record that should be named is not there
    ├── Refused          not authorised, wrong role, revoked
    ├── Malformed        bytes that no correct peer sends
    └── NoSpace          no room left above the reserve

On the wire an error is `[code, errno, message, detail]`; `from_wire` builds the same class again.
`detail` is a msgpack map of plain values.
"""

from __future__ import annotations

import errno as _errno
from typing import Any, ClassVar


class CfsError(Exception):
    """Base of the tree. `message` names the object, the fact and the next action."""

    code: ClassVar[int] = 1
    errno: int = _errno.EIO
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def to_wire(self) -> list[Any]:
        """Give `[code, errno, message, detail]`."""
        return [self.code, self.errno, self.message, self.detail]

    def __str__(self) -> str:
        return self.message or type(self).__name__


class FsError(CfsError):
    """A POSIX answer."""

    code = 2

    def __init__(self, errno: int, message: str = "", **detail: Any) -> None:
        super().__init__(message or _errno.errorcode.get(errno, str(errno)), **detail)
        self.errno = errno


class Retryable(CfsError):
    """The same request, sent again, may succeed."""

    code = 3
    errno = _errno.EAGAIN


class NotLeader(Retryable):
    """This replica does not lead the group; `detail["leader"]` is a node id or None."""

    code = 4

    @property
    def leader(self) -> int | None:
        """Node id of the leader as this replica knows it."""
        return self.detail.get("leader")


class StaleEpoch(Retryable):
    """The sender's cluster map is older than `detail["epoch"]`."""

    code = 5


class Unavailable(Retryable):
    """No quorum, node down, queue full or connection lost; a mutation may have taken effect."""

    code = 6
    errno = _errno.EHOSTUNREACH


class Locked(Retryable):
    """A cross-shard transaction holds what was touched: `txid` (bytes), `coordinator` (shard)."""

    code = 7


class DeadlineExceeded(CfsError):
    """The caller's time is over; the outcome is unknown."""

    code = 8
    errno = _errno.ETIMEDOUT


class SessionExpired(CfsError):
    """The server gave this session's leases away."""

    code = 9


class Condemned(CfsError):
    """`detail["segments"]` are being collected: upload their chunks again."""

    code = 10


class Corrupt(CfsError):
    """A checksum or tag did not match."""

    code = 11


class NotFound(CfsError):
    """A fragment, node or record that was named is not here."""

    code = 12
    errno = _errno.ENOENT


class Refused(CfsError):
    """Not authorised: wrong role, revoked or unknown certificate."""

    code = 13
    errno = _errno.EACCES


class Malformed(CfsError):
    """Bytes that no correct peer sends."""

    code = 14
    errno = _errno.EPROTO


class NoSpace(CfsError):
    """No room above the reserve."""

    code = 15
    errno = _errno.ENOSPC


_BY_CODE: dict[int, type[CfsError]] = {
    cls.code: cls
    for cls in (
        CfsError, Retryable, NotLeader, StaleEpoch, Unavailable, Locked, DeadlineExceeded,
        SessionExpired, Condemned, Corrupt, NotFound, Refused, Malformed, NoSpace,
    )
}  # fmt: skip


def from_wire(wire: list[Any]) -> CfsError:
    """Build the error that a peer sent; an unknown code becomes a plain `CfsError`."""
    code, errno, message, detail = wire
    if code == FsError.code:
        return FsError(errno, message, **detail)
    error = _BY_CODE.get(code, CfsError)(message, **detail)
    error.errno = errno
    return error
