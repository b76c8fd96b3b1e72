"""A process killed in the midst of puts and deletes: what it answered is there, no more."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cfs.fs.store.engine import Disk
from cfs.fs.store.place import place_on

from .rig import DISK_ID, listing, read

ROOT = Path(__file__).parents[4]
WRITER = """
import random, sys, threading, time
from pathlib import Path
from cfs.fs.store.engine import Disk
from cfs.fs.store.place import place_on
from tests.unit.fs.store.rig import DISK_ID, delete, make_put, store

place = place_on(Path(sys.argv[1]))
disk = Disk(name="d", disk_id=DISK_ID, directory=place.directory, open_store=place.open_store,
            clock=time, reserve_bytes=0, volume_bytes_max=2_000_000)
first = int(sys.argv[2])
for number in range(first, first + 10_000):
    store(disk, make_put(number, random.Random(number).randbytes(30_000)))
    print("put", number, flush=True)
    if number % 3 == 0:
        delete(disk, number - 1)
        print("deleted", number - 1, flush=True)
    if number % 10 == 0:
        disk.checkpoint()
"""


@pytest.mark.parametrize("lines", [1, 37, 180])
def test_what_was_answered_survives_kill_9(tmp_path: Path, lines: int):
    alive: set[int] = set()
    unsure: set[int] = set()
    first = 1
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.readlines()
            process.wait(timeout=30)
        last = first - 1
        for line in said:
            if not line.endswith("\n"):
                continue
            verb, number = line.split()
            if verb == "put":
                last = int(number)
                alive.add(last)
            else:
                alive.discard(int(number))
        unsure |= {last - 1, last, last + 1}
        first = last + 2
        place = place_on(tmp_path)
        disk = Disk(
            name="d",
            disk_id=DISK_ID,
            directory=place.directory,
            open_store=place.open_store,
            clock=_Clock(),
            reserve_bytes=0,
            volume_bytes_max=2_000_000,
        )
        found = {number for number, _ in listing(disk)}
        assert found - unsure == alive - unsure
        assert len(found) >= lines // 2
        for number in found:
            assert read(disk, number) == random.Random(number).randbytes(30_000)
        assert not disk.warnings
        disk.close()
        place.directory.close()  # type: ignore[attr-defined]


class _Clock:
    def time_ns(self) -> int:
        return 1
