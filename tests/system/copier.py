"""Copy a tree again and again until told to stop, and note when each file was done.

Run as a program: python -m tests.system.copier SOURCE TARGET LOG STOP. Pass n goes to TARGET/n;
each line of LOG is a monotonic time and a path. It ends after the pass in which STOP appears.
Every fourth file is synced, so that a pause below is seen above.
"""

import os
import shutil
import sys
import time
from pathlib import Path

PASSES_MAX = 10_000


def main():
    source, target, log, stop = map(Path, sys.argv[1:])
    with log.open("w", buffering=1) as lines:
        for number in range(PASSES_MAX):
            _copy(source, target / str(number), lines)
            if stop.exists():
                return


def _copy(source, target, lines):
    number = 0
    for folder, folders, names in os.walk(source):
        into = target / Path(folder).relative_to(source)
        into.mkdir(parents=True)
        for name in (*folders, *names):
            number += 1
            if (Path(folder) / name).is_symlink():
                (into / name).symlink_to((Path(folder) / name).readlink())
                continue
            if name in folders:
                continue
            with (Path(folder) / name).open("rb") as one, (into / name).open("wb") as other:
                shutil.copyfileobj(one, other, 1 << 20)
                if number % 4 == 0:
                    other.flush()
                    os.fsync(other.fileno())
            lines.write(f"{time.monotonic()} {into / name}\n")


if __name__ == "__main__":
    main()
