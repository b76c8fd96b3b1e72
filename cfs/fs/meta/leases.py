"""The lease table of one shard leader: which session may trust what it has read.

READ leases and OPEN pins are volatile and live here; WRITE leases are replicated and live in the
shard's state. A session's trust ends `TERM_MS` after it *sent* its last acknowledged renewal, which
is earlier than `TERM_MS` after the leader received it: what the leader waits for is always later
than what the client trusts.

While an operation is about to change an inode, the inode is *pending*: no other session is
granted a lease on it, so nothing is handed out between the recall and the change.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from cfs.core.api.meta import Held, Lease
from cfs.core.errors import SessionExpired, Unavailable
from cfs.net.rpc import Peer

TERM_MS = 3000
"""Lease term. It runs from a dead leader's last beat plus its lease of 0.75 s (`grace_ends`), and
sessions have 2 s after an election (<= 2.2 s): mutations pause less than 5 s either way."""
MARGIN_MS = 250
"""Waited on top of the term, for clocks that drift."""
REASSERT_MS = 2000
"""A new leader gives sessions at least so long to reassert: they renew every third of a term."""
FORGET_S = 60.0
"""A session silent for this long is expired even if nothing conflicts with it."""


class Session:
    """What the leader knows of one client's session in this shard."""

    __slots__ = ("doomed", "opened", "peer", "read", "reconnected", "renewed_at", "session")

    def __init__(self, session: int, peer: Peer | None, now: float) -> None:
        self.session = session
        self.peer = peer
        self.renewed_at = now
        self.read: set[int] = set()
        self.opened: set[int] = set()
        self.doomed = False
        self.reconnected = trio.Event()

    def trusted_until(self) -> float:
        """Give the trio time after which the client has stopped trusting its leases."""
        return self.renewed_at + (TERM_MS + MARGIN_MS) / 1000


def grace_ends(now: float, others_over: float) -> float:
    """Give when sessions that do not reassert hold nothing volatile any more, in trio time.

    Every renewal was answered under a leader's lease, so none later than `others_over`, when all
    earlier leaders' leases had ended; the election has used up a part of the term since.
    """
    term_over = min(now, others_over) + (TERM_MS + MARGIN_MS) / 1000
    return max(term_over, now + REASSERT_MS / 1000)


class LeaseTable:
    """Volatile leases of one shard, for one term of leadership."""

    def __init__(self) -> None:
        self.sessions: dict[int, Session] = {}
        self.unasserted: set[int] = set()
        """Sessions of the old leader that have not said yet what they hold."""
        self.asserted = trio.Event()
        self._readers: dict[int, tuple[int, ...]] = {}
        self._openers: dict[int, tuple[int, ...]] = {}
        """Mostly of one session: 48 bytes an inode, where a set takes 216."""
        self._pending: dict[int, list[int]] = {}

    # --- sessions

    def known(self, session: int, peer: Peer) -> Session:
        """Find a session that is open here. Raises Unavailable (open it first), SessionExpired."""
        entry = self.sessions.get(session)
        if entry is None:
            message = f"session {session} is not open with this leader; open it, then again"
            raise Unavailable(message, session_unknown=True)
        if entry.doomed:
            raise SessionExpired(f"session {session} did not answer a recall in time")
        entry.peer = peer
        return entry

    def open(self, session: int, peer: Peer, held: Iterable[Held]) -> Session:
        """Enter a session, or connect it again; `held` counts only for one not known yet."""
        entry = self.sessions.get(session)
        if entry is None:
            entry = self.sessions[session] = Session(session, peer, trio.current_time())
            for lease in held:
                self._add(entry, lease.ino, lease.modes)
        entry.peer = peer
        entry.renewed_at = max(entry.renewed_at, trio.current_time())
        entry.reconnected.set()
        entry.reconnected = trio.Event()
        self.settle(session)
        return entry

    def settle(self, session: int) -> None:
        """Note that nothing more is to be learnt of what `session` holds."""
        if session in self.unasserted:
            self.unasserted.discard(session)
            self.asserted.set()
            self.asserted = trio.Event()

    def forget(self, session: int) -> set[int]:
        """Drop a session and all it holds; give the inodes it had open."""
        self.settle(session)
        entry = self.sessions.pop(session, None)
        if entry is None:
            return set()
        for ino in list(entry.read):
            self._remove(entry, ino, Lease.READ)
        opened = set(entry.opened)
        for ino in opened:
            self._remove(entry, ino, Lease.OPEN)
        return opened

    # --- leases

    def grant(self, entry: Session, ino: int, modes: int) -> int:
        """Grant what may be granted of `modes`; give all volatile modes held then."""
        free = all(s == entry.session for s in self._pending.get(ino, ()))
        granted = modes & (Lease.OPEN | Lease.READ if free else Lease.OPEN)
        if granted:
            self._add(entry, ino, granted)
        # a READ lease that is about to be recalled is not named any more, though still held
        held = Lease.READ if free and ino in entry.read else Lease.NONE
        return held | (Lease.OPEN if ino in entry.opened else Lease.NONE)

    def drop(self, entry: Session, ino: int, modes: int) -> None:
        """Take modes away; not held is not an error."""
        self._remove(entry, ino, modes)

    def readers(self, ino: int, but: int) -> list[int]:
        """List the sessions other than `but` that hold READ."""
        return [s for s in self._readers.get(ino, ()) if s != but]

    def openers(self, ino: int) -> list[int]:
        """List the sessions that pin the inode."""
        return list(self._openers.get(ino, ()))

    def free(self, ino: int, session: int) -> bool:
        """Tell whether no other session reads the inode, or is about to change it."""
        others = self._pending.get(ino, ())
        return not self.readers(ino, session) and all(s == session for s in others)

    def opened(self, ino: int) -> bool:
        """Tell whether any session pins the inode."""
        return ino in self._openers

    def mark_pending(self, session: int, inos: Iterable[int]) -> None:
        """Withhold leases on `inos` from every session but this one, until cleared."""
        for ino in inos:
            self._pending.setdefault(ino, []).append(session)

    def clear_pending(self, session: int, inos: Iterable[int]) -> None:
        """Undo one `mark_pending`."""
        for ino in inos:
            marks = self._pending[ino]
            marks.remove(session)
            if not marks:
                del self._pending[ino]

    def _add(self, entry: Session, ino: int, modes: int) -> None:
        if modes & Lease.READ and ino not in entry.read:
            entry.read.add(ino)
            self._readers[ino] = (*self._readers.get(ino, ()), entry.session)
        if modes & Lease.OPEN and ino not in entry.opened:
            entry.opened.add(ino)
            self._openers[ino] = (*self._openers.get(ino, ()), entry.session)

    def _remove(self, entry: Session, ino: int, modes: int) -> None:
        if modes & Lease.READ and ino in entry.read:
            entry.read.discard(ino)
            _discard(self._readers, ino, entry.session)
        if modes & Lease.OPEN and ino in entry.opened:
            entry.opened.discard(ino)
            _discard(self._openers, ino, entry.session)


def _discard(index: dict[int, tuple[int, ...]], ino: int, session: int) -> None:
    sessions = tuple(s for s in index[ino] if s != session)
    if sessions:
        index[ino] = sessions
    else:
        del index[ino]
