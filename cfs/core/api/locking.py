"""Messages of advisory file locks: flock and POSIX byte ranges.

An *owner* is a session and the number its kernel knows the owner by (a process's open files for
POSIX locks, an open file description for OFD locks and flock); the two *flavours*, flock and POSIX,
do not see each other. A range is `[start, end]`, both ends in it, as `struct fuse_file_lock` has
it; a flock covers `[0, OFFSET_MAX]`.

Taking a lock is a numbered operation like any other (`Lock`) and never waits. Who wants to wait
first waits for its turn (`LockWait`, without a number: numbers left open for hours would keep
every later answer of the session), then sends the `Lock`.
"""

from __future__ import annotations

import enum

import msgspec

OFFSET_MAX = (1 << 63) - 1


class LockKind(enum.IntEnum):
    """What is asked of a range; the numbers are Linux's `F_RDLCK`, `F_WRLCK`, `F_UNLCK`."""

    READ = 0
    WRITE = 1
    NONE = 2


class Lock(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="lock"):
    """Make `[start, end]` of an owner be of `kind`, NONE to unlock: all of it or nothing.

    What the owner held there is split, joined, converted. Raises EAGAIN (detail `session`, `owner`,
    `start`, `end`, `kind`, `pid` of one that conflicts; none of them when waiters come first),
    EINVAL, ENOENT, ENOLCK (too many).
    """

    ino: int
    owner: int
    kind: int
    start: int = 0
    end: int = OFFSET_MAX
    pid: int = 0
    flock: bool = False
    waits: bool = False
    """The caller can wait: whoever has waited longer for what conflicts goes first. Who cannot
    gives way only to one whose turn has come."""
    yields: bool = False
    """Set by the leader: somebody goes first; refuse it."""


class LockHolder(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A lock that is held."""

    session: int
    owner: int
    start: int
    end: int
    kind: int
    pid: int
    flock: bool = False
    name: str = ""
    """Of the client, in answers to `GetLock`."""


class GetLock(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Ask what would stand in the way of a lock, as F_GETLK does. Raises ENOENT."""

    shard: int
    session: int
    ino: int
    owner: int
    kind: int
    start: int = 0
    end: int = OFFSET_MAX
    flock: bool = False


class GetLockReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """`holder` None: nothing would."""

    at: int
    holder: LockHolder | None


class LockWait(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Wait in line for a lock; answered when its turn has come, or after a while in any case.

    Turns go first come, first served, by how long ago each began to wait. Whoever is told
    `granted` has a few seconds to send its `Lock`, whoever is not asks again to keep its place.
    Raises EDEADLK (POSIX), ENOLCK (too many wait).
    """

    shard: int
    session: int
    ticket: int
    """Names this wait among all of the session."""
    ino: int
    owner: int
    kind: int
    start: int = 0
    end: int = OFFSET_MAX
    flock: bool = False
    waited_ms: int = 0
    """Since the wait began: keeps the order across a change of leader."""
    leave: bool = False
    """Give the place up."""


class LockWaitReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """`granted`: send the `Lock` now."""

    granted: bool


class LockEdge(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A POSIX owner that waits, and the owners (session, number) whose locks are in its way."""

    session: int
    owner: int
    ticket: int
    holders: tuple[tuple[int, int], ...]


class LockGraph(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A shard's leader to that of shard 0: all who have waited long."""

    shard: int
    edges: tuple[LockEdge, ...]


class LockGraphReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Waits (session, ticket) of the shard that close a circle: they end with EDEADLK."""

    victims: tuple[tuple[int, int], ...]
