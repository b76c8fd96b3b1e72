"""Write files, sync them, and only then record on another disk what must survive a crash.

Run as a program: python -m tests.system.recorder DIRECTORY LOG SEED. It goes on until an
operation fails, as it will when the cluster is killed. A line of LOG says `begin PATH` before a
file is touched and `done PATH SIZE SHA256` after it was synced: what was `done` and not begun again
must be there, exactly; what was begun again must still start with it, or have been replaced.
"""

import hashlib
import os
import random
import sys
from pathlib import Path

FILES_MAX = 100_000
FOLDER_FILES = 25
SIZES = (0, 10, 3000, 15_000, 17_000, 100_000, 400_000, 2_500_000)
WEIGHTS = (1, 4, 12, 6, 4, 6, 4, 1)


def main():
    directory, log, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    contents: dict[Path, bytes] = {}
    for number in range(FILES_MAX):
        folder = directory / str(number // FOLDER_FILES)
        folder.mkdir(parents=True, exist_ok=True)
        content = chance.randbytes(chance.choices(SIZES, WEIGHTS)[0])
        kind = chance.choices(("plain", "renamed", "appended", "replaced"), (5, 3, 2, 1))[0]
        path = folder / f"{number}-{kind}"
        if kind in {"appended", "replaced"} and contents:
            path = chance.choice(list(contents)[-30:])
        _say(lines, f"begin {path.relative_to(directory)}")
        if kind == "appended":
            content = contents.get(path, b"") + content
        _store(path, content, kind, contents.get(path, b""))
        contents[path] = content
        digest = hashlib.sha256(content).hexdigest()
        _say(lines, f"done {path.relative_to(directory)} {len(content)} {digest}")


def _store(path, content, kind, before):
    written = path.with_name("temporary") if kind in {"renamed", "replaced"} else path
    if kind == "appended":
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        content = content[len(before) :]
    else:
        fd = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    if written != path:
        written.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _say(lines, text):
    os.write(lines, f"{text}\n".encode())


def check(directory, log):
    """Compare what a recorder promised with what is there; give the count of files."""
    promised: dict[str, tuple[int, str]] = {}
    begun = set()
    for line in log.read_text().splitlines():
        word, path, *rest = line.split()
        if word == "begin":
            begun.add(path)
        elif rest[1:]:
            begun.discard(path)
            promised[path] = (int(rest[0]), rest[1])
    for path, (size, digest) in promised.items():
        content = (directory / path).read_bytes()
        if path in begun:
            assert "-" in path
            if hashlib.sha256(content[:size]).hexdigest() == digest:
                continue
            # it was being replaced: whole and new, which nothing recorded
            assert content, f"{path} was being changed and is empty"
            continue
        assert len(content) == size, f"{path} has {len(content)} bytes, {size} were synced"
        assert hashlib.sha256(content).hexdigest() == digest, f"{path} has other bytes"
    return len(promised)


def read_all(directory):
    """Read every file below; any error is raised. Gives the count of files."""
    count = 0

    def failed(error):
        raise error

    for folder, _, names in os.walk(directory, onerror=failed):
        for name in names:
            path = Path(folder) / name
            assert len(path.read_bytes()) == path.stat().st_size
            count += 1
    return count


if __name__ == "__main__":
    main()
