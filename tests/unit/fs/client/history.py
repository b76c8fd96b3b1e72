"""Random histories on a small tree: what they do to a model, to a client, and what a shard holds.

A model's file keeps every version of its bytes, because what survives of them is not tied to what
survives of names: only operations on the same file order the two.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from dataclasses import dataclass, field
from typing import Any

import trio

from cfs.core.api.meta import Attr, ExtentKind
from cfs.core.errors import FsError
from cfs.core.meta import read
from cfs.fs.client.files import Files

NAMES = (b"a", b"b", b"c", b"d")
BASES = ((b"w",), (b"w", b"p"), (b"w", b"q"), (b"w", b"p", b"r"))
WEIGHTS = {
    "create": 8, "write": 8, "append": 4, "rename": 6, "link": 3, "unlink": 5, "mkdir": 3,
    "rmdir": 2, "truncate": 2, "chmod": 3, "utimes": 2, "symlink": 1, "fsync": 1, "fsyncdir": 1,
    "list": 1, "read": 3, "stat": 2, "pause": 1,
}  # fmt: skip
ENTRIES = frozenset({"create", "mkdir", "symlink", "rmdir", "unlink", "link", "rename"})
"""Operations that change the entries of directories."""
ATTRIBUTES = frozenset({"truncate", "chmod", "utimes"})
Path = tuple[bytes, ...]


@dataclass(frozen=True)
class Op:
    kind: str
    path: Path = ()
    other: Path = ()
    number: int = 0


@dataclass(eq=False)
class Inode:
    kind: str
    mode: int
    entries: dict[bytes, Inode] = field(default_factory=dict)
    nlink: int = 1
    versions: list[bytes] = field(default_factory=lambda: [b""])
    marks: list[tuple[int, int, bool]] = field(default_factory=list)
    """(operation's place, version, whether it set the version): what orders bytes and names."""


def histories(seed: int, count: int, weights: dict[str, int] = WEIGHTS) -> list[Op]:
    rng = random.Random(seed)
    kinds = rng.choices(list(weights), list(weights.values()), k=count)
    ops = [Op("mkdir", path) for path in BASES]

    def place() -> Path:
        return (*rng.choice(BASES), rng.choice(NAMES))

    for kind in kinds:
        if kind == "read" and ops[-1].kind in {"rename", "chmod", "write", "append", "utimes"}:
            last = ops[-1]
            ops.append(Op(kind, last.other if last.kind == "rename" else last.path))
        elif kind in {"mkdir", "rmdir"} and rng.random() < 0.5:
            ops.append(Op(kind, rng.choice(BASES[1:])))
        else:
            ops.append(Op(kind, place(), place(), rng.randrange(1 << 16)))
    return ops


class Model:
    def __init__(self) -> None:
        self.root = Inode("dir", 0o755)
        self.count = 0

    def find(self, path: Path) -> Inode:
        node = self.root
        for name in path:
            if node.kind != "dir":
                raise FsError(errno.ENOTDIR)
            if name not in node.entries:
                raise FsError(errno.ENOENT)
            node = node.entries[name]
        return node

    def _parent(self, path: Path) -> tuple[Inode, bytes]:
        parent = self.find(path[:-1])
        if parent.kind != "dir":
            raise FsError(errno.ENOTDIR)
        return parent, path[-1]

    def apply(self, op: Op) -> Any:
        """Carry out an operation. Raises FsError."""
        self.count += 1
        return getattr(self, "_" + op.kind)(op)

    def _make(self, op: Op, inode: Inode) -> None:
        parent, name = self._parent(op.path)
        if name in parent.entries:
            raise FsError(errno.EEXIST)
        parent.entries[name] = inode

    def _create(self, op: Op) -> None:
        self._make(op, Inode("file", 0o644))

    def _mkdir(self, op: Op) -> None:
        self._make(op, Inode("dir", 0o755))

    def _symlink(self, op: Op) -> None:
        self._make(op, Inode("link", 0o777))

    def _file(self, path: Path) -> Inode:
        node = self.find(path)
        if node.kind != "file":
            raise FsError(errno.EISDIR if node.kind == "dir" else errno.EINVAL)
        return node

    def _write(self, op: Op) -> None:
        node = self._file(op.path)
        data, offset = content(op), op.number % 300
        old = node.versions[-1].ljust(offset, b"\0")
        node.versions.append(old[:offset] + data + old[offset + len(data) :])

    def _append(self, op: Op) -> None:
        node = self._file(op.path)
        node.versions.append(node.versions[-1] + content(op))

    def _truncate(self, op: Op) -> None:
        node, size = self._file(op.path), op.number % 400 if op.number & 1 else 0
        node.versions.append(node.versions[-1][:size].ljust(size, b"\0"))
        node.marks.append((self.count, len(node.versions) - 1, True))

    def _bound(self, node: Inode) -> None:
        node.marks.append((self.count, len(node.versions) - 1, False))

    def _chmod(self, op: Op) -> None:
        node = self.find(op.path)
        node.mode = op.number & 0o777
        self._bound(node)

    def _utimes(self, op: Op) -> None:
        self._bound(self.find(op.path))

    def _unlink(self, op: Op) -> None:
        parent, name = self._parent(op.path)
        node = self.find(op.path)
        if node.kind == "dir":
            raise FsError(errno.EISDIR)
        del parent.entries[name]
        node.nlink -= 1

    def _rmdir(self, op: Op) -> None:
        parent, name = self._parent(op.path)
        node = self.find(op.path)
        if node.kind != "dir":
            raise FsError(errno.ENOTDIR)
        if node.entries:
            raise FsError(errno.ENOTEMPTY)
        del parent.entries[name]

    def _link(self, op: Op) -> None:
        node = self.find(op.path)
        parent, name = self._parent(op.other)
        if node.kind == "dir":
            raise FsError(errno.EPERM)
        if name in parent.entries:
            raise FsError(errno.EEXIST)
        parent.entries[name] = node
        node.nlink += 1
        self._bound(node)

    def _rename(self, op: Op) -> None:
        old, name = self._parent(op.path)
        new, new_name = self._parent(op.other)
        node = self.find(op.path)
        there = new.entries.get(new_name)
        if there is node:
            return
        if node.kind == "dir" and op.other[: len(op.path)] == op.path:
            raise FsError(errno.EINVAL)
        if there is not None:
            if node.kind == "dir" and there.kind != "dir":
                raise FsError(errno.ENOTDIR)
            if node.kind != "dir" and there.kind == "dir":
                raise FsError(errno.EISDIR)
            if there.kind == "dir" and there.entries:
                raise FsError(errno.ENOTEMPTY)
            there.nlink -= 1
        del old.entries[name]
        new.entries[new_name] = node
        self._bound(node)

    def _fsync(self, op: Op) -> Inode:
        return self._file(op.path)

    def _fsyncdir(self, op: Op) -> Inode:
        return self._parent(op.path)[0]

    def _list(self, op: Op) -> list[bytes]:
        return sorted(self._parent(op.path)[0].entries)

    def _read(self, op: Op) -> bytes:
        return self._file(op.path).versions[-1]

    def _stat(self, op: Op) -> tuple[Any, ...]:
        node = self.find(op.path)
        if node.kind == "dir":
            links = 2 + sum(n.kind == "dir" for n in node.entries.values())
            return "dir", node.mode, links, len(node.entries)
        size = len(node.versions[-1]) if node.kind == "file" else 1
        return node.kind, node.mode, node.nlink, size

    def _pause(self, op: Op) -> None:
        pass

    def shape(self) -> dict[Path, tuple[Any, ...]]:
        """Give every path, what it is, and which paths are the same inode; no bytes."""
        return _shape(self.root)

    def files(self) -> dict[Path, Inode]:
        found: dict[Path, Inode] = {}

        def walk(node: Inode, path: Path) -> None:
            for name, child in node.entries.items():
                if child.kind == "file":
                    found[*path, name] = child
                elif child.kind == "dir":
                    walk(child, (*path, name))

        walk(self.root, ())
        return found


def _shape(root: Inode) -> dict[Path, tuple[Any, ...]]:
    found: dict[Path, tuple[Any, ...]] = {}
    first: dict[int, Path] = {}

    def walk(node: Inode, path: Path) -> None:
        for name in sorted(node.entries):
            child = node.entries[name]
            here = (*path, name)
            same = first.setdefault(id(child), here)
            found[here] = (child.kind, child.mode, same if child.kind != "dir" else ())
            if child.kind == "dir":
                walk(child, here)

    walk(root, ())
    return found


def content(op: Op) -> bytes:
    return bytes([1 + op.number % 255]) * (1 + op.number % 97)


async def perform(files: Files, op: Op) -> Any:
    """Carry out an operation through a client. Raises FsError."""
    path = b"/" + b"/".join(op.path)
    if op.kind == "pause":
        await trio.sleep((op.number % 100) / 100)
        return None
    if op.kind in {"write", "append", "fsync", "read"}:
        return await _with_file(files, op, path)
    if op.kind in {"stat", "chmod", "utimes", "truncate"}:
        attr = await files.walk(path, follow=False)
        return await _on_inode(files, op, attr)
    if op.kind == "link":
        attr = await files.walk(path, follow=False)
        parent = await _directory(files, op.other)
        return await files.link(attr.ino, parent, op.other[-1])
    parent = await _directory(files, op.path)
    name = op.path[-1]
    match op.kind:
        case "create":
            await files.mknod(parent, name, 0o644)
        case "mkdir":
            await files.mkdir(parent, name, 0o755)
        case "symlink":
            await files.symlink(parent, name, b"x")
        case "unlink":
            await files.unlink(parent, name)
        case "rmdir":
            await files.rmdir(parent, name)
        case "rename":
            await files.rename(parent, name, await _directory(files, op.other), op.other[-1])
        case "fsyncdir":
            handle = await files.opendir(parent)
            await files.fsyncdir(handle)
            await files.releasedir(handle)
        case "list":
            listed = await files.list_directory(b"/" + b"/".join(op.path[:-1]))
            return sorted(e.name for e in listed)
    return None


async def _directory(files: Files, path: Path) -> int:
    attr = await files.walk(b"/" + b"/".join(path[:-1]), follow=False)
    if not stat.S_ISDIR(attr.mode):
        raise FsError(errno.ENOTDIR)
    return attr.ino


async def _with_file(files: Files, op: Op, path: bytes) -> Any:
    attr = await files.walk(path, follow=False)
    if not stat.S_ISREG(attr.mode):
        raise FsError(errno.EISDIR if stat.S_ISDIR(attr.mode) else errno.EINVAL)
    flags = os.O_RDWR | (os.O_APPEND if op.kind == "append" else 0)
    fh = await files.open(attr.ino, flags)
    try:
        match op.kind:
            case "read":
                return await files.read(fh, 0, 1 << 20)
            case "fsync":
                await files.fsync(fh)
            case _:
                await files.write(fh, op.number % 300, content(op))
    finally:
        await files.release(fh)
    return None


async def _on_inode(files: Files, op: Op, attr: Attr) -> Any:
    match op.kind:
        case "chmod":
            await files.setattr(attr.ino, mode=op.number & 0o777)
        case "utimes":
            await files.setattr(attr.ino, mtime_ns=10**18 + op.number)
        case "truncate":
            if not stat.S_ISREG(attr.mode):
                raise FsError(errno.EISDIR if stat.S_ISDIR(attr.mode) else errno.EINVAL)
            await files.setattr(attr.ino, size=op.number % 400 if op.number & 1 else 0)
        case "stat":
            return (*_kind(attr.mode), attr.nlink, attr.size)
    return None


def _kind(mode: int) -> tuple[str, int]:
    kinds = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    return kinds[stat.S_IFMT(mode)], stat.S_IMODE(mode)


def stored(state: Any) -> tuple[dict[Path, tuple[Any, ...]], dict[Path, bytes]]:
    """Give the shape of what a shard holds, and the bytes of every file."""
    found: dict[Path, tuple[Any, ...]] = {}
    files: dict[Path, bytes] = {}
    first: dict[int, Path] = {}

    def walk(ino: int, path: Path) -> None:
        entries, end = read.listing(state, ino, 0, 1000)
        assert end
        directories = 0
        for entry in sorted(entries, key=lambda e: e.name):
            assert entry.attr is not None, "a name without an inode"
            here = (*path, entry.name)
            kind, mode = _kind(entry.attr.mode)
            same = first.setdefault(entry.ino, here)
            found[here] = (kind, mode, same if kind != "dir" else ())
            if kind == "dir":
                directories += 1
                assert entry.attr.parent == ino
                walk(entry.ino, here)
            elif kind == "file":
                files[here] = _bytes(state, entry.ino, entry.attr.size)
        attr = read.attr(state, ino)
        assert (attr.size, attr.nlink) == (len(entries), 2 + directories)

    walk(1, ())
    return found, files


def _bytes(state: Any, ino: int, size: int) -> bytes:
    extents, _ = read.layout(state, ino, 0, size, 1 << 30)
    out = bytearray()
    for extent in extents:
        if extent.kind is ExtentKind.HOLE:
            out += bytes(extent.length)
        else:
            assert extent.kind is ExtentKind.INLINE
            out += extent.inline[extent.skip : extent.skip + extent.length]
    assert len(out) == size
    return bytes(out)
