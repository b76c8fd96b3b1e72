"""The thread that writes the log: one batch syncs while the event loop fills the next.

A thread of its own, kept alive, costs two lock operations and one wake-up of the loop per batch.
The loop owns the batch that fills, the thread the one in flight; they meet only in `submit` and
in the callback, which trio runs in the loop. `write_now` blocks the loop, for rare records whose
caller must not go on before they are durable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import trio

from cfs.core.errors import CfsError
from cfs.fs.meta.wal import LogFailed, Wal
from cfs.fs.meta.wal_format import Record


class LogWriter:
    """Writes one batch at a time; `done(batch, error)` is called in the loop after each.

    `inline=True` writes within `submit`, without a thread: for the simulator.
    """

    def __init__(
        self, wal: Wal, done: Callable[[Any, LogFailed | None], None], *, inline: bool = False
    ) -> None:
        self._wal = wal
        self._done = done
        self._inline = inline
        self._wal_lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Sequence[Record], Any] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.busy = False
        """A batch is in flight."""

    def start(self) -> None:
        """Start the thread; call in the loop."""
        self._token = trio.lowlevel.current_trio_token()
        if not self._inline:
            self._thread = threading.Thread(target=self._work, name="meta-log", daemon=True)
            self._thread.start()

    def submit(self, records: Sequence[Record], batch: Any) -> None:
        """Begin to write; not while busy."""
        assert not self.busy
        self.busy = True
        assert self._token is not None
        if self._inline:
            self._token.run_sync_soon(self._ended, batch, self._write(records))
            return
        self._queue.put((records, batch))

    def write_now(self, records: Sequence[Record]) -> None:
        """Write in the caller's thread, after the batch in flight. Raises LogFailed."""
        with self._wal_lock:
            self._wal.write(records)

    def stop(self) -> None:
        """End the thread once the batch in flight is down; blocks for that long."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        assert self._token is not None
        while (work := self._queue.get()) is not None:
            records, batch = work
            error = self._write(records)
            try:
                self._token.run_sync_soon(self._ended, batch, error)
            except trio.RunFinishedError:
                return

    def _write(self, records: Sequence[Record]) -> LogFailed | None:
        try:
            self.write_now(records)
        except LogFailed as error:
            return error
        except (CfsError, OSError, ValueError, AssertionError) as error:
            return LogFailed(f"the write-ahead log failed: {error!r}")
        return None

    def _ended(self, batch: Any, error: LogFailed | None) -> None:
        self.busy = False
        self._done(batch, error)
