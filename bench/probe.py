"""What this machine can do at this moment: synced appends and a bare Python loop.

A figure taken while a probe was low says more of the machine than of the system under it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

SYNCS = 300
LOOPS = 2_000_000


def probe(directory):
    """Measure synced 4 KiB appends a second below `directory`, Python Mloop/s, the load average."""
    return {
        "fsyncs": _fsyncs(Path(directory)),
        "mloops": _mloops(),
        "load": os.getloadavg()[0],
    }


def _fsyncs(directory):
    path = directory / f"probe-{os.getpid()}"
    block = os.urandom(4096)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        began = time.perf_counter()
        for _ in range(SYNCS):
            os.write(fd, block)
            os.fsync(fd)
        return SYNCS / (time.perf_counter() - began)
    finally:
        os.close(fd)
        path.unlink()


def _mloops():
    began = time.perf_counter()
    total = 0
    for i in range(LOOPS):
        total += i
    return LOOPS / (time.perf_counter() - began) / 1e6
