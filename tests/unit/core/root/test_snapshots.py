"""Snapshots in the root group: epochs and names given once, schedules that keep their count."""

from __future__ import annotations

import pytest

from cfs.core.errors import Malformed, NotFound, Refused
from cfs.core.root import commands as c
from cfs.core.root import snapshots
from cfs.core.root.snapshots import SLOTS
from tests.unit.core.root.test_root_machine import CREATE, Root

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def made() -> Root:
    root = Root()
    root.do(CREATE)
    return root


def begin(root: Root, name: str, now_ms: int = 1, *, scope: int = 1, schedule: str = "") -> int:
    return root.do(
        c.BeginSnapshot(name=name, scope=scope, path="/", now_ms=now_ms, schedule=schedule)
    )


def take(root: Root, name: str, now_ms: int = 1, *, scope: int = 1, schedule: str = "") -> int:
    epoch = begin(root, name, now_ms, scope=scope, schedule=schedule)
    return root.do(c.SettleSnapshot(epoch=epoch, ready=True))


def names(root: Root) -> list[str]:
    return [s.name for s in snapshots.ready(root.kv)]


def test_only_what_every_shard_marked_can_be_looked_at() -> None:
    root = made()
    first = begin(root, "a")
    assert names(root) == []
    root.refuses(c.BeginSnapshot(name="a", scope=1, path="/", now_ms=2), Refused)
    root.refuses(c.DeleteSnapshot(epoch=first), Refused)
    root.do(c.SettleSnapshot(epoch=first, ready=False))
    root.refuses(c.SettleSnapshot(epoch=first, ready=True), Refused)
    second = take(root, "a")
    assert second > first
    assert names(root) == ["a"]
    root.do(c.ForgetSnapshot(epoch=first))
    root.do(c.ForgetSnapshot(epoch=first))
    root.refuses(c.ForgetSnapshot(epoch=second), Refused)
    root.do(c.DeleteSnapshot(epoch=second))
    assert names(root) == []
    assert take(root, "a") > second
    root.do(c.ForgetSnapshot(epoch=second))
    root.refuses(c.SettleSnapshot(epoch=second, ready=True), NotFound)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\n", "x" * 129])
def test_a_name_becomes_a_directory(name: str) -> None:
    made().refuses(c.BeginSnapshot(name=name, scope=1, path="/", now_ms=1), Malformed)


def test_epochs_that_are_there_together_differ_in_their_slots() -> None:
    root = made()
    kept = take(root, "kept")
    for number in range(SLOTS + 5):
        epoch = take(root, f"n{number}")
        assert epoch % SLOTS not in {0, kept % SLOTS}
        root.do(c.DeleteSnapshot(epoch=epoch))
        root.do(c.ForgetSnapshot(epoch=epoch))


def test_a_schedule_takes_what_is_due_and_keeps_its_count() -> None:
    root = made()
    root.refuses(c.SetSchedule(scope=5, path="/d", keep={"yearly": 1}), Malformed)
    root.refuses(c.SetSchedule(scope=5, path="/d", keep={"hourly": 0}), Malformed)
    root.do(c.SetSchedule(scope=5, path="/d", keep={"hourly": 3, "daily": 2}))
    root.do(c.SetSchedule(scope=1, path="/", keep={"daily": 1}))
    kept: dict[str, list[int]] = {}
    for hour in range(60):
        now_ms = 10 * DAY_MS + hour * HOUR_MS + 7
        for one, period in snapshots.due(root.kv, now_ms):
            tag = snapshots.tag(period, one.scope)
            epoch = take(root, f"{tag} {hour}".replace("/", "-"), now_ms, scope=one.scope,
                         schedule=tag)  # fmt: skip
            kept.setdefault(tag, []).append(epoch)
        assert snapshots.due(root.kv, now_ms + HOUR_MS // 2) == []
        for old in snapshots.expired(root.kv):
            root.do(c.DeleteSnapshot(epoch=old.epoch))
            root.do(c.ForgetSnapshot(epoch=old.epoch))
    assert {tag: len(epochs) for tag, epochs in kept.items()} == {
        "hourly/5": 60, "daily/5": 3, "daily/1": 3,
    }  # fmt: skip
    there = sorted(s.epoch for s in snapshots.ready(root.kv))
    wanted = kept["hourly/5"][-3:] + kept["daily/5"][-2:] + kept["daily/1"][-1:]
    assert there == sorted(wanted)
    root.do(c.SetSchedule(scope=5, path="/d", keep={}))
    assert [s.scope for s in snapshots.read_schedules(root.kv)] == [1]
    assert snapshots.due(root.kv, 10 * DAY_MS + 60 * HOUR_MS) == []
