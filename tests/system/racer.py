"""One of two that work on the same names at the same time, each on a mount of its own.

Run as a program: python -m tests.system.racer append|create|chaos MOUNT NUMBER SIZE. Errors that a
race explains (it is there already, it is gone) are part of the game; any other ends it.
"""

import os
import random
import sys
import time
from pathlib import Path

NAMES = 12
COLLISIONS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
NOT_EMPTY = 39


def line(number, index):
    return f"{number} {index} " + "x" * (index % 60)


def append(mount, number, size):
    for index in range(size):
        with (mount / "appended").open("ab", buffering=0) as file:
            file.write(line(number, index).encode() + b"\n")


def create(mount, number, size):
    """Print the names won."""
    folder = mount / "exclusive"
    folder.mkdir(exist_ok=True)
    for index in range(size):
        try:
            with (folder / f"n{index}").open("x") as file:
                file.write(str(number))
        except FileExistsError:
            continue
        print(f"n{index}")


def chaos(mount, number, size):
    folder = mount / "chaos"
    folder.mkdir(exist_ok=True)
    chance = random.Random(number)
    ends = time.monotonic() + size
    done = 0
    while time.monotonic() < ends:
        done += 1
        one, other = (folder / f"n{chance.randrange(NAMES)}" for _ in range(2))
        try:
            _act(chance, one, other, number)
        except COLLISIONS:
            continue
        except OSError as error:
            # into itself, over a directory with entries
            if error.errno not in {22, NOT_EMPTY, 16, 1, 40}:
                raise
    print(done)


def _act(chance, one, other, number):
    match chance.randrange(10):
        case 0 | 1:
            one.write_bytes(b"%d" % number * chance.randrange(40_000))
        case 2:
            one.unlink()
        case 3 | 4:
            one.rename(other)
        case 5:
            os.link(one, other)
        case 6:
            one.mkdir()
            (one / "inside").touch()
        case 7:
            one.rmdir()
        case 8:
            (one / "inside").rename(other)
        case 9:
            one.chmod(chance.choice((0o600, 0o755)))


def attributes(path):
    """What both mounts must say of a file; the device number is each mount's own."""
    found = path.lstat()
    return (
        found.st_mode, found.st_ino, found.st_nlink, found.st_uid, found.st_gid, found.st_size,
        found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip


def tree(folder):
    """Everything below, with attributes and contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else sorted(p.name for p in path.iterdir())
        assert path.is_dir() or len(content) == status.st_size
        found[str(path.relative_to(folder))] = (attributes(path), content)
    return found


def main():
    action, mount, number, size = sys.argv[1:]
    {"append": append, "create": create, "chaos": chaos}[action](
        Path(mount), int(number), int(size)
    )


if __name__ == "__main__":
    main()
