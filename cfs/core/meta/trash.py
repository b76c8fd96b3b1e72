"""The trash: what lost its last name lately stays for a while, with where it was.

An inode that is unlinked or removed goes to the trash instead of becoming an orphan, for `trash_s`
seconds: its record there is the only thing written instead of the orphan's. It keeps its data and,
a directory, its parent, so paths can be put together again. A new name takes it out (`links`); time
or a wish to empty makes it an orphan. What is replaced by a rename or never had a name does not
come here.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import keys
from cfs.core.meta.commands import EmptyTrash, SetTrash
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import STATE, TRASHED, Inode, Trashed
from cfs.core.meta.results import Done, Emptied

EMPTIED_MAX = 256
"""Inodes that one entry takes out of the trash."""


class Thrown(msgspec.Struct, frozen=True, array_like=True):
    """What lies in the trash."""

    stamp: int
    ino: int
    parent: int
    name: bytes


def throw(draft: Draft, ino: int, parent: int, name: bytes) -> None:
    """Keep an inode that has just lost a name, if that was its last and there is a trash."""
    if not draft.state.trash_s:
        return
    inode = draft.inode(ino)
    if inode.nlink:
        return
    draft.delete(keys.orphan(ino))
    record = TRASHED.encode(Trashed(parent, name), draft.state.epoch)
    draft.put(keys.trashed(draft.now, ino), record)
    draft.state.trashed += 1
    draft.set_inode(ino, replace(inode, trashed=draft.now))


def take_out(draft: Draft, ino: int, inode: Inode) -> Inode:
    """Forget that an inode lies in the trash."""
    draft.delete(keys.trashed(inode.trashed, ino))
    draft.state.trashed -= 1
    return replace(inode, trashed=0)


def set_trash(draft: Draft, command: SetTrash) -> Done:
    """Apply `SetTrash`."""
    draft.state.trash_s = max(0, command.keep_s)
    return Done()


def empty(draft: Draft, command: EmptyTrash) -> Emptied:
    """Apply `EmptyTrash`."""
    wanted = list(command.inos)
    if command.before_ns:
        for thrown in listing(draft, b"", EMPTIED_MAX):
            if thrown.stamp >= command.before_ns:
                break
            wanted.append(thrown.ino)
    gone: list[int] = []
    for ino in wanted[:EMPTIED_MAX]:
        inode = draft.find(ino)
        if inode is not None and inode.trashed:
            draft.set_inode(ino, take_out(draft, ino, inode))
            draft.set_orphan(ino)
            gone.append(ino)
    return Emptied(inos=tuple(gone))


def listing(kv: Reader, after: bytes, limit: int) -> Iterator[Thrown]:
    """Yield what lies in the trash, oldest first; `after` is the key of the last one seen."""
    start = after + b"\0" if after else b"y"
    for count, (key, value) in enumerate(kv.scan(start, prefix_end(b"y"))):
        if count >= limit:
            return
        record = TRASHED.decode(value)
        yield Thrown(keys.number_at(key, 1), keys.number_at(key, 9), record.parent, record.name)


def is_due(kv: Reader, now_ns: int) -> int:
    """Give the stamp before which what lies in the trash is to go, if anything is; else 0."""
    value = kv.get(keys.STATE)
    if value is None:
        return 0
    state = STATE.decode(value)
    before_ns = now_ns - state.trash_s * 10**9
    oldest = next(listing(kv, b"", 1), None) if state.trashed else None
    return before_ns if oldest is not None and oldest.stamp < before_ns else 0
