"""A large file on its way to the cluster while it is being written.

A stream takes up what is dirty as it comes, behind what it took before, and commits what is durable
in order, one commit at a time: a later one is sent when the one before was answered, so what
survives a crash is always a prefix of what was written. Uploading never waits for a commit.

It holds the file's `flush_lock` all the while. `flushing` is what it took and has not committed; if
it fails that becomes dirty again, under what was written since. It ends when the writer pauses or
went elsewhere, when somebody waits for the lock, when it has taken what it was asked to
(`until`), or after `STREAM_BYTES_MAX`. Without `until` the bytes behind the last lasting chunk
boundary stay dirty, so that the stream that follows cuts where the content says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from cfs.core.api.meta import Extent
from cfs.core.errors import CfsError
from cfs.fs.client.dirty import Dirty
from cfs.fs.client.file import File
from cfs.fs.client.ports import Uploads
from cfs.fs.data.source import Part
from cfs.net.tasks import open_tasks

STREAM_BYTES_MIN = 4 << 20
"""Less is uploaded at once: one segment or two."""
STREAM_BYTES_MAX = 1 << 30
"""Chunks of one stream are remembered until it ends, some 5 MiB."""
PAUSE_S = 0.01
"""A writer that gives nothing for so long does not hold up what it gave."""

Commit = Callable[[list[Extent]], Awaitable[None]]


class Stream:
    """One stream; see the module. It is its own `Feed`."""

    def __init__(
        self, file: File, commit: Commit, charge: Callable[[int], None], until: int | None
    ) -> None:
        """`charge` hears how the memory held changes when bytes are taken."""
        assert file.flushing is None
        self.offset = file.dirty.start
        self.whole = until is not None
        self.taken = Dirty()
        """What was taken and is not committed: the file's `flushing`."""
        self._file = file
        self._commit = commit
        self._charge = charge
        self._until = until
        self._end = self.offset
        self._wrote = trio.Event()
        self._landed: list[Extent] = []
        self._news = trio.Event()
        self._ended = False
        self._error: CfsError | None = None

    async def run(self, uploads: Uploads, avoid: Sequence[bytes]) -> None:
        """Return once all that was taken is committed, but a tail. Raises what was met first."""
        async with open_tasks() as nursery:
            nursery.start_soon(self._commit_all, nursery.cancel_scope)
            try:
                await uploads.stream(self, avoid=avoid)
            except CfsError as error:
                self._error = self._error or error
            self._ended = True
            self._news.set()
        if self._error is not None:
            raise self._error

    def wrote(self) -> None:
        """Hear that more of the file is dirty."""
        self._wrote.set()

    # --- the feed

    async def next(self) -> Part | None:
        """See `Feed.next`."""
        if self._error is not None:
            return None
        if not self._more():
            if self._until is not None or self._full():
                return None
            self._wrote = trio.Event()
            with trio.move_on_after(PAUSE_S):
                await self._wrote.wait()
            if not self._more():
                return None
        dirty = self._file.dirty
        before = dirty.cost + self.taken.cost
        offset, kept = dirty.take_first()
        self.taken.keep(offset, kept)
        self._charge(dirty.cost + self.taken.cost - before)
        self._end = offset + len(kept)
        return Part(kept.slab, kept.start, kept.stop)

    def landed(self, extents: Sequence[Extent]) -> None:
        """See `Feed.landed`."""
        self._landed += extents
        self._news.set()

    def _more(self) -> bool:
        dirty = self._file.dirty
        if not dirty or dirty.start != self._end or self._full():
            return False
        return self._until is None or self._end < self._until

    def _full(self) -> bool:
        if self._end - self.offset >= STREAM_BYTES_MAX:
            return True
        return self._until is None and self._file.flush_lock.statistics().tasks_waiting > 0

    # --- commits

    async def _commit_all(self, scope: trio.CancelScope) -> None:
        while self._landed or not self._ended:
            if not self._landed:
                self._news = trio.Event()
                await self._news.wait()
                continue
            extents, self._landed = self._landed, []
            try:
                await self._commit(extents)
            except CfsError as error:
                self._error = error
                scope.cancel()
                return
