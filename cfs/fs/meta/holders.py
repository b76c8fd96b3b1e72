"""Who holds what on an inode, and what a read of it would wait for: for `cfs explain`."""

from __future__ import annotations

import trio

from cfs.core.api.insight import GetHoldersReply, HolderInfo
from cfs.core.meta import file_locks, read
from cfs.fs.meta.led import LedShard


def holders(led: LedShard, ino: int) -> GetHoldersReply:
    """Answer from a led shard's state and leases."""
    state, table = led.group.state, led.table
    held: dict[int, list[str]] = {}
    for session in table.readers(ino, 0):
        held.setdefault(session, []).append("READ lease")
    for session in table.openers(ino):
        held.setdefault(session, []).append("open")
    waits: list[str] = []
    writer = read.write_lease(state, ino)
    if writer is not None:
        held.setdefault(writer, []).append("WRITE lease")
    for flock in (False, True):
        kind = "flock" if flock else "POSIX lock"
        for lock in file_locks.holders(state, ino, flock=flock):
            said = kind if flock else f"{kind} {lock.start}-{lock.end} of pid {lock.pid}"
            held.setdefault(lock.session, []).append(said)
    names = {s: record.name for s, record in read.sessions(state).items() if s in held}
    if writer is not None:
        name = names.get(writer, f"session {writer}")
        waits.append(f"{name} holds the WRITE lease: others wait until it has stored what it wrote")
    if locked := read.locked(state, ino):
        waits.append(f"transaction {locked[0].hex()[:16]} is under way (shard {locked[1]} drives)")
    waits += [
        f"a lease of {names.get(session, session)} is being recalled"
        for session in held
        if led.recalls.running(session, ino)
    ]
    now = trio.current_time()
    return GetHoldersReply(
        holders=tuple(
            HolderInfo(
                session=session,
                name=names.get(session, ""),
                holds=", ".join(what),
                silent_s=now - entry.renewed_at if (entry := table.sessions.get(session)) else -1.0,
            )
            for session, what in sorted(held.items())
        ),
        waits=tuple(waits),
    )
