"""State and counters of a storage node: what its disks hold, have room for, and complain of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cfs.core.api.store import DiskStat, StoreStat
from cfs.fs.store.committer import Committer
from cfs.fs.store.engine import FULL_BYTES


def stat_of(committers: Sequence[Committer], failed: Iterable[str]) -> StoreStat:
    """Sum up the open disks; `failed` says why others are not. A few system calls a disk."""
    warnings = [*failed]
    disks: list[DiskStat] = []
    allocated = index_bytes = 0
    full = True
    for committer in committers:
        disk = committer.disk
        warnings += disk.warnings.values()
        try:
            size, room = disk.room()
            allocated += disk.allocated()
            index_bytes += disk.counts().bytes_used()
            device = disk.device()
        except OSError as error:
            warnings.append(f"disk {disk.name}: {error}")
            continue
        disks.append(
            DiskStat(
                name=disk.name,
                disk_id=disk.disk_id,
                device=device,
                size=size,
                free=max(0, room),
                reserve=disk.reserve_bytes,
                usable=disk.usable,
            )
        )
        if disk.usable and room >= FULL_BYTES:
            full = False
        elif disk.usable:
            warnings.append(_full_text(disk.name, size, disk.reserve_bytes))
    totals = [committer.disk.counts().total for committer in committers]
    return StoreStat(
        capacity=sum(d.size for d in disks if d.usable),
        free=sum(d.free for d in disks if d.usable),
        fragments=sum(t.fragments for t in totals),
        stored=sum(t.stored for t in totals),
        allocated=allocated,
        index_bytes=index_bytes,
        raw_bytes=sum(t.raw for t in totals),
        sealed_bytes=sum(t.sealed for t in totals),
        corrupt_reads=sum(c.disk.counts().corrupt_reads for c in committers),
        full=full,
        warnings=tuple(warnings),
        disks=tuple(disks),
        queued_bytes=sum(c.client_peak() for c in committers),
    )


def _full_text(name: str, size: int, reserve: int) -> str:
    if size < reserve + 2 * FULL_BYTES:
        return (
            f"disk {name} has {size >> 20} MiB, of which {reserve >> 20} MiB are kept for deletes "
            "and repair: too small for data, use a larger one or set storage.reserve_bytes"
        )
    return f"disk {name} is full: delete something or add a disk"
