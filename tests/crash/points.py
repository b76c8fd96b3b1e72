"""Persistence points: the moments at which something of a simulated machine has become durable.

A point is right after a file's or a directory's sync that had something to sync, a whole file
written, or a transaction of a state store. `armed(name)` is called there, inside the call that made
it durable; it may end machines, and the call then fails as every later one of theirs does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cfs.fs.disk import memory
from tests.sim.disks import SimStore

armed: Callable[[], None] | None = None
count = 0
"""Points reached so far, armed or not."""


def arm(call: Callable[[], None] | None) -> None:
    """Have `call` made at every point from now on; None: no more."""
    globals()["armed"] = call


def install() -> None:
    """Watch the disks of this process."""
    file_sync, directory_sync, write = (
        memory.MemoryFile.sync, memory.MemoryDirectory.sync,
        SimStore.write,
    )  # fmt: skip

    def sync_file(self: Any) -> None:
        changed = bool(self._content.pending)
        file_sync(self)
        _reached(changed)

    def sync_directory(self: Any) -> None:
        changed = bool(self._pending)
        directory_sync(self)
        _reached(changed)

    def write_store(self: Any, changes: Any, *, sync: bool) -> None:
        changes = list(changes)
        write(self, changes, sync=sync)
        _reached(bool(changes))

    memory.MemoryFile.sync = sync_file  # type: ignore[method-assign]
    memory.MemoryDirectory.sync = sync_directory  # type: ignore[method-assign]
    SimStore.write = write_store  # type: ignore[method-assign]


def _reached(changed: bool) -> None:  # noqa: FBT001
    if changed:
        globals()["count"] += 1
        if armed is not None:
            armed()
