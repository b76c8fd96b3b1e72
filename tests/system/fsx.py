"""Random file operations, from one seed, on a file under test and on a local one: equal throughout.

Run as a program: python -m tests.system.fsx FILE LOCAL_FILE SEED STEPS. It prints `equal`, or the
last operations and where the two differ. Beside the classic mix (write, read, truncate, append,
reading and writing through a map) it punches, zeroes, allocates and copies ranges, reopens, syncs,
and writes through a second descriptor. What a local file system may lack is written there instead.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys
from collections import deque
from pathlib import Path

SIZE_MAX = 3 << 20
LENGTHS = (1, 7, 511, 4096, 4097, 20_000, 65_536, 300_000)
CALLS = {
    "write": 30, "append": 10, "read": 25, "map_read": 6, "map_write": 6, "truncate": 8,
    "cut_and_grow": 3, "punch": 5, "zero": 4, "allocate": 3, "copy": 6, "reopen": 6, "sync": 4,
    "second_write": 5, "look": 3,
}  # fmt: skip
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
_LIBC = ctypes.CDLL(None, use_errno=True)


def fallocate(fd, mode, offset, length):
    """fallocate(2) with a mode, which Python does not offer."""
    if _LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        number = ctypes.get_errno()
        raise OSError(number, f"fallocate {mode} {offset} {length}: {os.strerror(number)}")


class DifferError(AssertionError):
    pass


class Exerciser:
    """Do the same to both files and compare what comes back."""

    def __init__(self, tested: Path, local: Path, seed: int):
        self._chance = random.Random(seed)
        self._paths = (tested, local)
        self._files = [os.open(p, os.O_RDWR | os.O_CREAT, 0o644) for p in self._paths]
        self._size = 0
        self.history = deque(maxlen=40)

    def run(self, steps):
        names, weights = zip(*CALLS.items(), strict=True)
        for number in range(steps):
            name = self._chance.choices(names, weights)[0]
            self.history.append([number, name])
            getattr(self, f"_{name}")()
        self._look()
        for fd in self._files:
            os.close(fd)

    def _span(self, limit):
        at = self._chance.randrange(limit) if limit else 0
        if self._chance.random() < 0.3:
            at -= at % 4096
        length = self._chance.randint(1, self._chance.choice(LENGTHS))
        self.history[-1] += [at, length]
        return at, length

    def _bytes(self, length):
        if self._chance.random() < 0.2:
            return bytes(length)
        return self._chance.randbytes(length)

    def _write(self):
        at, length = self._span(min(self._size + 50_000, SIZE_MAX))
        self._put(at, self._bytes(length))

    def _append(self):
        if self._size < SIZE_MAX:
            _, length = self._span(1)
            self._put(self._size, self._bytes(length))

    def _put(self, at, content):
        for fd in self._files:
            assert os.pwrite(fd, content, at) == len(content)
        self._size = max(self._size, at + len(content))

    def _second_write(self):
        """Write through another open of the same file."""
        at, length = self._span(self._size + 1)
        content = self._bytes(length)
        for path in self._paths:
            fd = os.open(path, os.O_WRONLY)
            try:
                assert os.pwrite(fd, content, at) == len(content)
            finally:
                os.close(fd)
        self._size = max(self._size, at + len(content))

    def _read(self):
        at, length = self._span(self._size + 1)
        self._same(at, *[os.pread(fd, length, at) for fd in self._files])

    def _map_read(self):
        if not self._size:
            return
        at, length = self._span(self._size)
        found = []
        for fd in self._files:
            with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as view:
                found.append(view[at : at + length])
        self._same(at, *found)

    def _truncate(self):
        size, _ = self._span(min(self._size * 2 + 2, SIZE_MAX))
        for fd in self._files:
            os.ftruncate(fd, size)
        self._size = size

    def _map_write(self):
        if not self._size:
            return
        at, length = self._span(self._size)
        content = self._bytes(min(length, self._size - at))
        for fd in self._files:
            with mmap.mmap(fd, 0) as view:
                view[at : at + len(content)] = content
                view.flush()

    def _punch(self):
        """Make a hole: on the local file, write zeroes."""
        at, length = self._span(self._size + 1)
        fallocate(self._files[0], PUNCH_HOLE | KEEP_SIZE, at, length)
        self._zero_local(at, min(length, self._size - at))

    def _zero(self):
        at, length = self._span(min(self._size + 10_000, SIZE_MAX))
        keeps = self._chance.random() < 0.5
        self.history[-1].append(keeps)
        fallocate(self._files[0], ZERO_RANGE | (KEEP_SIZE if keeps else 0), at, length)
        if keeps:
            length = min(length, self._size - at)
        self._zero_local(at, length)
        self._size = max(self._size, at + length)

    def _zero_local(self, at, length):
        if length > 0:
            os.pwrite(self._files[1], bytes(length), at)

    def _allocate(self):
        at, length = self._span(min(self._size + 10_000, SIZE_MAX))
        keeps = self._chance.random() < 0.3
        self.history[-1].append(keeps)
        fallocate(self._files[0], KEEP_SIZE if keeps else 0, at, length)
        if not keeps and at + length > self._size:
            self._size = at + length
            os.ftruncate(self._files[1], self._size)

    def _copy(self):
        """Copy a range of the file onto another; on the local file, read and write."""
        at, length = self._span(self._size + 1)
        to, _ = self._span(min(self._size + 10_000, SIZE_MAX))
        length = min(length, self._size - at, abs(at - to))
        content = os.pread(self._files[1], max(0, length), at)
        done = 0
        while done < length:
            count = os.copy_file_range(*self._files[:1] * 2, length - done, at + done, to + done)
            assert count > 0, "the source has these bytes"
            done += count
        if done:
            os.pwrite(self._files[1], content, to)
            self._size = max(self._size, to + done)

    def _cut_and_grow(self):
        """Cut short, then grow: what was there must read as zeroes."""
        cut, grown = sorted((self._span(self._size + 1)[0], self._span(self._size + 1)[0]))
        for fd in self._files:
            os.ftruncate(fd, cut)
            os.ftruncate(fd, grown)
        self._size = grown

    def _reopen(self):
        for fd in self._files:
            os.close(fd)
        self._files = [os.open(p, os.O_RDWR) for p in self._paths]

    def _sync(self):
        os.fsync(self._files[0])

    def _look(self):
        sizes = [os.fstat(fd).st_size for fd in self._files]
        if sizes != [self._size] * 2:
            raise DifferError(f"sizes {sizes}, expected {self._size}")
        self._same(0, *[os.pread(fd, self._size + 1, 0) for fd in self._files])

    def _same(self, at, tested, local):
        if tested == local:
            return
        first = next(
            (i for i, (a, b) in enumerate(zip(tested, local, strict=False)) if a != b),
            min(len(tested), len(local)),
        )
        raise DifferError(
            f"lengths {len(tested)} and {len(local)}; at {at + first}: "
            f"{tested[first : first + 16].hex()} and {local[first : first + 16].hex()}"
        )


def main():
    tested, local, seed, steps = sys.argv[1:]
    exerciser = Exerciser(Path(tested), Path(local), int(seed))
    try:
        exerciser.run(int(steps))
    except (DifferError, AssertionError, OSError) as error:
        print(f"seed {seed}: {type(error).__name__} {error}")
        for done in exerciser.history:
            print(*done)
        sys.exit(1)
    print("equal")


if __name__ == "__main__":
    main()
