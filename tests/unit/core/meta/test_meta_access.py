"""Who may do what: operation, condition, expected errno, at the shard and at the rules."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

import pytest

from cfs.core.api.meta import (
    Attr,
    Caller,
    Create,
    Link,
    MakeOrphan,
    RemoveXattr,
    Rename,
    Rmdir,
    SetAttr,
    SetXattr,
    Unlink,
)
from cfs.core.errors import FsError, from_wire
from cfs.core.ids import ROOT_INO
from cfs.core.meta import access, acl, read
from tests.model.shard_world import DIR, LNK, REG, World, check

OWNER, MEMBER, SUPPLEMENTARY, STRANGER, ROOT = (
    Caller(10, 20), Caller(11, 20), Caller(12, 30, (20,)), Caller(13, 30), Caller(0, 0),
)  # fmt: skip
CHR, FIFO = 0o020000, 0o010000


class Tree(World):
    """Directory `d` (owner 10, group 20) with file `f` (10, 20), directory `s`, link `l`."""

    def __init__(self, directory: int = 0o755, file: int = 0o644) -> None:
        super().__init__()
        self.d = self.add(b"d", DIR | directory, ROOT_INO)
        self.f = self.add(b"f", REG | file, self.d)
        self.s = self.add(b"s", DIR | 0o755, self.d)
        self.e = self.add(b"e", DIR | 0o777, ROOT_INO)
        self.lnk = self.add(b"l", LNK | 0o777, self.d, target=b"t")

    def add(self, name: bytes, mode: int, parent: int, **more: Any) -> int:
        made = self.op(Create(parent=parent, name=name, mode=mode, uid=10, gid=20, **more))
        return made[0].ino

    def attr(self, ino: int) -> Attr:
        return read.attr(self.kvs[0], ino)

    def says(self, op: Any) -> int:
        """Give the errno of an operation; 0: it is done."""
        result = self.ops(op)[0]
        check(self)
        if result.error is None:
            return 0
        error = from_wire(result.error)
        assert isinstance(error, FsError)
        return error.errno


def new(tree: Tree, caller: Caller, mode: int = REG | 0o644, **more: Any) -> Create:
    return Create(
        parent=tree.d, name=b"n", mode=mode, uid=more.pop("uid", caller.uid),
        gid=more.pop("gid", caller.gid), caller=caller, **more,
    )  # fmt: skip


NAMES = {
    "create": new,
    "mkdir": lambda t, c: new(t, c, DIR | 0o755),
    "symlink": lambda t, c: new(t, c, LNK | 0o777, target=b"t"),
    "fifo": lambda t, c: new(t, c, FIFO | 0o644),
    "unnamed": lambda t, c: MakeOrphan(
        parent=t.d, mode=REG | 0o600, uid=c.uid, gid=c.gid, caller=c
    ),
    "link": lambda t, c: Link(ino=t.f, parent=t.d, name=b"n", caller=c),
    "unlink": lambda t, c: Unlink(parent=t.d, name=b"f", caller=c),
    "rmdir": lambda t, c: Rmdir(parent=t.d, name=b"s", caller=c),
    "rename in": lambda t, c: Rename(
        parent=t.d, name=b"f", new_parent=t.d, new_name=b"n", caller=c
    ),
    "rename out": lambda t, c: Rename(
        parent=t.d, name=b"f", new_parent=t.e, new_name=b"n", caller=c
    ),
}


@pytest.mark.parametrize("operation", list(NAMES))
@pytest.mark.parametrize(
    ("mode", "caller", "number"),
    [
        (0o700, OWNER, 0),
        (0o700, ROOT, 0),
        (0o700, MEMBER, errno.EACCES),
        (0o770, MEMBER, 0),
        (0o770, SUPPLEMENTARY, 0),
        (0o770, STRANGER, errno.EACCES),
        (0o777, STRANGER, 0),
        (0o707, MEMBER, errno.EACCES),  # its class says no, whatever others may
        (0o755, MEMBER, errno.EACCES),
        (0o766, MEMBER, errno.EACCES),  # write without search
        (0o077, OWNER, errno.EACCES),
    ],
)
def test_names_need_write_and_search(
    operation: str, mode: int, caller: Caller, number: int
) -> None:
    tree = Tree(mode)
    assert tree.says(NAMES[operation](tree, caller)) == number


@pytest.mark.parametrize("operation", ["unlink", "rmdir", "rename in", "rename out"])
@pytest.mark.parametrize(
    ("caller", "number"),
    [(OWNER, 0), (ROOT, 0), (MEMBER, errno.EPERM), (STRANGER, errno.EPERM)],
)
def test_in_a_sticky_directory_only_owners_remove(
    operation: str, caller: Caller, number: int
) -> None:
    tree = Tree(0o1777)
    assert tree.says(NAMES[operation](tree, caller)) == number


def test_in_a_sticky_directory_of_others_ones_own_may_go() -> None:
    tree = Tree(0o1777)
    assert tree.says(new(tree, STRANGER)) == 0
    assert tree.says(Unlink(parent=tree.d, name=b"n", caller=MEMBER)) == errno.EPERM
    over = Rename(parent=tree.d, name=b"n", new_parent=tree.d, new_name=b"f", caller=STRANGER)
    assert tree.says(over) == errno.EPERM  # what would be replaced is another's
    assert tree.says(Unlink(parent=tree.d, name=b"n", caller=STRANGER)) == 0


def test_a_name_that_may_not_be_looked_up_tells_nothing() -> None:
    tree = Tree(0o700)
    assert tree.says(Unlink(parent=tree.d, name=b"absent", caller=STRANGER)) == errno.EACCES
    tree = Tree(0o755)
    assert tree.says(Unlink(parent=tree.d, name=b"absent", caller=STRANGER)) == errno.ENOENT
    exists = Create(parent=tree.d, name=b"f", mode=REG, uid=13, gid=30, caller=STRANGER)
    assert tree.says(exists) == errno.EEXIST


def test_moving_a_directory_elsewhere_needs_write_on_it() -> None:
    tree = Tree(0o777)
    move = Rename(parent=tree.d, name=b"s", new_parent=tree.e, new_name=b"s", caller=MEMBER)
    assert tree.says(move) == errno.EACCES
    stay = Rename(parent=tree.d, name=b"s", new_parent=tree.d, new_name=b"t", caller=MEMBER)
    assert tree.says(stay) == 0


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({"mode": CHR | 0o666}, errno.EPERM),
        ({"uid": 10}, errno.EPERM),
        ({"gid": 20}, errno.EPERM),
        ({}, 0),
    ],
)
def test_what_is_made_is_its_makers_and_no_device(more: dict[str, int], number: int) -> None:
    tree = Tree(0o777)
    assert tree.says(new(tree, STRANGER, **more)) == number


@pytest.mark.parametrize(
    ("change", "caller", "number"),
    [
        ({"mode": 0o600}, OWNER, 0),
        ({"mode": 0o600}, ROOT, 0),
        ({"mode": 0o600}, MEMBER, errno.EPERM),
        ({"uid": 11}, OWNER, errno.EPERM),
        ({"uid": 10}, OWNER, 0),
        ({"uid": 11}, ROOT, 0),
        ({"uid": 10}, MEMBER, errno.EPERM),
        ({"gid": 20}, OWNER, 0),
        ({"gid": 21}, OWNER, errno.EPERM),
        ({"gid": 21}, Caller(10, 20, (21,)), 0),
        ({"gid": 20}, MEMBER, errno.EPERM),
        ({"size": 0}, OWNER, 0),
        ({"size": 0}, MEMBER, errno.EACCES),
        ({"size": 0, "mtime_ns": 5, "now": True}, MEMBER, errno.EACCES),
        ({"atime_ns": 5, "mtime_ns": 5}, OWNER, 0),
        ({"atime_ns": 5, "mtime_ns": 5}, MEMBER, errno.EPERM),
        ({"atime_ns": 5, "mtime_ns": 5, "now": True}, MEMBER, errno.EACCES),
        ({"drop_ids": True}, MEMBER, 0),
    ],
)
def test_attributes(change: dict[str, Any], caller: Caller, number: int) -> None:
    tree = Tree()
    assert tree.says(SetAttr(ino=tree.f, caller=caller, **change)) == number


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"size": 7}, 0),
        ({"size": 7, "mtime_ns": 5, "now": True}, 0),
        ({"atime_ns": 5, "mtime_ns": 5, "now": True}, 0),
        ({"atime_ns": 5, "mtime_ns": 5}, errno.EPERM),
        ({"atime_ns": 5, "now": True}, errno.EPERM),  # to leave the other is explicit
        ({"mode": 0o600}, errno.EPERM),
    ],
)
def test_who_may_write_may_truncate_and_touch(change: dict[str, Any], number: int) -> None:
    tree = Tree(file=0o666)
    assert tree.says(SetAttr(ino=tree.f, caller=STRANGER, **change)) == number


@pytest.mark.parametrize(
    ("before", "change", "caller", "after"),
    [
        (0o6777, {"uid": 10}, ROOT, 0o0777),
        (0o6767, {"gid": 20}, OWNER, 0o2767),  # without group execution it means locking
        (0o6777, {"drop_ids": True}, STRANGER, 0o0777),
        (0o6777, {"size": 0}, ROOT, 0o6777),
        (0o0777, {"mode": 0o2755}, OWNER, 0o2755),
        (0o0777, {"mode": 0o2755}, Caller(10, 99), 0o0755),
        (0o0777, {"mode": 0o2755}, Caller(10, 99, (20,)), 0o2755),
        (0o0777, {"mode": 0o4755}, Caller(10, 99), 0o4755),
        (0o0777, {"mode": 0o2755}, None, 0o2755),
    ],
)
def test_set_id_bits(
    before: int, change: dict[str, Any], caller: Caller | None, after: int
) -> None:
    tree = Tree(file=before)
    assert tree.says(SetAttr(ino=tree.f, caller=caller, **change)) == 0
    assert tree.attr(tree.f).mode & 0o7777 == after


def test_a_directory_keeps_its_set_id_bits() -> None:
    tree = Tree(0o6777)
    assert tree.says(SetAttr(ino=tree.d, uid=10, gid=20, caller=ROOT)) == 0
    assert tree.attr(tree.d).mode & 0o7777 == 0o6777


@pytest.mark.parametrize(
    ("on", "name", "caller", "number"),
    [
        ("f", b"user.a", OWNER, 0),
        ("f", b"user.a", MEMBER, errno.EACCES),
        ("d", b"user.a", OWNER, 0),
        ("lnk", b"user.a", OWNER, errno.EPERM),
        ("f", b"trusted.a", OWNER, errno.EPERM),
        ("f", b"trusted.a", ROOT, 0),
        ("f", b"security.a", OWNER, errno.EPERM),
        ("f", b"security.a", None, 0),
        ("f", b"nonsense", OWNER, errno.EOPNOTSUPP),
        ("f", acl.ACCESS, OWNER, 0),
        ("f", acl.ACCESS, MEMBER, errno.EPERM),
        ("f", acl.DEFAULT, OWNER, errno.EACCES),
        ("d", acl.DEFAULT, OWNER, 0),
        ("lnk", acl.ACCESS, OWNER, errno.EOPNOTSUPP),
    ],
)
def test_extended_attributes(on: str, name: bytes, caller: Caller | None, number: int) -> None:
    tree = Tree()
    ino = getattr(tree, on)
    value = acl.to_xattr(acl.Acl(owner=7, group=5, other=0, mask=5, users=((13, 7),)))
    assert tree.says(SetXattr(ino=ino, name=name, value=value, caller=caller)) == number
    if number == 0:
        refused = errno.EACCES if name == b"user.a" else errno.EPERM
        assert tree.says(RemoveXattr(ino=ino, name=name, caller=STRANGER)) == refused
        assert tree.says(RemoveXattr(ino=ino, name=name, caller=caller)) == 0
        assert tree.says(RemoveXattr(ino=ino, name=name, caller=caller)) == errno.ENODATA


def test_user_attributes_of_a_sticky_directory_are_its_owners() -> None:
    tree = Tree(0o1777)
    op = SetXattr(ino=tree.d, name=b"user.a", value=b"", caller=STRANGER)
    assert tree.says(op) == errno.EPERM


def test_an_access_list_is_the_mode_too() -> None:
    tree = Tree(file=0o4640)
    value = acl.to_xattr(acl.Acl(owner=6, group=4, other=0, mask=6, users=((13, 7),)))
    assert tree.says(SetXattr(ino=tree.f, name=acl.ACCESS, value=value)) == 0
    attr = tree.attr(tree.f)
    assert attr.mode & 0o7777 == 0o4660
    assert access.permits(attr, STRANGER, access.WRITE)
    assert not access.permits(attr, STRANGER, access.SEARCH)
    assert not access.permits(attr, MEMBER, access.WRITE)
    assert tree.says(SetAttr(ino=tree.f, mode=0o640)) == 0
    attr = tree.attr(tree.f)
    assert not access.permits(attr, STRANGER, access.WRITE)  # the mask
    assert access.permits(attr, STRANGER, access.READ)
    plain = acl.to_xattr(acl.Acl(owner=6, group=0, other=0))
    assert tree.says(SetXattr(ino=tree.f, name=acl.ACCESS, value=plain)) == 0
    assert (tree.attr(tree.f).mode & 0o777, tree.attr(tree.f).acl) == (0o600, b"")


def test_a_default_list_is_inherited_and_the_umask_is_not_looked_at() -> None:
    tree = Tree(0o777)
    default = acl.Acl(owner=7, group=7, other=5, mask=7, users=((13, 7),))
    value = acl.to_xattr(default)
    assert tree.says(SetXattr(ino=tree.d, name=acl.DEFAULT, value=value)) == 0
    for name, kind, asked, mode in (
        (b"file", REG, 0o664, 0o664),
        (b"dir", DIR, 0o775, 0o775),
        (b"fifo", FIFO, 0o600, 0o600),
    ):
        op = Create(parent=tree.d, name=name, mode=kind | asked, uid=1, gid=1, umask=0o077)
        attr = tree.op(op)[0]
        assert attr.mode & 0o777 == mode
        assert acl.of_mode(attr.mode, attr.acl).users == ((13, 7),)
        assert bool(attr.default_acl) is (kind == DIR)
    link = Create(
        parent=tree.d, name=b"link", mode=LNK | 0o777, uid=1, gid=1, target=b"t", umask=0o077
    )
    attr = tree.op(link)[0]
    assert (attr.mode & 0o777, attr.acl, attr.default_acl) == (0o777, b"", b"")
    op = Create(parent=tree.e, name=b"n", mode=REG | 0o666, uid=1, gid=1, umask=0o027)
    assert tree.op(op)[0].mode & 0o777 == 0o640


def test_a_setgid_directory_passes_its_group_on() -> None:
    tree = Tree(0o2777)
    made = tree.op(new(tree, STRANGER, REG | 0o2755))[0]
    assert (made.gid, made.mode & 0o7777) == (20, 0o755)  # not for a group one is not in
    made = tree.op(
        Create(parent=tree.d, name=b"m", mode=REG | 0o2755, uid=12, gid=30, caller=SUPPLEMENTARY)
    )[0]
    assert (made.gid, made.mode & 0o7777) == (20, 0o2755)
    made = tree.op(
        Create(parent=tree.d, name=b"o", mode=DIR | 0o755, uid=13, gid=30, caller=STRANGER)
    )[0]
    assert (made.gid, made.mode & 0o7777) == (20, 0o2755)


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        (os.O_RDONLY, access.READ),
        (os.O_WRONLY, access.WRITE),
        (os.O_RDWR, access.READ | access.WRITE),
        (os.O_RDONLY | os.O_TRUNC, access.READ | access.WRITE),
        (os.O_RDONLY | 0x20, access.SEARCH),
    ],
)
def test_what_open_wants(flags: int, want: int) -> None:
    assert access.wanted(flags) == want


def test_root_executes_only_what_somebody_may() -> None:
    tree = Tree(0o000, 0o644)
    assert not access.permits(tree.attr(tree.f), ROOT, access.SEARCH)
    assert access.permits(tree.attr(tree.f), ROOT, access.READ | access.WRITE)
    assert access.permits(tree.attr(tree.d), ROOT, access.SEARCH)


@pytest.mark.parametrize(
    ("name", "caller", "number"),
    [
        (b"user.a", STRANGER, errno.EACCES),
        (b"trusted.a", OWNER, errno.ENODATA),
        (b"security.capability", STRANGER, 0),
        (acl.ACCESS, STRANGER, 0),
        (b"user.a", None, 0),
        (b"trusted.a", ROOT, 0),
    ],
)
def test_reading_extended_attributes(name: bytes, caller: Caller | None, number: int) -> None:
    there = Tree(file=0o640)
    with pytest.raises(FsError) if number else contextlib.nullcontext() as refused:
        access.may_get_xattr(there.attr(there.f), name, caller)
    assert number == (refused.value.errno if refused is not None else 0)
