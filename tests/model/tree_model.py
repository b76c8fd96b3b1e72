"""A POSIX tree in dictionaries: what a shard must be indistinguishable from."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

LINK_MAX = 65_000


@dataclass
class Node:
    """An inode of the model; `data` spells a file out byte by byte."""

    kind: str
    mode: int
    uid: int
    gid: int
    entries: dict[bytes, Node] = field(default_factory=dict)
    parent: Node | None = None
    nlink: int = 1
    data: list[tuple[int, int] | None] = field(default_factory=list)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    removed: bool = False
    linkable: bool = False

    @property
    def size(self) -> int:
        return len(self.entries) if self.kind == "dir" else len(self.data)

    @property
    def links(self) -> int:
        if self.kind != "dir":
            return self.nlink
        if self.removed:
            return 0
        return 2 + sum(n.kind == "dir" for n in self.entries.values())


class Refusal(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


def directory(node: Node) -> Node:
    if node.kind != "dir":
        raise Refusal(errno.ENOTDIR)
    if node.removed:
        raise Refusal(errno.ENOENT)
    return node


def create(parent: Node, name: bytes, kind: str, mode: int, uid: int, gid: int) -> Node:
    directory(parent)
    if name in parent.entries:
        raise Refusal(errno.EEXIST)
    if parent.mode & 0o2000:
        gid = parent.gid
        mode |= 0o2000 if kind == "dir" else 0
    node = Node(kind, mode, uid, gid, parent=parent if kind == "dir" else None)
    parent.entries[name] = node
    return node


def unlink(parent: Node, name: bytes) -> Node:
    node = _entry(parent, name)
    if node.kind == "dir":
        raise Refusal(errno.EISDIR)
    del parent.entries[name]
    node.nlink -= 1
    return node


def rmdir(parent: Node, name: bytes) -> Node:
    node = _entry(parent, name)
    if node.kind != "dir":
        raise Refusal(errno.ENOTDIR)
    if node.entries:
        raise Refusal(errno.ENOTEMPTY)
    del parent.entries[name]
    node.removed = True
    return node


def link(node: Node, parent: Node, name: bytes) -> None:
    directory(parent)
    if node.kind == "dir":
        raise Refusal(errno.EPERM)
    if name in parent.entries:
        raise Refusal(errno.EEXIST)
    if not node.nlink and not node.linkable:
        raise Refusal(errno.ENOENT)
    node.linkable = False
    parent.entries[name] = node
    node.nlink += 1


def rename(old: Node, name: bytes, new: Node, new_name: bytes, flags: int) -> Node | None:
    """Give the inode that was replaced, if any."""
    directory(old), directory(new)
    source = _entry(old, name)
    there = new.entries.get(new_name)
    if flags == 1 and there is not None:
        raise Refusal(errno.EEXIST)
    if flags == 2:
        if there is None:
            raise Refusal(errno.ENOENT)
        if source.kind == "dir" and _above(source, new):
            raise Refusal(errno.EINVAL)
        if there.kind == "dir" and _above(there, old):
            raise Refusal(errno.EINVAL)
        old.entries[name], new.entries[new_name] = there, source
        _settle(source, new), _settle(there, old)
        return None
    if there is source:
        return None
    if source.kind == "dir" and _above(source, new):
        raise Refusal(errno.EINVAL)
    if there is not None:
        if source.kind == "dir" and there.kind != "dir":
            raise Refusal(errno.ENOTDIR)
        if source.kind != "dir" and there.kind == "dir":
            raise Refusal(errno.EISDIR)
        if there.entries:
            raise Refusal(errno.ENOTEMPTY)
        there.nlink -= 1
        there.removed = there.kind == "dir"
    del old.entries[name]
    new.entries[new_name] = source
    _settle(source, new)
    return there


def write(node: Node, offset: int, data: list[tuple[int, int] | None]) -> None:
    resize(node, max(len(node.data), offset + len(data)))
    node.data[offset : offset + len(data)] = data


def copy(source: Node, start: int, target: Node, to: int, length: int) -> None:
    length = min(length, len(source.data) - start)
    if length <= 0:
        return
    if source is target and abs(to - start) < length:
        raise Refusal(errno.EINVAL)
    write(target, to, source.data[start : start + length])


def make_orphan(parent: Node, mode: int, uid: int, gid: int, *, linkable: bool) -> Node:
    directory(parent)
    gid = parent.gid if parent.mode & 0o2000 else gid
    return Node("file", mode, uid, gid, nlink=0, linkable=linkable)


def resize(node: Node, size: int) -> None:
    node.data = node.data[:size] + [None] * (size - len(node.data))


def _settle(node: Node, parent: Node) -> None:
    if node.kind == "dir":
        node.parent = parent


def _above(node: Node, below: Node | None) -> bool:
    while below is not None:
        if below is node:
            return True
        below = below.parent
    return False


def _entry(parent: Node, name: bytes) -> Node:
    node = directory(parent).entries.get(name)
    if node is None:
        raise Refusal(errno.ENOENT)
    return node
