"""What fsck puts right: counts of an inode, names that lead nowhere. Checked again when applied."""

from __future__ import annotations

import stat

from msgspec.structs import replace

from cfs.core.errors import Refused
from cfs.core.meta import keys, links
from cfs.core.meta.commands import DropEntry, Mend
from cfs.core.meta.draft import Draft
from cfs.core.meta.entries import find, remove_entry
from cfs.core.meta.results import Done


def mend(draft: Draft, command: Mend) -> Done:
    """Apply `Mend`. Raises Refused when the inode is not as it was found any more."""
    inode = draft.find(command.ino)
    if inode is None or (inode.nlink, inode.size) != (command.nlink_was, command.size_was):
        raise Refused(f"inode {command.ino} has changed since it was checked")
    size = command.size if stat.S_ISDIR(inode.mode) else inode.size
    draft.set_inode(command.ino, replace(inode, nlink=command.nlink, size=size, hlc=draft.now))
    if not command.nlink:
        draft.set_orphan(command.ino)
    elif draft.get(keys.orphan(command.ino)) is not None:
        draft.delete(keys.orphan(command.ino))
    return Done()


def drop_entry(draft: Draft, command: DropEntry) -> Done:
    """Apply `DropEntry`. Raises Refused when the name leads somewhere else by now."""
    slot = find(draft, command.parent, command.name)
    if slot is None or slot.ino != command.ino:
        raise Refused(f"{command.name!r} in directory {command.parent} has changed meanwhile")
    if draft.is_local(command.ino) and draft.find(command.ino) is not None:
        raise Refused(f"inode {command.ino} exists")
    remove_entry(draft, command.parent, command.name)
    gone = -int(stat.S_ISDIR(slot.kind))
    if draft.find(command.parent) is not None:
        links.change_entries(draft, command.parent, entries=-1, subdirectories=gone)
    return Done()
