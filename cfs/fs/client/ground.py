"""What operations ahead of the shard stand on: whether they may be, and what they change.

Used by `ahead` only. Whether an operation may be put in line now is `_ready`; what it makes of
names and counts in the cache are `_set_name`, `_count`, `_drop_link`, after `_put` has pinned the
nodes.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from cfs.core.api.meta import Attr
from cfs.core.errors import FsError
from cfs.core.meta import change
from cfs.core.meta.entries import NAME_BYTES_MAX
from cfs.core.meta.links import NLINK_MAX
from cfs.fs.client.cache import Cache
from cfs.fs.client.delegation import Delegations
from cfs.fs.client.fences import Fences
from cfs.fs.client.lane import Lane
from cfs.fs.client.nodes import UNKNOWN_COOKIE, Name, Node
from cfs.fs.client.queue import Queue
from cfs.fs.client.quotas import Quotas
from cfs.fs.client.session import Session
from cfs.fs.client.writeback import Writeback
from cfs.net.ports import WallClock


class Ground:
    """The checks and changes that operations share."""

    def __init__(
        self, *, session: Session, fences: Fences, cache: Cache, writeback: Writeback,
        queue: Queue, delegations: Delegations, quotas: Quotas, clock: WallClock,
    ) -> None:  # fmt: skip
        self._session = session
        self._fences = fences
        self._cache = cache
        self._writeback = writeback
        self._queue = queue
        self._delegations = delegations
        self._quotas = quotas
        self._clock = clock

    def _ready(self, *places: tuple[int, bytes]) -> Lane | None:
        """Give the lane for an operation on these names now; None: wait or ask first.

        A place is a directory and a name in it.
        """
        delegations = self._delegations
        if delegations.failed:
            for ino, _ in places:
                error = delegations.failed.pop(ino, None)
                if error is not None:
                    raise error
        shard = -1
        for ino, name in places:
            node = delegations.here(ino)
            if node is None or shard not in {-1, node.shard} or not node.decides(name):
                return None
            shard = node.shard
        lane = self._session.trusted_lane(shard)
        parents = tuple(ino for ino, _ in places)
        return lane if lane is not None and self._queue.admits(lane, parents) else None

    async def _prepare(self, parents: tuple[int, ...], deadline: float) -> bool:
        """Take delegations, and wait for room; tell whether trying again may help."""
        shard = -1
        for ino in parents:
            node = await self._delegations.directory(ino, deadline)
            if node is None or shard not in {-1, node.shard}:
                return False
            shard = node.shard
        return await self._room(shard, parents, deadline)

    async def _room(self, shard: int, inos: tuple[int, ...], deadline: float) -> bool:
        lane = self._session.trusted_lane(shard)
        if lane is not None and not self._queue.admits(lane, inos):
            await self._queue.room(lane, deadline)
        return lane is not None

    def _held(self, ino: int, lane: Lane) -> Node | None:
        """Give the node of an inode of the lane's shard that may be changed here."""
        node = self._delegations.mine(ino)
        if node is None or self._session.trusted_lane(node.shard) is not lane:
            return None
        return node if self._queue.admits(lane, (ino,)) else None

    def _removable(self, ino: int, lane: Lane) -> Node | None:
        """Give the node of what may lose a name here: an open file must be pinned first."""
        file = self._writeback.files.get(ino)
        if file is not None and file.opens and not file.pinned:
            return None
        return self._held(ino, lane)

    def _in_line(self, ino: int) -> bool:
        """Put a file's dirty bytes in line if they are few; False: flush them first."""
        file = self._writeback.files.get(ino)
        return file is None or not file.unclean or self._writeback.commit_ahead(file)

    async def _flush(self, ino: int, deadline: float) -> None:
        """Commit what `_in_line` cannot."""
        file = self._writeback.files.get(ino)
        if file is not None and file.unclean and not self._writeback.commit_ahead(file):
            await self._writeback.flush(file, deadline)

    def _put(self, lane: Lane, op: object, inos: tuple[int, ...]) -> None:
        self._queue.put(lane, op, tuple(dict.fromkeys(inos)))

    def _find(self, node: Node, name: bytes) -> Name | None:
        there = node.entries.get(name)
        return there if there is not None and there.ino else None

    def _require(self, node: Node, name: bytes) -> Name:
        if len(name) > NAME_BYTES_MAX:
            raise FsError(errno.ENAMETOOLONG)
        there = self._find(node, name)
        if there is None:
            raise FsError(errno.ENOENT)
        return there

    def _set_name(self, node: Node, name: bytes, ino: int, kind: int) -> None:
        self._fences.close_ino(node.ino)  # what was asked before this does not know of it
        self._cache.set_name(node, Name(name, ino, kind, UNKNOWN_COOKIE, 0))

    def _count(self, node: Node, now: int, *, came: int, subdirectories: int) -> None:
        attr = known(node)
        fields = change.entries(attr, now, came=came, subdirectories=subdirectories)
        node.attr = replace(attr, **fields)

    def _drop_link(self, node: Node, now: int) -> None:
        attr = known(node)
        node.attr = attr = replace(attr, **change.links(attr, now, -1))
        file = self._writeback.files.get(node.ino)
        if not attr.nlink and file is not None and not file.opens:
            self._writeback.cut(file.discard())  # nobody can read them any more


def known(node: Node) -> Attr:
    """Give the attributes of a node that has them."""
    assert node.attr is not None
    return node.attr


def check_links(attr: Attr) -> None:
    """Raise EMLINK."""
    if attr.nlink >= NLINK_MAX and not stat.S_ISDIR(attr.mode):
        raise FsError(errno.EMLINK)
