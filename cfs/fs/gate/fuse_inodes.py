"""What the kernel below a mount knows: which inodes, and whether their pages may be kept.

CFS numbers are the kernel's numbers, but for the root of a mount: 1 there. A lookup count rises
with every entry given to the kernel and falls with `forget`; an inode at zero is unknown to it, and
needs no invalidation.

Pages may be kept at open while one lease has lasted since they were read (`kept`); pages that were
read while no lease was held are *tainted*: no recall will tell of their end, so they are dropped
before the kernel is next given attributes.
"""

from __future__ import annotations

from collections.abc import Iterable


class Inodes:
    """Kernel-side state, by inode number."""

    __slots__ = ("_counts", "_kept", "_root", "tainted")

    def __init__(self, root: int = 1) -> None:
        self._root = root
        self._counts: dict[int, int] = {}
        self._kept: dict[int, int] = {}
        self.tainted: set[int] = set()

    def __len__(self) -> int:
        return len(self._counts)

    def looked_up(self, ino: int) -> None:
        """Count an entry given to the kernel."""
        self._counts[ino] = self._counts.get(ino, 0) + 1

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """Count entries the kernel let go of."""
        for ino, count in forgotten:
            left = self._counts.get(ino, 0) - count
            if left > 0:
                self._counts[ino] = left
            else:
                self._counts.pop(ino, None)
                self._kept.pop(ino, None)
                self.tainted.discard(ino)

    def counts(self) -> dict[int, int]:
        """Give how often the kernel was given each inode it has not forgotten."""
        return dict(self._counts)

    def doubtful(self) -> tuple[int, ...]:
        """List the inodes the kernel may have pages of."""
        return tuple(self.tainted | self._kept.keys())

    def restore(self, counts: dict[int, int], tainted: Iterable[int]) -> None:
        """Take over what another process knew."""
        self._counts = dict(counts)
        self.tainted = set(tainted)

    def known(self, ino: int) -> bool:
        """Tell whether the kernel may have something of `ino` cached."""
        return ino in self._counts or ino == self._root

    def may_keep(self, ino: int, lease: int | None) -> bool:
        """Tell, at open, whether pages read earlier may stay; `lease` names the one held now."""
        if lease is None:
            self._kept.pop(ino, None)
            return False
        keep = self._kept.get(ino) == lease and ino not in self.tainted
        self._kept[ino] = lease
        return keep
