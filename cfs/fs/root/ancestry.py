"""Whether directories lead to the root: parents followed in batches, with a bounded memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from cfs.core.ids import ROOT_INO

KNOWN_MAX = 200_000
DEPTH_MAX = 4096


class Ancestry:
    """Remembers directories that were seen to lead to the root."""

    def __init__(self, parents: Callable[[list[int]], Awaitable[dict[int, int]]]) -> None:
        self._parents = parents
        self._good: set[int] = {int(ROOT_INO)}

    async def strays(self, directories: Iterable[tuple[int, int]]) -> list[int]:
        """Give those of `(directory, parent)` whose parents end elsewhere, or nowhere."""
        parent_of = dict(directories)
        strays = []
        for start in list(parent_of):
            way: list[int] = []
            seen: set[int] = set()
            at = start
            while at not in self._good and at not in seen and len(way) < DEPTH_MAX:
                seen.add(at)
                way.append(at)
                if at not in parent_of:
                    parent_of |= await self._parents([at])
                at = parent_of.get(at, 0)
            if at in self._good:
                if len(self._good) + len(way) > KNOWN_MAX:
                    self._good = {int(ROOT_INO)}
                self._good.update(way)
            else:
                strays.append(start)
        return strays
