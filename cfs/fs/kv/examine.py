"""Reads a whole LMDB environment in a process of its own, which may die of what it finds.

LMDB trusts its pages: damage in one can end the process that follows it. So an environment whose
last user did not close it is read through first (`examine`): every value against its checksum, and
a compacting copy to nowhere, which walks the free pages and counts what the tree must have.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
from crc32c import crc32c

TIMEOUT_S = 600.0
_CRC_BYTES = 4


def examine(path: Path) -> str:
    """Say what is wrong with the environment at `path`; empty when it is whole. Blocks."""
    command = [sys.executable, "-m", "cfs.fs.kv.examine", str(path)]
    try:
        done = subprocess.run(  # noqa: S603 - this module, by this interpreter
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"reading it took more than {TIMEOUT_S:.0f} s"
    if done.returncode < 0:
        return f"reading it ends in {signal.Signals(-done.returncode).name}"
    return (done.stdout or done.stderr).strip().rpartition("\n")[2] if done.returncode else ""


def damage_of(path: Path) -> str:
    """Read everything in this process; give the first fault. May not return."""
    try:
        with lmdb.open(str(path), readonly=True, lock=False, map_size=_map_size(path)) as env:
            with env.begin(buffers=True) as txn, txn.cursor() as cursor:
                for key, stored in cursor:
                    value = stored[_CRC_BYTES:]
                    crc = int.from_bytes(stored[:_CRC_BYTES], "little")
                    if crc != crc32c(value, crc32c(key, len(key))):
                        return f"the value of key {bytes(key).hex()} fails its checksum"
            descriptor = os.open(os.devnull, os.O_WRONLY)
            try:
                env.copyfd(descriptor, compact=True)
            finally:
                os.close(descriptor)
    except lmdb.Error as error:
        return str(error)
    return ""


def _map_size(path: Path) -> int:
    return max(1 << 20, (path / "data.mdb").stat().st_size)


if __name__ == "__main__":
    said = damage_of(Path(sys.argv[1]))
    if said:
        sys.stdout.write(said + "\n")
        sys.exit(1)
