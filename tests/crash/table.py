"""The fixed tree, the operations with their arguments, and which sequences of them there are.

The tree has two directories `A` and `B`, two files `A/foo` (inline) and `A/bar` (in segments), and
one hard link `B/hard` to `A/foo`. It is there twice: *near*, both directories in one shard and
delegated to the client, so that operations are carried out ahead; *far*, in two shards and new to
the client, so that it asks, and operations over both directories are transactions.

Folded: fresh names are interchangeable, so there is one in each directory; a sequence in which an
operation changes nothing (the model refuses it) is left out; a sequence that ends with a read-only
sync is kept, one that begins with it is the other operation alone; a sequence that touches `A`
alone is run near only with one operation of both layouts kept.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from tests.crash.model import Refused, Tree

FOO = bytes(i * 7 % 251 for i in range(3_000))
BAR = bytes((i * i + i // 251) % 253 for i in range(40_000))
SYNCS = frozenset({"fsync", "fdatasync", "fsyncdir", "sync"})


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation with its arguments."""

    kind: str
    args: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.kind, *map(str, self.args)])

    @staticmethod
    def parse(text: str) -> Op:
        kind, *args = text.split()
        return Op(kind, tuple(int(a) if a.isdigit() else a for a in args))


@dataclasses.dataclass(frozen=True)
class Case:
    """A sequence on one layout; `given` was done, and durable, before it began."""

    layout: str
    ops: tuple[Op, ...]

    def __str__(self) -> str:
        return f"{self.layout}: " + "; ".join(map(str, self.ops))

    @staticmethod
    def parse(text: str) -> Case:
        layout, _, rest = text.partition(":")
        return Case(layout.strip(), tuple(Op.parse(piece) for piece in rest.split(";")))

    def given(self) -> tuple[Op, ...]:
        """Give what must be done before: nothing can be removed from a tree that is full."""
        if self.ops[0].kind == "rmdir" and self.ops[0].args == ("B",):
            return (Op("unlink", ("B/hard",)),)
        return ()


TABLE: dict[str, tuple[tuple[str | int, ...], ...]] = {
    # path; the bytes written follow from the operation's place in the sequence
    "create": (("A/new",), ("B/new",)),
    "write": (("A/foo", 4_000, 700), ("A/bar", 0, 70_000), ("A/new", 0, 900)),
    "append": (("A/foo", 200), ("A/bar", 20_000), ("A/new", 300)),
    "overwrite": (("A/foo", 100, 50), ("A/bar", 10_000, 20_000)),
    # path, mode of linux/falloc.h, offset, length
    "fallocate": (("A/foo", 0, 2_000, 6_000), ("A/bar", 3, 4_096, 8_192),
                  ("A/foo", 16, 500, 1_000)),
    "truncate": (("A/foo", 0), ("A/foo", 1_000), ("A/foo", 9_000), ("A/bar", 5_000)),
    "link": (("A/foo", "A/new"), ("A/foo", "B/new"), ("A/new", "B/new")),
    "unlink": (("A/foo",), ("B/hard",), ("A/bar",), ("A/new",)),
    "rename": (("A/foo", "A/new"), ("A/foo", "B/new"), ("A/bar", "B/hard"), ("A/bar", "A/foo"),
               ("B/hard", "A/new"), ("A/new", "A/bar"), ("A/new", "B/hard"), ("B", "A/new")),
    "symlink": (("A/new",), ("B/new",)),
    "mkdir": (("A/new",), ("B/new",)),
    "rmdir": (("B",), ("A/new",)),
    "fsync": (("A/foo",), ("A/bar",), ("A/new",)),
    "fsyncdir": (("A",), ("B",)),
    "fdatasync": (("A/foo",), ("A/new",)),
    "sync": ((),),
}  # fmt: skip
"""Every operation with every set of arguments it is given; mmap-write is `test_mapped`'s."""

OPS = tuple(Op(kind, args) for kind, many in TABLE.items() for args in many)


def sequences(length: int) -> Iterator[Case]:
    """Give all cases of so many operations, in one order for ever."""
    for ops in itertools.product(OPS, repeat=length):
        if length > 1 and (ops[0].kind in SYNCS or (ops[0] == ops[1] and ops[0].kind in SYNCS)):
            continue
        if not _changes(ops):
            continue
        for layout in ("near", "far"):
            yield Case(layout, ops)


def _changes(ops: tuple[Op, ...]) -> bool:
    """Tell whether every operation does something."""
    tree = fixed()
    try:
        for op in Case("near", ops).given():
            tree.apply(0, op)
        for number, op in enumerate(ops):
            tree.apply(number, op)
    except Refused:
        return False
    return True


def fixed() -> Tree:
    """Give the model of the fixed tree."""
    tree = Tree()
    tree.put("A", tree.new_directory())
    tree.put("B", tree.new_directory())
    tree.put("A/foo", tree.new_file(FOO))
    tree.put("A/bar", tree.new_file(BAR))
    tree.put("B/hard", tree.find("A/foo"))
    return tree


def data_of(number: int, length: int) -> bytes:
    """Give the bytes that the operation at that place writes."""
    return bytes((i * 11 + 101 * number + 17) % 256 for i in range(length))
