"""Which replies may still fill a cache.

A request takes a token when it is made; tokens rise. When a lease on an inode goes (recall, drop)
the inode's fence is raised to the newest token; when a shard's session is opened again, the
shard's. A reply whose token is not above both fences speaks of a lease that is gone: its answer is
true for its caller, but must not be kept.

Fences of inodes are forgotten as soon as no request that they could concern is on its way.
"""

from __future__ import annotations

from cfs.core.ids import Ino, shard_of


class Fences:
    """Tokens and fences of one client."""

    __slots__ = ("_dropping", "_flying", "_inos", "_shards", "_token")

    def __init__(self) -> None:
        self._token = 0
        self._flying: dict[int, None] = {}
        self._inos: dict[int, int] = {}
        self._shards: dict[int, int] = {}
        self._dropping: set[int] = set()

    def begin(self) -> int:
        """Take a token for a request that is about to be sent."""
        self._token = token = self._token + 1
        self._flying[token] = None
        return token

    def end(self, token: int) -> None:
        """Say that the answer to `token` was used or will not be."""
        del self._flying[token]
        if self._inos:
            if not self._flying:
                self._inos.clear()
            elif len(self._inos) > 4096:
                oldest = next(iter(self._flying))
                self._inos = {i: t for i, t in self._inos.items() if t >= oldest}

    def close_ino(self, ino: int) -> None:
        """Refuse replies about `ino` to every request made until now."""
        if self._flying:
            self._inos[ino] = self._token

    def hold_ino(self, ino: int) -> None:
        """Refuse replies about `ino` until `release_ino`: giving it back is on its way."""
        self._dropping.add(ino)

    def release_ino(self, ino: int) -> None:
        """End `hold_ino`, and refuse replies to every request made until now."""
        self._dropping.discard(ino)
        self.close_ino(ino)

    def close_shard(self, shard: int) -> None:
        """Refuse replies of `shard` to every request made until now."""
        self._shards[shard] = self._token

    def passes(self, token: int, ino: int) -> bool:
        """Tell whether what was learnt of `ino` with `token` may be kept."""
        return (
            token > self._inos.get(ino, 0)
            and token > self._shards.get(shard_of(Ino(ino)), 0)
            and ino not in self._dropping
        )
