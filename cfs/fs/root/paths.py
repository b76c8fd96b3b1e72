"""Names of inodes and inodes of names, across shards, for what is shown to operators.

Not coherent with what clients are about to do, and not meant to be: a path is where something was
a moment ago. A directory remembers its parent; a file is searched for.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import Any

from cfs.core.api import meta
from cfs.core.api.methods import Internal
from cfs.core.errors import CfsError, Malformed, NotFound
from cfs.core.ids import ROOT_INO, Ino, ShardId, group_of, shard_of
from cfs.core.meta import queries
from cfs.fs.root.sweep import Shards
from cfs.fs.root.view import ClusterView

ASK_S = 5.0
DEPTH_MAX = 256
PAGES_MAX = 250
"""A million entries of a shard."""


class Paths:
    """Asks the shards."""

    def __init__(self, *, view: ClusterView, shards: Shards) -> None:
        self._view = view
        self._shards = shards

    async def resolve(self, path: str) -> int:
        """Give the inode at a path from the root of the file system. Raises NotFound."""
        ino = int(ROOT_INO)
        for word in [w for w in path.split("/") if w]:
            if word == "..":
                raise Malformed(f"{path}: a path without '..', please")
            if word == ".":
                continue
            shard = shard_of(Ino(ino))
            name = word.encode(errors="surrogateescape")
            request = meta.Lookup(shard=shard, session=0, parent=ino, name=name, lease=False)
            reply = await self._shards.call(
                group_of(shard), "meta.lookup", request, timeout_s=ASK_S
            )
            if reply.entry is None:
                raise NotFound(f"{path}: there is no {word}")
            ino = reply.entry.ino
        return ino

    async def path_of(self, ino: int) -> str:
        """Name a directory."""
        words: list[str] = []
        try:
            parent = 0 if ino == ROOT_INO else (await self.attributes(ino)).parent
            while ino != ROOT_INO and len(words) < DEPTH_MAX:
                named = await self._name(parent, ino)
                if not named.name:
                    return f"inode {ino}"
                words.append(named.name.decode(errors="backslashreplace"))
                ino, parent = parent, named.parent
        except CfsError as error:
            return f"inode {ino} ({error})"
        return "/" + "/".join(reversed(words))

    async def at_risk(self, segment: bytes, limit: int) -> list[int]:
        """Give inodes of files that refer to a segment."""
        found: list[int] = []
        for shard in range(self._view.map.shard_count):
            query = queries.Referrers(segment=segment, limit=limit - len(found))
            found += queries.decode_inos(await self._query(shard, query))
            if len(found) >= limit:
                break
        return found

    async def names(self, inos: Iterable[int]) -> dict[int, str]:
        """Give a path of each inode, or what is known of it.

        Files are searched for, first where they were made, `PAGES_MAX` pages of a shard at most.
        """
        wanted = set(inos)
        paths: dict[int, str] = {}
        home = dict.fromkeys(shard_of(Ino(i)) for i in wanted)
        order = [*home, *(ShardId(s) for s in range(self._view.map.shard_count) if s not in home)]
        for shard in order:
            after = b""
            for _ in range(PAGES_MAX):
                if not wanted:
                    return paths
                query = queries.Names(inos=tuple(wanted), after=after)
                found = queries.decode_found(await self._query(shard, query))
                for ino, parent, name in found.names:
                    above = await self.path_of(parent)
                    paths[ino] = above.rstrip("/") + "/" + name.decode(errors="backslashreplace")
                    wanted.discard(ino)
                after = found.after
                if not after:
                    break
        return paths | {i: f"inode {i} (find MOUNT -inum {i})" for i in wanted}

    async def attributes(self, ino: int) -> meta.Attr:
        """Give an inode's attributes."""
        shard = shard_of(Ino(ino))
        reply: Any = await self._shards.call(
            group_of(shard), "meta.getattr", meta.GetAttr(shard=shard, session=0, ino=ino),
            timeout_s=ASK_S,
        )  # fmt: skip
        attr: meta.Attr = reply.attr
        return attr

    async def _name(self, parent: int, ino: int) -> queries.Named:
        shard = shard_of(Ino(parent))
        query = queries.Name(parent=parent, ino=ino)
        return queries.decode_named(await self._query(shard, query))

    async def _query(self, shard: int, query: queries.Query) -> bytes:
        group = group_of(ShardId(shard))
        request = Internal(group=group, command=queries.encode(query), read=True)
        reply = await self._shards.call(group, "meta.internal", request, timeout_s=ASK_S)
        answer: bytes = reply.result
        return answer


def is_directory(attr: meta.Attr) -> bool:
    """Tell whether attributes are a directory's."""
    return stat.S_ISDIR(attr.mode)
