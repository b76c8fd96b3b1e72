"""Callers: groups read once a second, root squashed; narrowed tables."""

from __future__ import annotations

import os
import struct

import pytest

from cfs.core.api.meta import Caller
from cfs.core.errors import FsError
from cfs.fs.gate.callers import GROUPS_MAX, NOBODY, REMEMBERED_MAX, Callers, groups_of
from cfs.fs.gate.fuse_inodes import Inodes
from cfs.fs.gate.kernel.message import Request
from cfs.fs.gate.kernel.narrowed import confined, read_only
from cfs.fs.gate.kernel.opcodes import LAYOUTS, Opcode
from cfs.fs.gate.kernel.replies import DONE, Answer


def test_groups_of_this_process() -> None:
    assert groups_of(os.getpid()) == tuple(os.getgroups())[:GROUPS_MAX]
    assert groups_of(0) == groups_of(1 << 30) == ()


def test_groups_are_remembered_for_a_second() -> None:
    now, asked = 0.0, []

    def groups(pid: int) -> tuple[int, ...]:
        asked.append(pid)
        return (pid,)

    callers = Callers(groups=groups, now=lambda: now)
    assert callers.of(0, 0, 7) is None
    assert callers.of(1, 2, 7) == Caller(1, 2, (7,))
    assert callers.of(1, 2, 7) == Caller(1, 2, (7,))
    assert asked == [7]
    assert callers.of(3, 2, 7) == Caller(3, 2, (7,))  # another user: it changed who it is
    now = 1.5
    callers.of(1, 2, 7)
    assert asked == [7, 7, 7]
    assert callers.of(1, 2, 0) == Caller(1, 2)  # a process that is not visible
    for pid in range(2 * REMEMBERED_MAX):
        callers.of(1, 2, pid + 8)
    assert len(callers._known) <= REMEMBERED_MAX


def test_a_squashed_root_is_nobody_and_root_group_too() -> None:
    callers = Callers(squash=True, groups=lambda pid: (0, 5))
    assert callers.of(0, 0, 7) == Caller(NOBODY, NOBODY)
    assert callers.of(1, 0, 7) == Caller(1, NOBODY, (5,))


def request_of(opcode: Opcode, node: int, *fields: int, names: tuple[bytes, ...] = ()) -> Request:
    made = Request(opcode, 1, node, 0, 0, 0)
    made.fields, made.names = fields, names
    return made


def echo(request: Request) -> Answer:
    return struct.pack("=Q", request.node) + bytes(request.fields[:1])


TABLE = dict.fromkeys(LAYOUTS, echo) | {Opcode.GETATTR: echo, Opcode.OPEN: echo}


def test_a_confined_table_serves_what_was_given_by_name() -> None:
    inodes = Inodes(root=77)
    inodes.looked_up(80)
    table = confined(TABLE, 77, inodes)
    assert table[Opcode.GETATTR](request_of(Opcode.GETATTR, 1)) == struct.pack("=Q", 77)
    assert table[Opcode.GETATTR](request_of(Opcode.GETATTR, 80)) == struct.pack("=Q", 80)
    moved = request_of(Opcode.RENAME, 80, 1, names=(b"a", b"b"))
    table[Opcode.RENAME](moved)
    assert moved.fields == (77,)
    for bad in (
        request_of(Opcode.GETATTR, 81),
        request_of(Opcode.LINK, 80, 81, names=(b"n",)),
        request_of(Opcode.RENAME2, 80, 81, 0, 0, names=(b"a", b"b")),
        request_of(Opcode.LOOKUP, 80, names=(b"..",)),
        request_of(Opcode.LOOKUP, 81, names=(b".",)),
    ):
        with pytest.raises(FsError, match="ESTALE"):
            table[bad.opcode](bad)
    inodes.forget([(80, 1)])
    with pytest.raises(FsError, match="ESTALE"):
        table[Opcode.GETATTR](request_of(Opcode.GETATTR, 80))


def test_a_read_only_table_opens_to_read_alone() -> None:
    table = read_only(TABLE)
    assert table[Opcode.OPEN](request_of(Opcode.OPEN, 5, os.O_RDONLY, 0)) != DONE
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(FsError, match="EROFS"):
            table[Opcode.OPEN](request_of(Opcode.OPEN, 5, flags, 0))
    for opcode in (Opcode.MKDIR, Opcode.WRITE, Opcode.SETXATTR, Opcode.RENAME2, Opcode.FALLOCATE):
        with pytest.raises(FsError, match="EROFS"):
            table[opcode](request_of(opcode, 5))
    assert table[Opcode.LOOKUP](request_of(Opcode.LOOKUP, 5, names=(b"n",))) is not None
