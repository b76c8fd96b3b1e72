"""What a client asks of its process. The real ones are in `cfs.net`, `cfs.fs.root`, `cfs.fs.data`.

Tests supply their own. Only what is called here is named here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from cfs.core.api.cluster import ClusterMap
from cfs.core.api.meta import Extent, Held
from cfs.fs.client.underway import Touching
from cfs.fs.data.source import Feed, Run


class Calls(Protocol):
    """The connection pool."""

    async def call(
        self, node: int, method: str, request: Any, payload: Any = b"", *, timeout_s: float
    ) -> tuple[Any, Any]:
        """Call a node; give (reply, payload). Raises the error tree."""
        ...


class MapView(Protocol):
    """The newest cluster map this process has seen."""

    @property
    def map(self) -> ClusterMap:
        """The map."""
        ...

    async def refresh(self) -> None:
        """Ask for a newer one. Raises Unavailable."""
        ...


class Uploads(Protocol):
    """Turns bytes into durable extents: `cfs.fs.data.uploader.Uploader`."""

    async def write(
        self, runs: Sequence[Run], *, avoid: Collection[bytes] = ()
    ) -> list[list[Extent]]:
        """Make `runs` durable; one list of extents a run. Raises NoSpace."""
        ...

    async def stream(self, feed: Feed, *, avoid: Collection[bytes] = ()) -> None:
        """Make what `feed` gives durable, telling it on the way. Raises NoSpace."""
        ...

    def inline(self, offset: int, data: Any) -> Extent:
        """Seal a small run into an extent that carries its bytes."""
        ...

    def forget(self, segments: Iterable[bytes]) -> None:
        """Take condemned segments out of every later answer."""
        ...


class Fetches(Protocol):
    """Turns extents into bytes."""

    async def read(self, extents: Sequence[Extent], offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`; `extents` cover them. Raises Corrupt, Unavailable."""
        ...

    def cached(self, extents: Sequence[Extent], offset: int, length: int) -> bytes | None:
        """Give what `read` would, if that needs no waiting; else None."""
        ...

    async def prefetch(self, extents: Sequence[Extent]) -> None:
        """Begin to bring chunks near."""
        ...


class Kernel(Protocol):
    """A gateway that caches below: told before a lease is given back."""

    async def invalidate(self, ino: int) -> None:
        """Return once nothing learnt of `ino`, attributes or data, is cached below."""
        ...

    async def drop_attributes(self, ino: int) -> None:
        """Return once no attributes of `ino` are cached below. Waits for nobody."""
        ...


class Holder(Touching, Protocol):
    """Who holds leases: the caches."""

    def held(self, shard: int) -> list[Held]:
        """List the leases held in a shard."""
        ...

    def lost(self, inos: Iterable[int]) -> None:
        """Drop what was learnt under the leases on `inos`, except pins."""
        ...

    def expired(self, shard: int) -> None:
        """Drop everything learnt from a shard; pins are to be asked for again."""
        ...

    async def reopened(self, shard: int) -> None:
        """Ask for pins again: the shard's session is usable after `expired`."""
        ...

    def pinned(self, ino: int) -> bool:
        """Tell whether an open file needs the inode."""
        ...

    def abandoned(self, op: Any) -> None:
        """Forget what an own operation made stale that took effect when nobody waited for it."""
        ...
