"""What may be proposed to the root group about snapshots; see `snapshots` and `commands`."""

from __future__ import annotations

import msgspec


class BeginSnapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="snapshot"):
    """Give a snapshot its epoch. Value: that. Refused while another has the name."""

    name: str
    scope: int
    path: str
    now_ms: int
    schedule: str = ""


class SettleSnapshot(
    msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="settle_snapshot"
):
    """Every shard has marked the snapshot (`ready`), or it is given up."""

    epoch: int
    ready: bool


class DeleteSnapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="unshot"):
    """Take a snapshot from sight."""

    epoch: int


class ForgetSnapshot(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="forget"):
    """Every shard has dropped the snapshot."""

    epoch: int


class SetSchedule(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="schedule"):
    """Set which snapshots are taken of a directory by themselves; `keep` empty: none."""

    scope: int
    path: str
    keep: dict[str, int]


class KeepTrash(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="trash"):
    """Say how long what is removed stays, seconds; `told`: every shard knows already."""

    keep_s: int
    told: bool = False
