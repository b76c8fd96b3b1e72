"""What malloc keeps of freed memory, and what goes back to the system (docs/decisions/0312, 0530).

Data passes through buffers of megabytes. Fresh pages cost 0.25 ms/MiB and more on a virtual
machine; with what is kept here a sequential write took 0.24 instead of 0.43 s of system time for
384 MiB. Only glibc has these switches; elsewhere nothing changes.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import NamedTuple

import trio

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
"""Options of mallopt(3)."""
TRIM_S = 30.0


class Memory(NamedTuple):
    """What one kind of process keeps."""

    arenas: int
    """More than one: threads that allocate at once do not wait for each other. But malloc_trim
    leaves the end of every arena but the first as it is."""
    kept_bytes: int
    """Left free at the end of the first arena for the next buffers."""


DATA = Memory(arenas=2, kept_bytes=32 << 20)
"""Native code allocates in many threads, and buffers are large."""
METADATA = Memory(arenas=1, kept_bytes=8 << 20)
"""The threads that write the log and LMDB left up to 64 MiB free in an arena of their own."""


def keep_freed(memory: Memory) -> None:
    """Have malloc keep freed buffers instead of giving them back and faulting them in again."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, 192 << 20)
        libc.mallopt(_ARENA_MAX, memory.arenas)


async def give_back(memory: Memory) -> None:
    """Return to the system, now and then, what was freed between blocks in use.

    A start that replays a long log, or an hour of large files, leaves that behind: a metadata node
    that had replayed 88 MB kept 177 MB for good. It takes some milliseconds, in a thread.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return  # not glibc
    while True:
        await trio.sleep(TRIM_S)
        await trio.to_thread.run_sync(trim, memory.kept_bytes)
