"""The model: a tree with hard links, and what of a sequence may be there after a crash.

Promises (DESIGN, section 1): what survives a client is a prefix of its namespace operations, in its
order; of each file's data operations a prefix; and no new name of a file (link, rename) without the
data written to that file before it; a name that goes needs none. What was synced is in both
prefixes. An operation counts as a whole or not at all. When only servers go, the client repeats:
everything is there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

NAMES = frozenset({"create", "link", "unlink", "rename", "symlink", "mkdir", "rmdir"})
DATA = frozenset({"write", "append", "overwrite", "fallocate", "truncate"})


class Refused(Exception):
    """The operation changes nothing: it fails."""


@dataclasses.dataclass
class Node:
    """An inode of the model."""

    kind: str
    data: bytes = b""
    entries: dict[str, int] = dataclasses.field(default_factory=dict)


Seen = dict[str, tuple[str, str, int]]
"""path → (kind, the first path of the same inode, link count); "" stands for the fixed root."""


class Tree:
    """Names and inodes, with every state they were in."""

    def __init__(self) -> None:
        self.nodes: list[Node] = [Node("d")]
        self.shapes: list[dict[int, dict[str, int]]] = []
        """The entries of every directory: before the sequence, and after each operation."""
        self.versions: dict[int, list[tuple[int, bytes]]] = {}
        """The bytes of every file: (operations done, bytes)."""
        self.touched: list[tuple[int, ...]] = []
        """The inodes that each operation is about; last the one that it names."""
        self.kinds: list[str] = []

    # --- making

    def new_directory(self) -> int:
        return self._new(Node("d"))

    def new_file(self, data: bytes) -> int:
        return self._new(Node("f", data))

    def _new(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def put(self, path: str, ino: int) -> None:
        parent, name = self._parent(path)
        self.nodes[parent].entries[name] = ino

    def find(self, path: str) -> int:
        """Give the inode of a path. Raises Refused."""
        ino = 0
        for name in path.split("/"):
            entries = self.nodes[ino].entries
            if name not in entries:
                raise Refused(path)
            ino = entries[name]
        return ino

    def _parent(self, path: str) -> tuple[int, str]:
        above, _, name = path.rpartition("/")
        parent = self.find(above) if above else 0
        if self.nodes[parent].kind != "d":
            raise Refused(path)
        return parent, name

    def begin(self) -> None:
        """Take what is there as durable: the sequence begins."""
        self.shapes = [self._shape()]
        self.versions = {n: [(0, node.data)] for n, node in enumerate(self.nodes)
                         if node.kind == "f"}  # fmt: skip
        self.touched, self.kinds = [], []

    def _shape(self) -> dict[int, dict[str, int]]:
        return {n: dict(node.entries) for n, node in enumerate(self.nodes) if node.kind == "d"}

    # --- doing

    def apply(self, number: int, op: Any) -> None:
        """Do an operation. Raises Refused, and has then done nothing."""
        touched = getattr(self, "_" + op.kind)(number, *op.args)
        self.touched.append(touched)
        self.kinds.append(op.kind)
        self.shapes.append(self._shape())
        for ino, node in enumerate(self.nodes):
            if node.kind == "f":
                known = self.versions.setdefault(ino, [])
                if not known or known[-1][1] != node.data:
                    known.append((len(self.kinds), node.data))

    def _made(self, path: str, kind: str) -> tuple[int, ...]:
        parent, name = self._parent(path)
        if name in self.nodes[parent].entries:
            raise Refused(path)
        ino = self._new(Node(kind))
        self.nodes[parent].entries[name] = ino
        return parent, ino

    def _create(self, _number: int, path: str) -> tuple[int, ...]:
        return self._made(path, "f")

    def _mkdir(self, _number: int, path: str) -> tuple[int, ...]:
        return self._made(path, "d")

    def _symlink(self, _number: int, path: str) -> tuple[int, ...]:
        return self._made(path, "l")

    def _file(self, path: str) -> Node:
        node = self.nodes[self.find(path)]
        if node.kind != "f":
            raise Refused(path)
        return node

    def _write(self, number: int, path: str, offset: int, length: int) -> tuple[int, ...]:
        from tests.crash.table import data_of  # noqa: PLC0415 - the table is built on the model

        node = self._file(path)
        data = node.data + bytes(max(0, offset - len(node.data)))
        node.data = data[:offset] + data_of(number, length) + data[offset + length :]
        return (self.find(path),)

    _overwrite = _write

    def _append(self, number: int, path: str, length: int) -> tuple[int, ...]:
        return self._write(number, path, len(self._file(path).data), length)

    def _fallocate(
        self, _number: int, path: str, mode: int, offset: int, length: int
    ) -> tuple[int, ...]:
        node = self._file(path)
        stop = offset + length
        if not mode & 1:
            node.data += bytes(max(0, stop - len(node.data)))
        if mode:
            stop = min(stop, len(node.data))
            zeroes = bytes(max(0, stop - offset))
            node.data = node.data[:offset] + zeroes + node.data[max(stop, offset) :]
        return (self.find(path),)

    def _truncate(self, _number: int, path: str, size: int) -> tuple[int, ...]:
        node = self._file(path)
        node.data = node.data[:size] + bytes(max(0, size - len(node.data)))
        return (self.find(path),)

    def _link(self, _number: int, path: str, new: str) -> tuple[int, ...]:
        ino = self.find(path)
        parent, name = self._parent(new)
        if self.nodes[ino].kind == "d" or name in self.nodes[parent].entries:
            raise Refused(new)
        self.nodes[parent].entries[name] = ino
        return parent, ino

    def _unlink(self, _number: int, path: str) -> tuple[int, ...]:
        ino = self.find(path)
        parent, name = self._parent(path)
        if self.nodes[ino].kind == "d":
            raise Refused(path)
        del self.nodes[parent].entries[name]
        return parent, ino

    def _rmdir(self, _number: int, path: str) -> tuple[int, ...]:
        ino = self.find(path)
        parent, name = self._parent(path)
        if self.nodes[ino].kind != "d" or self.nodes[ino].entries:
            raise Refused(path)
        del self.nodes[parent].entries[name]
        return parent, ino

    def _rename(self, _number: int, path: str, new: str) -> tuple[int, ...]:
        ino = self.find(path)
        parent, name = self._parent(path)
        to, new_name = self._parent(new)
        there = self.nodes[to].entries.get(new_name)
        kind = self.nodes[ino].kind
        if there == ino or (there is not None and "d" in (kind, self.nodes[there].kind)):
            raise Refused(new)
        del self.nodes[parent].entries[name]
        self.nodes[to].entries[new_name] = ino
        return (parent, to, ino) if there is None else (parent, to, there, ino)

    def _fsync(self, _number: int, path: str) -> tuple[int, ...]:
        self._file(path)
        return (self.find(path),)

    _fdatasync = _fsync

    def _fsyncdir(self, _number: int, path: str) -> tuple[int, ...]:
        if self.nodes[self.find(path)].kind != "d":
            raise Refused(path)
        return (self.find(path),)

    def _sync(self, _number: int) -> tuple[int, ...]:
        return ()

    # --- judging

    def judge(self, seen: Seen, bytes_of: dict[str, bytes], *, acked: int, begun: int,
              settled: bool) -> str | None:  # fmt: skip
        """Say why what was found may not be; None when it may.

        `acked` operations had returned, `begun` had begun; `settled`: all of it is durable.
        """
        low = begun if settled else self._synced_names(acked)
        whys = []
        for count in range(low, begun + 1):
            why = self._fits(count, seen, bytes_of, acked=acked, begun=begun, settled=settled)
            if why is None:
                return None
            whys.append(f"after {count}: {why}")
        return "; ".join(whys)

    def _synced_names(self, acked: int) -> int:
        """Give how many operations' names are durable because of syncs."""
        low = 0
        for number in range(acked):
            kind, about = self.kinds[number], self.touched[number]
            if kind == "sync":
                low = number
            elif kind in ("fsync", "fdatasync", "fsyncdir"):
                of = [n for n in range(number)
                      if self.kinds[n] in NAMES and about[0] in self.touched[n]]  # fmt: skip
                low = max([low, *(n + 1 for n in of)])
        return low

    def _synced_data(self, ino: int, count: int, acked: int) -> int:
        """Give how many operations' data of a file must be there when `count` names are."""
        low = 0
        for number in range(max(acked, count)):
            kind, about = self.kinds[number], self.touched[number]
            synced = number < acked and (
                kind == "sync" or (kind in ("fsync", "fdatasync") and about[0] == ino)
            )
            named = number < count and kind in ("link", "rename") and about[-1] == ino
            if synced or named:
                low = number
        return low

    def _fits(self, count: int, seen: Seen, bytes_of: dict[str, bytes], *, acked: int, begun: int,
              settled: bool) -> str | None:  # fmt: skip
        paths = self.paths(count)
        wanted = self.seen(paths)
        if seen != wanted:
            missing = sorted(set(wanted.items()) - set(seen.items()))
            more = sorted(set(seen.items()) - set(wanted.items()))
            return f"lacks {missing}, has {more}"
        for path, ino in paths.items():
            if self.nodes[ino].kind != "f":
                continue
            low = begun if settled else self._synced_data(ino, count, acked)
            versions = self.versions[ino]
            first = max((n for n, (done, _) in enumerate(versions) if done <= low), default=0)
            allowed = [data for done, data in versions[first:] if done <= begun]
            if bytes_of[path] not in allowed:
                old = [done for done, data in versions if data == bytes_of[path]]
                sizes = [len(data) for data in allowed]
                return (f"{path} has {len(bytes_of[path])} bytes (the state after {old}), "
                        f"allowed are states of {sizes} bytes")  # fmt: skip
        return None

    def paths(self, count: int) -> dict[str, int]:
        """Give the inode of every path after so many operations."""
        return _paths(self.shapes[count])

    def seen(self, paths: dict[str, int]) -> Seen:
        """Give what a reader of these paths would see."""
        first: dict[int, str] = {}
        links: dict[int, int] = {}
        for path, ino in sorted(paths.items()):
            first.setdefault(ino, path)
            links[ino] = links.get(ino, 0) + 1
        return {path: (self.nodes[ino].kind, first[ino], links[ino] if self.nodes[ino].kind == "f"
                       else 0) for path, ino in paths.items()}  # fmt: skip


def _paths(shape: dict[int, dict[str, int]], ino: int = 0, above: str = "") -> dict[str, int]:
    found = {}
    for name, child in shape[ino].items():
        path = f"{above}/{name}" if above else name
        found[path] = child
        if child in shape:
            found |= _paths(shape, child, path)
    return found
