"""Group commit: the changes that arrive while one group is being synced form the next.

Owns the queue in front of a disk. One call of `Disk.commit` at a time runs in a thread; whoever
queued a job waits for the call that carries it out. A job whose waiter was cancelled is carried out
all the same: it is idempotent. Bound: `GROUP_BYTES_MAX` a group; the queue itself is bounded by
the service's `QUEUE_BYTES_MAX`.
"""

from __future__ import annotations

from collections import deque

import trio

from cfs.core.errors import Unavailable
from cfs.fs.store.engine import Disk
from cfs.fs.store.jobs import Delete, Put
from cfs.net.ports import Threads

GROUP_BYTES_MAX = 32 << 20
"""A sync of this much takes 0.1 s at 350 MB/s: what a small put behind it waits at most."""
CHECKPOINT_S = 1.0
"""How often the index is written down: what a crash makes the next open read again."""


class Committer:
    """The queue of one disk and the tasks that serve it."""

    def __init__(self, disk: Disk, threads: Threads) -> None:
        self.disk = disk
        self.queued_bytes = 0
        self._client_bytes = 0
        self._client_peak = 0
        self._threads = threads
        self._queue: deque[tuple[Put | Delete, trio.Event]] = deque()
        self._arrived = trio.Event()
        self._due = trio.Event()
        self._closed = False

    async def carry_out(self, job: Put | Delete) -> None:
        """Queue a job and wait until it is durable. Raises what it failed with."""
        if self._closed:
            raise Unavailable(f"disk {self.disk.name} is being closed")
        done = trio.Event()
        self.queued_bytes += _size(job)
        self._client_bytes += _client_size(job)
        self._client_peak = max(self._client_peak, self._client_bytes)
        self._queue.append((job, done))
        self._arrived.set()
        await done.wait()
        if job.error is not None:
            raise job.error

    def client_peak(self) -> int:
        """Give the most bytes of clients that waited at once since the last call."""
        peak, self._client_peak = self._client_peak, self._client_bytes
        return peak

    async def run(self) -> None:
        """Serve the queue until cancelled; what waits then is refused."""
        try:
            while True:
                if not self._queue:
                    self._arrived = trio.Event()
                    await self._arrived.wait()
                await self._commit_group()
        finally:
            self._closed = True
            for job, done in self._queue:
                job.error = Unavailable(f"disk {self.disk.name} is being closed")
                done.set()
            self._queue.clear()

    async def run_checkpoints(self) -> None:
        """Write the index down when it is due, rebuild it when it is damaged, until cancelled."""
        disk = self.disk
        while True:
            with trio.move_on_after(CHECKPOINT_S):
                await self._due.wait()
            self._due = trio.Event()
            if disk.damaged and disk.usable:
                await self._threads.run(disk.rebuild)
            elif disk.dirty and disk.usable:
                await self._threads.run(disk.checkpoint)

    async def _commit_group(self) -> None:
        group: list[tuple[Put | Delete, trio.Event]] = []
        size = 0
        while self._queue and size < GROUP_BYTES_MAX:
            pair = self._queue.popleft()
            group.append(pair)
            size += _size(pair[0])
        puts = [job for job, _ in group if isinstance(job, Put)]
        deletes = [job for job, _ in group if isinstance(job, Delete)]
        try:
            await self._threads.run(self.disk.commit, puts, deletes)
        except BaseException:
            for job, _ in group:
                job.error = job.error or Unavailable("the group was interrupted: ask again")
            raise
        finally:
            self.queued_bytes -= size
            self._client_bytes -= sum(_client_size(job) for job, _ in group)
            for _, done in group:
                done.set()
        if self.disk.checkpoint_due or self.disk.damaged:
            self._due.set()


def _client_size(job: Put | Delete) -> int:
    return 0 if isinstance(job, Put) and job.repair else _size(job)


def _size(job: Put | Delete) -> int:
    return len(job.payload) if isinstance(job, Put) else 0
