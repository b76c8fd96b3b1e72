"""The thread that writes the log: one batch syncs while the event loop fills the next.

A thread of its own, kept alive, costs one queue operation and one wake-up of the loop per batch.
The loop owns the batch that fills and encodes it; the thread only appends and syncs, so it needs
the interpreter's lock but briefly. `write_now` blocks the loop, for rare records whose caller must
not go on before they are durable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

import trio

from cfs.core.raft.message import Save
from cfs.fs.meta.wal import LogFailed, Prepared, Wal
from cfs.fs.meta.wal_format import Kind, Record
from cfs.net.ports import Threads

if TYPE_CHECKING:
    from cfs.fs.meta.group import Group


class _Batch:
    """Records on their way to the log, whose saves they complete, and who else waits."""

    __slots__ = ("records", "saves", "waiters")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.saves: dict[Group, int] = {}
        self.waiters: list[trio.Event] = []


class LogWriter:
    """Writes one batch at a time; `done(saves, error)` is called in the loop after each.

    With `inline` it writes in the loop, without a thread of its own, once `inline` has run a call
    that does nothing, which is how long the disk takes: for the simulator.
    """

    def __init__(
        self,
        wal: Wal,
        done: Callable[[Mapping[Group, int], LogFailed | None], None],
        *,
        inline: Threads | None = None,
    ) -> None:
        self._wal = wal
        self._done = done
        self._inline = inline
        self._wal_lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Prepared, _Batch] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._late: Prepared | None = None
        self._late_error: LogFailed | None = None
        self._filling = _Batch()
        self._busy = False

    def start(self, nursery: trio.Nursery) -> None:
        """Start the thread (or use the nursery, inline); call in the loop."""
        self._token = trio.lowlevel.current_trio_token()
        self._nursery = nursery
        if self._inline is None:
            self._thread = threading.Thread(target=self._work, name="meta-log", daemon=True)
            self._thread.start()

    def save(self, group: Group, save: Save) -> None:
        """Put a machine's save into the batch that fills."""
        records = self._filling.records
        number, entries, cut = group.group, save.entries, save.truncate_from
        if cut is not None and (not entries or cut < entries[0].index):
            records.append(Record(Kind.TRUNCATE, number, cut))
        records.append(Record(Kind.STATE, number, save.state))
        if entries:
            records.append(Record(Kind.ENTRIES, number, entries))
        self._filling.saves[group] = save.number

    def add(self, record: Record) -> None:
        """Put another record into the batch that fills."""
        self._filling.records.append(record)

    def submit(self) -> None:
        """Begin to write what has filled, unless a batch is in flight: it goes after that."""
        if self._busy or not self._filling.records or self._token is None:
            return
        batch, self._filling = self._filling, _Batch()
        self._busy = True
        # Held until the batch is down: `write_now` must not come between its two halves.
        self._wal_lock.acquire()
        prepared = self._wal.prepare(batch.records)
        if self._inline is not None:
            assert self._nursery is not None
            self._late = prepared
            self._nursery.start_soon(self._end_inline, self._inline, batch)
        else:
            self._queue.put((prepared, batch))

    async def write_through(self, record: Record) -> None:
        """Put a record down after everything before it; durable on return.

        Does not return when the log fails: the host stops.
        """
        written = trio.Event()
        self.add(record)
        self._filling.waiters.append(written)
        self.submit()
        await written.wait()

    def write_now(self, records: Sequence[Record]) -> None:
        """Write in the caller's thread, after the batch in flight. Raises LogFailed."""
        self._commit_late()
        with self._wal_lock:
            self._wal.write(records)

    def renew_now(self, records: Sequence[Record]) -> bool:
        """Begin the log anew with `records`, as `Wal.renew`, after all that was saved before.

        Blocks. Raises LogFailed.
        """
        with self._wal_lock:
            waiting = self._filling.records
            self._wal.write(waiting)
            alone = self._wal.renew(records)
            if waiting:  # whoever waits for them is answered with the next batch
                self._filling.records = [
                    Record(Kind.MARK, r.group, r.body) for r in records if r.kind is Kind.RESET
                ]
            return alone

    def stop(self) -> None:
        """End the thread once the batch in flight is down; blocks for that long."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._commit_late()
        self._token = None

    def write_rest(self) -> None:
        """Write what has filled and was not submitted; after `stop`. Raises LogFailed."""
        self.write_now(self._filling.records)
        self._filling = _Batch()

    def _work(self) -> None:
        token = self._token
        assert token is not None
        while (work := self._queue.get()) is not None:
            prepared, batch = work
            error = self._commit(prepared)
            try:
                token.run_sync_soon(self._ended, batch, error)
            except trio.RunFinishedError:
                return

    async def _end_inline(self, threads: Threads, batch: _Batch) -> None:
        await threads.run(_nothing)
        self._commit_late()
        self._ended(batch, self._late_error)

    def _commit_late(self) -> None:
        """Commit the batch in flight, inline, if nobody did."""
        if self._late is not None:
            prepared, self._late = self._late, None
            self._late_error = self._commit(prepared)

    def _commit(self, prepared: Prepared) -> LogFailed | None:
        try:
            self._wal.commit(prepared)
        except LogFailed as error:
            return error
        except Exception as error:  # noqa: BLE001 - a dead log thread must not go unnoticed
            return LogFailed(f"the write-ahead log failed: {error!r}")
        finally:
            self._wal_lock.release()
        return None

    def _ended(self, batch: _Batch, error: LogFailed | None) -> None:
        self._busy = False
        if error is None:
            for waiter in batch.waiters:
                waiter.set()
        self._done(batch.saves, error)


def _nothing() -> None:
    """Take as long as a call takes."""
