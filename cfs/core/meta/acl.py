"""POSIX access control lists: their two formats, and what a new inode inherits.

An inode's access list is kept beside its mode, and only what the mode does not say: the mode's
owner and other bits are those entries, its group bits are the *mask*. So a chmod changes the mask
by itself, and a list that says no more than a mode is not kept at all. A directory's default list
is kept whole.

    stored    u8 owner, u8 group, u8 other, u8 mask (8: none); then an entry each of five bytes:
              u8 (0 user, 8 group) | permissions, u32 big-endian id. In an access list owner, other
              and mask are 0: the mode has them. Empty bytes: no list
    xattr     the kernel's `posix_acl_xattr`: u32 version 2; u16 tag, u16 permissions, u32 id each,
              little endian, in the order of the tags

The rules are those of acl(5) and of Linux (`fs/posix_acl.c`).
"""

from __future__ import annotations

import errno
import stat
from struct import Struct
from struct import error as struct_error

import msgspec

from cfs.core.errors import FsError, Malformed

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = frozenset({ACCESS, DEFAULT})
ENTRIES_MAX = 511
"""Entries of a list: what fits the page that Linux gives FUSE for it."""

_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_NO_MASK = 8
_GROUP_BIT = 8
_XATTR_HEAD = Struct("<I")
_XATTR_ENTRY = Struct("<HHI")
_HEAD = Struct(">BBBB")
_ENTRY = Struct(">BI")


class Acl(msgspec.Struct, frozen=True, kw_only=True):
    """A whole list; `users` and `groups` are `(id, permissions)`."""

    owner: int
    group: int
    other: int
    mask: int | None = None
    users: tuple[tuple[int, int], ...] = ()
    groups: tuple[tuple[int, int], ...] = ()

    @property
    def extended(self) -> bool:
        """Tell whether it says more than a mode can."""
        return self.mask is not None

    @property
    def bits(self) -> int:
        """The nine permission bits of a mode that it amounts to."""
        middle = self.group if self.mask is None else self.mask
        return self.owner << 6 | middle << 3 | self.other


# --- stored --------------------------------------------------------------------------------------


def decode(stored: bytes) -> Acl:
    """Read a stored list. Raises `Malformed`."""
    try:
        owner, group, other, mask = _HEAD.unpack_from(stored)
        users: list[tuple[int, int]] = []
        groups: list[tuple[int, int]] = []
        for what, number in _ENTRY.iter_unpack(stored[_HEAD.size :]):
            (groups if what & _GROUP_BIT else users).append((number, what & 7))
    except struct_error as error:
        raise Malformed(f"a stored access list does not decode: {error}") from error
    return Acl(
        owner=owner, group=group, other=other, mask=None if mask & _NO_MASK else mask,
        users=tuple(users), groups=tuple(groups),
    )  # fmt: skip


def of_mode(mode: int, stored: bytes) -> Acl:
    """Give the access list of an inode: its mode, and what is kept beside it."""
    owner, middle, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    if not stored:
        return Acl(owner=owner, group=middle, other=other)
    kept = decode(stored)
    return Acl(
        owner=owner, group=kept.group, other=other, mask=middle, users=kept.users,
        groups=kept.groups,
    )  # fmt: skip


def beside_mode(acl: Acl) -> bytes:
    """Give what is to be kept of an access list beside the mode."""
    if not acl.extended:
        return b""
    return _HEAD.pack(0, acl.group, 0, 0) + _entries(acl)


def whole(acl: Acl) -> bytes:
    """Give what is kept of a default list: all of it."""
    mask = _NO_MASK if acl.mask is None else acl.mask
    return _HEAD.pack(acl.owner, acl.group, acl.other, mask) + _entries(acl)


def _entries(acl: Acl) -> bytes:
    users = [_ENTRY.pack(bits, number) for number, bits in acl.users]
    groups = [_ENTRY.pack(_GROUP_BIT | bits, number) for number, bits in acl.groups]
    return b"".join(users + groups)


# --- the kernel's --------------------------------------------------------------------------------


def from_xattr(value: bytes) -> Acl | None:
    """Read the value of the extended attribute; None: it says that there is no list.

    Raises EINVAL (no valid list), EOPNOTSUPP (another version), E2BIG.
    """
    if not value:
        return None
    if len(value) < _XATTR_HEAD.size or (len(value) - _XATTR_HEAD.size) % _XATTR_ENTRY.size:
        raise FsError(errno.EINVAL, f"an access list of {len(value)} bytes")
    if _XATTR_HEAD.unpack_from(value)[0] != _VERSION:
        raise FsError(errno.EOPNOTSUPP, "an access list of another version than 2")
    count = (len(value) - _XATTR_HEAD.size) // _XATTR_ENTRY.size
    if count > ENTRIES_MAX:
        raise FsError(errno.E2BIG, f"an access list of {count} entries, at most {ENTRIES_MAX}")
    if not count:
        return None
    found: dict[int, list[tuple[int, int]]] = {}
    last = 0
    for tag, bits, number in _XATTR_ENTRY.iter_unpack(value[_XATTR_HEAD.size :]):
        if bits > 7 or tag < last:
            raise FsError(errno.EINVAL, "an access list's entries are out of order or range")
        last = tag
        found.setdefault(tag, []).append((number, bits))
    users, groups = found.pop(_USER, []), found.pop(_GROUP, [])
    single = {tag: entries[0][1] for tag, entries in found.items() if len(entries) == 1}
    needed = {_USER_OBJ, _GROUP_OBJ, _OTHER} | ({_MASK} if users or groups else set())
    if len(single) != len(found) or not needed <= single.keys() <= needed | {_MASK}:
        raise FsError(errno.EINVAL, "an access list lacks an entry, or has one twice")
    if any(number == _NO_ID for number, _ in users + groups):
        raise FsError(errno.EINVAL, "an access list names no user or group")
    return Acl(
        owner=single[_USER_OBJ], group=single[_GROUP_OBJ], other=single[_OTHER],
        mask=single.get(_MASK), users=tuple(users), groups=tuple(groups),
    )  # fmt: skip


def to_xattr(acl: Acl) -> bytes:
    """Give the value of the extended attribute."""
    rows = [(_USER_OBJ, acl.owner, _NO_ID)]
    rows += [(_USER, bits, number) for number, bits in acl.users]
    rows.append((_GROUP_OBJ, acl.group, _NO_ID))
    rows += [(_GROUP, bits, number) for number, bits in acl.groups]
    if acl.mask is not None:
        rows.append((_MASK, acl.mask, _NO_ID))
    rows.append((_OTHER, acl.other, _NO_ID))
    return _XATTR_HEAD.pack(_VERSION) + b"".join(_XATTR_ENTRY.pack(*row) for row in rows)


def shown(name: bytes, mode: int, access: bytes, default: bytes) -> bytes | None:
    """Give the value of one of the two attributes of an inode; None: it has no such list."""
    if name == ACCESS:
        return to_xattr(of_mode(mode, access)) if access else None
    return to_xattr(decode(default)) if default else None


# --- inheriting ----------------------------------------------------------------------------------


def inherit(default: bytes, mode: int) -> tuple[int, bytes]:
    """Give mode and stored access list of what is made in a directory with a default list.

    The mode asked for takes permissions away from the list; the umask is not looked at.
    """
    acl = decode(default)
    owner, other = acl.owner & mode >> 6 & 7, acl.other & mode
    group, mask = acl.group, acl.mask
    if mask is None:
        group &= mode >> 3
    else:
        mask &= mode >> 3
    made = Acl(owner=owner, group=group, other=other, mask=mask, users=acl.users, groups=acl.groups)
    return mode & ~0o777 | made.bits, beside_mode(made)


def settable(kind: int, name: bytes, *, clears: bool) -> None:
    """Refuse a list where there can be none. Raises EOPNOTSUPP (symlink), EACCES (no directory)."""
    if kind == stat.S_IFLNK:
        raise FsError(errno.EOPNOTSUPP, "a symbolic link has no access list")
    if name == DEFAULT and kind != stat.S_IFDIR and not clears:
        raise FsError(errno.EACCES, "only a directory has a default access list")
