"""The entries of directories: names in slots under the hash of the name.

A name keeps its slot as long as it exists, so its cookie is stable; a new name takes the lowest
free slot of its hash. Counting entries and links is the caller's: here are only the names.
"""

from __future__ import annotations

import errno

from cfs.core.errors import FsError
from cfs.core.kv import Reader
from cfs.core.meta import keys
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import ENTRIES, Entries, Slot

NAME_BYTES_MAX = 255
SNAPSHOTS = b".snapshots"
"""In every directory, though none holds it: what snapshots show of the directory."""
RESERVED = frozenset({b".", b"..", SNAPSHOTS})


def check_name(name: bytes) -> None:
    """Refuse what cannot name a new entry. Raises ENAMETOOLONG, EINVAL, EEXIST (`RESERVED`)."""
    if len(name) > NAME_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG, f"name has {len(name)} bytes, at most {NAME_BYTES_MAX}")
    if not name or b"/" in name or b"\0" in name:
        raise FsError(errno.EINVAL, f"{name!r} is no name")
    if name in RESERVED:
        raise FsError(errno.EEXIST, f"{name!r} is in every directory")


def find(kv: Reader, parent: int, name: bytes) -> Slot | None:
    """Find a name."""
    value = kv.get(keys.entries(parent, keys.name_hash(name)))
    if value is None:
        return None
    for slot in ENTRIES.decode(value).slots:
        if slot.name == name:
            return slot
    return None


def require(kv: Reader, parent: int, name: bytes) -> Slot:
    """Find a name. Raises ENOENT, ENAMETOOLONG."""
    if len(name) > NAME_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG, f"name has {len(name)} bytes, at most {NAME_BYTES_MAX}")
    slot = find(kv, parent, name)
    if slot is None:
        raise FsError(errno.ENOENT, f"{name!r} is not in directory {parent}")
    return slot


def set_entry(draft: Draft, parent: int, name: bytes, ino: int, kind: int) -> None:
    """Let a name be this inode: in the slot it has, else in the lowest free one.

    Raises ENOSPC when sixteen other names have the same 58-bit hash.
    """
    key = keys.entries(parent, keys.name_hash(name))
    value = draft.get(key)
    slots = () if value is None else ENTRIES.decode(value).slots
    number = next((s.slot for s in slots if s.name == name), None)
    if number is None:
        taken = {s.slot for s in slots}
        number = next((n for n in range(keys.SLOTS_MAX) if n not in taken), None)
        if number is None:
            raise FsError(errno.ENOSPC, f"no slot left for names that hash like {name!r}")
    others = [s for s in slots if s.slot != number]
    others.append(Slot(number, name, ino, kind))
    if len(others) > 1:
        others.sort(key=_number)
    draft.put(key, ENTRIES.encode(Entries(tuple(others)), draft.state.epoch))


def remove_entry(draft: Draft, parent: int, name: bytes) -> None:
    """Remove a name that is there."""
    key = keys.entries(parent, keys.name_hash(name))
    value = draft.get(key)
    assert value is not None
    others = tuple(s for s in ENTRIES.decode(value).slots if s.name != name)
    if others:
        draft.put(key, ENTRIES.encode(Entries(others), draft.state.epoch))
    else:
        draft.delete(key)


def _number(slot: Slot) -> int:
    return slot.slot
