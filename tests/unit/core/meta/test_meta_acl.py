"""Access lists: formats, inheritance, and the decision against a naive model of acl(5)."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfs.core.api.meta import Attr, Caller
from cfs.core.errors import FsError, Malformed
from cfs.core.meta import access, acl

BITS = st.integers(0, 7)
IDS = st.integers(1, 4)
NAMED = st.lists(st.tuples(IDS, BITS), max_size=4, unique_by=lambda entry: entry[0]).map(tuple)
CALLERS = st.builds(Caller, uid=IDS, gid=IDS, groups=st.lists(IDS, max_size=3).map(tuple))


@st.composite
def lists(draw: st.DrawFn) -> acl.Acl:
    users, groups = draw(NAMED), draw(NAMED)
    mask = draw(BITS if users or groups else st.none() | BITS)
    return acl.Acl(
        owner=draw(BITS), group=draw(BITS), other=draw(BITS), mask=mask, users=users, groups=groups
    )


def inode(mode: int, uid: int, gid: int, stored: bytes = b"") -> Attr:
    return Attr(
        ino=9, mode=mode, nlink=1, uid=uid, gid=gid, rdev=0, size=0, allocated=0, atime_ns=0,
        mtime_ns=0, ctime_ns=0, btime_ns=0, generation=0, version=1, data_version=1, acl=stored,
    )  # fmt: skip


def naive(made: acl.Acl, uid: int, gid: int, caller: Caller, want: int) -> bool:
    """Acl(5), word by word: "ACCESS CHECK ALGORITHM", with Linux's reading of an empty mask."""
    groups = {caller.gid, *caller.groups}
    mask = 7 if made.mask is None else made.mask
    if caller.uid == uid:
        return made.owner & want == want
    if made.mask == 0:  # Linux does not look at the list then
        return (0 if gid in groups else made.other) & want == want
    matching = [bits for number, bits in made.users if number == caller.uid]
    if matching:
        return matching[0] & mask & want == want
    entries = [(gid, made.group), *made.groups]
    mine = [bits & mask for number, bits in entries if number in groups]
    if mine:
        return any(bits & want == want for bits in mine)
    return made.other & want == want


@given(lists(), IDS, IDS, CALLERS, st.integers(1, 7))
def test_the_decision_is_that_of_acl_5(
    made: acl.Acl, uid: int, gid: int, caller: Caller, want: int
) -> None:
    there = inode(0o100000 | made.bits, uid, gid, acl.beside_mode(made))
    assert access.permits(there, caller, want) is naive(made, uid, gid, caller, want)


@given(lists())
def test_lists_survive_both_formats(made: acl.Acl) -> None:
    assert acl.from_xattr(acl.to_xattr(made)) == made
    assert acl.decode(acl.whole(made)) == made
    assert acl.of_mode(made.bits, acl.beside_mode(made)) == made


@given(lists(), st.integers(0, 0o777))
def test_a_mode_set_later_changes_owner_mask_and_other(made: acl.Acl, mode: int) -> None:
    shown = acl.of_mode(mode, acl.beside_mode(made))
    assert shown.bits == mode
    assert (shown.users, shown.groups) == (made.users, made.groups)
    assert shown.group == (made.group if made.extended else mode >> 3 & 7)


@given(lists(), st.integers(0, 0o7777), st.sampled_from([0o100000, 0o040000]))
def test_what_is_made_gets_the_default_less_what_its_mode_lacks(
    made: acl.Acl, mode: int, kind: int
) -> None:
    after, stored = acl.inherit(acl.whole(made), kind | mode)
    got = acl.of_mode(after, stored)
    assert after & ~0o777 == (kind | mode) & ~0o777
    assert (got.owner, got.other) == (made.owner & mode >> 6, made.other & mode)
    assert (got.users, got.groups) == (made.users, made.groups)
    if made.mask is None:
        assert (got.group, got.mask) == (made.group & mode >> 3, None)
    else:
        assert (got.group, got.mask) == (made.group, made.mask & mode >> 3)


def entries(*rows: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *row) for row in rows)


MINIMAL = ((1, 6, 0), (4, 4, 0), (32, 4, 0))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"abc", errno.EINVAL),
        (entries(*MINIMAL) + b"x", errno.EINVAL),
        (entries(*MINIMAL, version=1), errno.EOPNOTSUPP),
        (entries((1, 8, 0), *MINIMAL[1:]), errno.EINVAL),
        (entries(*MINIMAL[1:]), errno.EINVAL),
        (entries(MINIMAL[0], *MINIMAL), errno.EINVAL),
        (entries(*reversed(MINIMAL)), errno.EINVAL),
        (entries(MINIMAL[0], (2, 7, 5), *MINIMAL[1:]), errno.EINVAL),  # named, and no mask
        (entries(MINIMAL[0], (2, 7, 0xFFFFFFFF), (4, 4, 0), (16, 7, 0), (32, 4, 0)), errno.EINVAL),
        (entries((3, 7, 0), *MINIMAL[1:]), errno.EINVAL),
        (entries(*[(2, 7, n) for n in range(600)]), errno.E2BIG),
    ],
)
def test_what_is_no_list_is_refused(value: bytes, number: int) -> None:
    with pytest.raises(FsError) as refused:
        acl.from_xattr(value)
    assert refused.value.errno == number


def test_no_list_and_damage() -> None:
    assert acl.from_xattr(b"") is None
    assert acl.from_xattr(entries()) is None
    for stored in (b"", b"\0\0", b"\0\0\0\0\1"):
        with pytest.raises(Malformed):
            acl.decode(stored)


def test_lists_are_kept_as_these_bytes() -> None:
    made = acl.Acl(owner=7, group=5, other=1, mask=6, users=((258, 6),), groups=((3, 4),))
    assert acl.beside_mode(made).hex() == "00050000" + "0600000102" + "0c00000003"
    assert acl.whole(made).hex() == "07050106" + "0600000102" + "0c00000003"
    assert acl.whole(acl.Acl(owner=7, group=5, other=1)).hex() == "07050108"
    assert acl.beside_mode(acl.Acl(owner=7, group=5, other=1)) == b""
