"""A disk in memory with an index store that lags and loses what was not synced."""

from __future__ import annotations

import random
from collections.abc import Iterable

from cfs.core.ids import SegmentId
from cfs.core.kv import MemoryStore
from cfs.fs.disk.memory import MemoryDirectory
from cfs.fs.store.engine import Disk
from cfs.fs.store.jobs import Delete, Put

DISK_ID = b"disk-identifier!"


class CrashStore(MemoryStore):
    """A `MemoryStore` that survives with its last synced state; `fail` makes writes raise."""

    def __init__(self) -> None:
        super().__init__()
        self.durable: dict[bytes, bytes] = {}
        self.error: Exception | None = None

    def write(self, changes: Iterable[tuple[bytes, bytes | None]], *, sync: bool) -> None:
        if self.error is not None:
            raise self.error
        super().write(changes, sync=sync)
        if sync:
            self.durable = dict(self._pairs)

    def crash(self) -> None:
        self._pairs.clear()
        self._pairs.update(self.durable)


class Rig:
    """A disk's surroundings, which outlive its crashes."""

    def __init__(self, *, capacity: int = 1 << 30, reserve: int = 0, volume: int = 1 << 20) -> None:
        self.directory = MemoryDirectory(capacity=capacity)
        self.store = CrashStore()
        self.now_ns = 1_700_000_000_000_000_000
        self.reserve = reserve
        self.volume = volume

    def time_ns(self) -> int:
        return self.now_ns

    def random_bytes(self, count: int) -> bytes:
        return DISK_ID[:count]

    def open_store(self, fresh: bool) -> CrashStore:  # noqa: FBT001 - the port has one argument
        if fresh:
            self.store = CrashStore()
        return self.store

    def open(self) -> Disk:
        return Disk(
            name="d0",
            disk_id=DISK_ID,
            directory=self.directory,
            open_store=self.open_store,
            clock=self,
            reserve_bytes=self.reserve,
            volume_bytes_max=self.volume,
        )

    def crash(self, seed: int | None = None) -> None:
        self.directory.crash(None if seed is None else random.Random(seed).randrange)
        self.store.crash()
        self.store.error = None


def segment_of(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(16, "big"))


def make_put(
    number: int, payload: bytes, *, index: int = 0, repair: bool = False, raw: int = 10
) -> Put:
    return Put(
        segment=segment_of(number),
        index=index,
        data=2,
        parity=1,
        segment_length=2 * len(payload),
        raw_bytes=raw,
        sealed_bytes=raw // 2,
        repair=repair,
        payload=payload,
    )


def store(disk: Disk, *puts: Put) -> None:
    disk.commit(puts, ())
    for put in puts:
        if put.error is not None:
            raise put.error


def delete(disk: Disk, *numbers: int) -> None:
    job = Delete(segments=tuple(segment_of(n) for n in numbers))
    disk.commit((), (job,))
    if job.error is not None:
        raise job.error


def read(disk: Disk, number: int, index: int = 0) -> bytes:
    found = disk.find(segment_of(number), index)
    length = found[1].payload_length if found else 0
    return bytes(disk.read(segment_of(number), index, 0, length)[1])


def listing(disk: Disk) -> list[tuple[int, int]]:
    rows = disk.after(b"", 0, 1 << 30, 1 << 62)
    return [(int.from_bytes(segment, "big"), index) for segment, index, _ in rows]
