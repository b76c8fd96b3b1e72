"""Snapshots as the root group knows them, the schedules that take them, the trash's retention.

    TAKING ──> READY ──> DELETING ──> forgotten
       └─────────────────────┘         a taking that failed, or whose leader is gone

An epoch is given once, and rises: shards refuse one that is below what they have seen. A name is
free again when its snapshot is being deleted. What a schedule wants is decided here, from the
records and a clock: `due` and `expired`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cfs.core.api.snapshots import Snapshot
from cfs.core.errors import Malformed, NotFound, Refused
from cfs.core.kv import Reader, Writer
from cfs.core.root import commands, records
from cfs.core.root.records import (
    ScheduleRecord,
    SnapshotPhase,
    SnapshotRecord,
    TrashRecord,
    encode,
    get,
    get_counters,
    number_key,
)

SNAPSHOTS_MAX = 1000
"""Below what a shard takes: those being deleted are still there."""
SCHEDULES_MAX = 256
SLOTS = 4096
"""Epochs of snapshots that are there together differ modulo this: see `cfs.fs.client.numbers`."""
TRASH_S_MAX = 3650 * 86_400
NAME_MAX = 128
PERIODS_S = {"minutely": 60, "hourly": 3600, "daily": 86_400, "weekly": 7 * 86_400}


def read_snapshots(kv: Reader) -> list[SnapshotRecord]:
    """Give every snapshot that is not forgotten, oldest first."""
    return records.get_all(kv, SnapshotRecord, records.SNAPSHOT_PREFIX)


def read_schedules(kv: Reader) -> list[ScheduleRecord]:
    """Give every schedule."""
    return records.get_all(kv, ScheduleRecord, records.SCHEDULE_PREFIX)


def ready(kv: Reader) -> tuple[Snapshot, ...]:
    """Give the snapshots that can be looked at, oldest first."""
    return tuple(r.snapshot for r in read_snapshots(kv) if r.phase == SnapshotPhase.READY)


def begin(kv: Writer, command: commands.BeginSnapshot) -> int:
    """Give a snapshot its epoch."""
    check_name(command.name)
    known = read_snapshots(kv)
    if len(known) >= SNAPSHOTS_MAX:
        raise Refused(f"there are {len(known)} snapshots, the most there can be: delete some")
    if any(r.snapshot.name == command.name and r.phase != SnapshotPhase.DELETING for r in known):
        raise Refused(f"there is a snapshot {command.name!r} already: choose another name")
    counters = get_counters(kv)
    epoch = counters.next_snapshot
    used = {0} | {r.snapshot.epoch % SLOTS for r in known}
    while epoch % SLOTS in used:
        epoch += 1
    kv.put(records.COUNTERS_KEY, encode(msgspec.structs.replace(counters, next_snapshot=epoch + 1)))
    snapshot = Snapshot(
        epoch=epoch,
        name=command.name,
        scope=command.scope,
        path=command.path,
        created_ms=command.now_ms,
        schedule=command.schedule,
    )
    _put(kv, SnapshotRecord(snapshot=snapshot, phase=SnapshotPhase.TAKING))
    return epoch


def settle(kv: Writer, command: commands.SettleSnapshot) -> int:
    """Let a taken snapshot be looked at, or give it up."""
    record = _require(kv, command.epoch)
    phase = SnapshotPhase.READY if command.ready else SnapshotPhase.DELETING
    if record.phase == phase:
        return command.epoch
    if record.phase != SnapshotPhase.TAKING:
        raise Refused(f"the snapshot {record.snapshot.name!r} is {record.phase.name.lower()}")
    _put(kv, msgspec.structs.replace(record, phase=phase))
    return command.epoch


def delete(kv: Writer, command: commands.DeleteSnapshot) -> int:
    """Take a snapshot from sight; shards are told later."""
    record = _require(kv, command.epoch)
    if record.phase == SnapshotPhase.TAKING:
        raise Refused(f"the snapshot {record.snapshot.name!r} is just being taken; try again")
    _put(kv, msgspec.structs.replace(record, phase=SnapshotPhase.DELETING))
    return command.epoch


def forget(kv: Writer, command: commands.ForgetSnapshot) -> int:
    """Forget a snapshot that every shard has dropped."""
    record = get(kv, SnapshotRecord, number_key(records.SNAPSHOT_PREFIX, command.epoch))
    if record is None:
        return command.epoch
    if record.phase != SnapshotPhase.DELETING:
        raise Refused(f"the snapshot {record.snapshot.name!r} is not deleted")
    kv.delete(number_key(records.SNAPSHOT_PREFIX, command.epoch))
    return command.epoch


def schedule(kv: Writer, command: commands.SetSchedule) -> int:
    """Set the schedule of a directory; one that keeps nothing is forgotten."""
    if any(p not in PERIODS_S or not 0 < n <= SNAPSHOTS_MAX for p, n in command.keep.items()):
        raise Malformed(f"a schedule keeps 1 to {SNAPSHOTS_MAX} of {', '.join(PERIODS_S)}")
    key = records.long_key(records.SCHEDULE_PREFIX, command.scope)
    if not command.keep:
        kv.delete(key)
        return 0
    if kv.get(key) is None and len(read_schedules(kv)) >= SCHEDULES_MAX:
        raise Refused(f"there are {SCHEDULES_MAX} schedules, the most there can be")
    record = ScheduleRecord(scope=command.scope, path=command.path, keep=command.keep)
    kv.put(key, encode(record))
    return len(command.keep)


def keep_trash(kv: Writer, command: commands.KeepTrash) -> int:
    """Set how long what is removed stays, or note that every shard knows it."""
    if not 0 <= command.keep_s <= TRASH_S_MAX:
        raise Malformed(f"the trash keeps what is removed up to {TRASH_S_MAX // 86_400} days")
    if command.told and trash(kv).keep_s != command.keep_s:
        raise Refused("that changed meanwhile")
    record = TrashRecord(keep_s=command.keep_s, told=command.told)
    kv.put(records.TRASH_KEY, encode(record))
    return command.keep_s


def trash(kv: Reader) -> TrashRecord:
    """Give how long what is removed stays."""
    return get(kv, TrashRecord, records.TRASH_KEY) or TrashRecord()


def due(kv: Reader, now_ms: int) -> list[tuple[ScheduleRecord, str]]:
    """List the schedules, each with a period, that have no snapshot of the present period."""
    known = read_snapshots(kv)
    found: list[tuple[ScheduleRecord, str]] = []
    for one in read_schedules(kv):
        for period in one.keep:
            length_ms = PERIODS_S[period] * 1000
            begun_ms = now_ms // length_ms * length_ms
            if not any(r.snapshot.created_ms >= begun_ms for r in _of(known, one, period)):
                found.append((one, period))
    return found


def expired(kv: Reader) -> list[Snapshot]:
    """List the snapshots that their schedules do not keep any more, oldest first."""
    known = read_snapshots(kv)
    found: list[Snapshot] = []
    for one in read_schedules(kv):
        for period, count in one.keep.items():
            mine = [r.snapshot for r in _of(known, one, period)]
            found += mine[: max(0, len(mine) - count)]
    return found


def tag(period: str, scope: int) -> str:
    """Name a schedule's period in a snapshot."""
    return f"{period}/{scope}"


def check_name(name: str) -> None:
    """Raise Malformed for what cannot name a snapshot: it becomes a directory's name."""
    if not 0 < len(name.encode()) <= NAME_MAX:
        raise Malformed(f"a snapshot's name has 1 to {NAME_MAX} bytes")
    if "/" in name or name.startswith(".") or not name.isprintable():
        raise Malformed(f"{name!r} cannot name a snapshot: no slash, no dot in front, printable")


def _of(known: Iterable[SnapshotRecord], one: ScheduleRecord, period: str) -> list[SnapshotRecord]:
    wanted = tag(period, one.scope)
    return [r for r in known if r.phase == SnapshotPhase.READY and r.snapshot.schedule == wanted]


def _require(kv: Reader, epoch: int) -> SnapshotRecord:
    record = get(kv, SnapshotRecord, number_key(records.SNAPSHOT_PREFIX, epoch))
    if record is None:
        raise NotFound(f"snapshot {epoch} is gone")
    return record


def _put(kv: Writer, record: SnapshotRecord) -> None:
    kv.put(number_key(records.SNAPSHOT_PREFIX, record.snapshot.epoch), encode(record))
