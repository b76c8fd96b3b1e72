"""The volume logs of one disk: numbered append-only files of records.

Owns the files `NNNNNNNN.volume` of a directory: which one takes appends (always the highest
number), when the next begins, and how a failed append is undone. What a record means is the
engine's.

Invariants:

* A volume's number is never given twice: the highest is never removed, and a new one's name is
  durable before its first record can be acknowledged.
* Every append begins at `end`, a multiple of the record alignment; a failed one is cut off again.
  When even that fails the log is `broken`: it takes no more appends.
* Only the highest volume can hold bytes that were not synced: a volume is synced before the next
  one is made.

Appends come from one thread at a time; reads from any. At most `OPEN_FILES_MAX` files are open: a
read that meets a closing file opens it again.
"""

from __future__ import annotations

import contextlib
import errno
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence

from cfs.core.errors import NotFound
from cfs.core.segment.record import (
    Record,
    aligned,
    encode_header,
    place_of,
)
from cfs.fs.disk.port import Directory, File

VOLUME_BYTES_MAX = 1 << 30
OPEN_FILES_MAX = 256
"""Under the usual limit of 1,024 descriptors with three disks in a process."""

CACHE_BYTES = 128 << 20
"""Newest bytes of a disk left in the page cache. Where memory is new to the machine (a virtual one
whose host takes free pages back) filling it costs 2,300 us/MiB against 220 for pages used before:
writes ran at 355 and at 1,616 MiB/s."""

_RUN_BYTES = 4 << 20
_Forget = Callable[[int, int], None]
_ReadNow = Callable[[int, int], bytes | bytearray | None]

_NAME = re.compile(r"(\d{8})\.volume")
_ZEROES = bytes(4096)
_READ_ATTEMPTS = 4


class _Run:
    """Bytes of a volume that the page cache was left with."""

    __slots__ = ("length", "offset", "volume")

    def __init__(self, volume: int, offset: int, length: int) -> None:
        self.volume = volume
        self.offset = offset
        self.length = length


class VolumeLog:
    """The volumes in `directory`; made by the owner of the disk `disk_id`."""

    def __init__(
        self, directory: Directory, disk_id: bytes, *, volume_bytes_max: int = VOLUME_BYTES_MAX
    ) -> None:
        self.disk_id = disk_id
        self.broken = False
        self._directory = directory
        self._volume_bytes_max = volume_bytes_max
        self._files: dict[int, File] = {}
        self._lock = threading.Lock()
        self._allocated: dict[int, int] = {}
        self._changes = 0
        self._cached: deque[_Run] = deque()
        self._cached_bytes = 0
        found = (_NAME.fullmatch(name) for name in directory.names())
        self._numbers = {int(match[1]) for match in found if match}
        if not self._numbers:
            self._create(1)
        self.active = max(self._numbers)
        self.end = self.size(self.active)
        """Where the next record goes; recovery sets it when it cut the tail."""

    def numbers(self) -> list[int]:
        """List the volumes."""
        return sorted(self._numbers)

    def append(self, records: Sequence[tuple[Record, bytes | memoryview]]) -> list[tuple[int, int]]:
        """Append records side by side; give volume and offset of each. Not durable yet.

        On OSError nothing of them is left, or the log is `broken`.
        """
        assert not self.broken
        total = sum(record.span for record, _ in records)
        if self.end and self.end + total > self._volume_bytes_max:
            self._roll()
        offset = self.end
        places = []
        parts: list[bytes | memoryview] = []
        for record, payload in records:
            places.append((self.active, offset))
            parts.append(encode_header(record, place_of(self.disk_id, self.active, offset)))
            if record.payload_length:
                parts.append(payload)
            if padding := record.span - record.length:
                parts.append(_ZEROES[:padding])
            offset += record.span
        try:
            began = self._file(self.active).append(parts)
        except OSError:
            self.cut()
            raise
        if began != self.end:
            self.broken = True
            raise OSError(errno.EIO, f"volume {self.active} ends at {began}, not {self.end}")
        self._remember(self.end, offset - self.end)
        self.end = offset
        return places

    def cut(self, end: int | None = None) -> None:
        """Cut the active volume at `end` (by default: off what a failed append left)."""
        end = self.end if end is None else end
        try:
            self._file(self.active).truncate(end)
        except OSError:
            self.broken = True
        else:
            self.end = end

    def repair_end(self, end: int) -> None:
        """Make the active volume end at `end`, durably. Raises OSError."""
        file = self._file(self.active)
        if file.size() != end:
            file.truncate(end)
            file.sync()
        self.end = end

    def sync(self, volume: int | None = None) -> None:
        """Make what was appended to (or punched in) a volume durable; by default the active one."""
        self._file(self.active if volume is None else volume).sync()

    def release(self) -> None:
        """Let the page cache give up all but the newest `CACHE_BYTES` of what was synced."""
        while self._cached_bytes > CACHE_BYTES:
            run = self._cached.popleft()
            self._cached_bytes -= run.length
            file = self._files.get(run.volume)
            forget: _Forget | None = getattr(file, "forget", None)
            if forget is not None:
                with contextlib.suppress(OSError):  # the kernel may keep what it likes
                    forget(run.offset, run.length)

    def read(self, volume: int, offset: int, length: int) -> bytes:
        """Read; short past the end. Raises NotFound when the volume is gone, OSError."""
        for _ in range(_READ_ATTEMPTS):
            try:
                return self._file(volume).pread(offset, length)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
        raise OSError(errno.EBADF, f"volume {volume} was closed {_READ_ATTEMPTS} times in a read")

    def forget(self, volume: int, offset: int, length: int) -> None:
        """Have the page cache give up a range, so that the next read is the disk's."""
        forget: _Forget | None = getattr(self._file(volume), "forget", None)
        if forget is not None:
            with contextlib.suppress(OSError):
                forget(offset, length)

    def read_now(self, volume: int, offset: int, length: int) -> bytes | bytearray | None:
        """Read what is in memory already and can be had without waiting; else None."""
        file = self._files.get(volume)
        pread_now: _ReadNow | None = getattr(file, "pread_now", None)
        return None if pread_now is None else pread_now(offset, length)

    def punch(self, volume: int, offset: int, length: int) -> None:
        """Free the blocks of a dead record. Durable after a sync of the volume. Raises OSError."""
        self._file(volume).punch(offset, aligned(length))
        self._changes += 1
        self._allocated.pop(volume, None)

    def remove(self, volume: int) -> None:
        """Remove a volume without live records. The name's end is durable after `sync_names`."""
        assert volume != self.active
        self._directory.remove(_name(volume))
        self._numbers.discard(volume)
        self._allocated.pop(volume, None)
        with self._lock:
            file = self._files.pop(volume, None)
        if file is not None:
            file.close()

    def sync_names(self) -> None:
        """Make removals durable."""
        self._directory.sync()

    def size(self, volume: int) -> int:
        """Give a volume's size in bytes, holes included."""
        return self._file(volume).size()

    def allocated(self) -> int:
        """Give the bytes of blocks that all volumes occupy."""
        total = 0
        for number in self.numbers():
            try:
                known = self._allocated.get(number)
                if known is None or number == self.active:
                    changes = self._changes
                    known = self._file(number).allocated()
                    if changes == self._changes:  # else a hole may be newer than the answer
                        self._allocated[number] = known
            except (OSError, NotFound):
                continue
            total += known
        return total

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            files = list(self._files.values())
            self._files.clear()
        for file in files:
            file.close()

    def _remember(self, offset: int, length: int) -> None:
        self._cached_bytes += length
        last = self._cached[-1] if self._cached else None
        if last is not None and last.volume == self.active and last.length < _RUN_BYTES:
            last.length = offset + length - last.offset
        else:
            self._cached.append(_Run(self.active, offset, length))

    def _roll(self) -> None:
        self.sync()
        self._allocated.pop(self.active, None)
        self._create(self.active + 1)
        self.active += 1
        self.end = 0

    def _create(self, number: int) -> None:
        file = self._directory.open(_name(number), create=True)
        self._directory.sync()
        self._numbers.add(number)
        self._keep(number, file)

    def _file(self, volume: int) -> File:
        file = self._files.get(volume)
        if file is not None:
            return file
        if volume not in self._numbers:
            raise NotFound(f"volume {volume} is not on this disk")
        try:
            file = self._directory.open(_name(volume))
        except FileNotFoundError:
            raise NotFound(f"volume {volume} is not on this disk") from None
        return self._keep(volume, file)

    def _keep(self, volume: int, file: File) -> File:
        with self._lock:
            known = self._files.setdefault(volume, file)
            closing = [file] if known is not file else []
            while len(self._files) > OPEN_FILES_MAX:
                oldest = next(n for n in self._files if n not in (volume, max(self._numbers)))
                closing.append(self._files.pop(oldest))
        for other in closing:
            other.close()
        return known


def _name(number: int) -> str:
    return f"{number:08d}.volume"
