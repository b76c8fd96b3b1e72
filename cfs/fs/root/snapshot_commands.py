"""An administrator's commands on snapshots and trash (`root.admin`): names, arguments, answers.

    snapshot_create    name, scope?, path?           -> epoch, created_ms
    snapshot_delete    name                          -> {}
    snapshot_schedule  scope?, path?, keep           -> keep   `keep` {}: no schedule any more
    schedule_list                                    -> schedules
    trash_keep         keep_s?                       -> keep_s   0: what is removed goes at once

`scope` is a directory's inode number; left out: everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfs.core.errors import Malformed
from cfs.core.ids import ROOT_INO
from cfs.core.root import commands, snapshots
from cfs.fs.root.admin import Command
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.snapshots import Snapshots

_Arguments = dict[str, Any]


class SnapshotCommands:
    """Carries them out on the root leader."""

    def __init__(self, replica: RootReplica, worker: Snapshots) -> None:
        self._replica = replica
        self._worker = worker
        self.table: Mapping[str, Command] = {
            "snapshot_create": Command(self._create, frozenset({"name", "scope", "path"})),
            "snapshot_delete": Command(self._delete, frozenset({"name"})),
            "snapshot_schedule": Command(self._schedule, frozenset({"scope", "path", "keep"})),
            "schedule_list": Command(self._schedules, frozenset()),
            "trash_keep": Command(self._trash_keep, frozenset({"keep_s"})),
        }

    async def _create(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        scope, path = _place(arguments)
        taken = await self._worker.take(_name(arguments), scope=scope, path=path)
        return {"epoch": taken.epoch, "created_ms": taken.created_ms}

    async def _delete(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        await self._worker.delete(_name(arguments))
        return {}

    async def _schedule(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        scope, path = _place(arguments)
        keep = arguments.get("keep")
        if not isinstance(keep, dict) or not all(
            isinstance(p, str) and isinstance(n, int) for p, n in keep.items()
        ):
            raise Malformed("keep says how many of what: {'hourly': 24, 'daily': 7}")
        await self._replica.propose(commands.SetSchedule(scope=scope, path=path, keep=keep))
        return {"keep": keep}

    async def _trash_keep(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        keep_s = arguments.get("keep_s")
        if isinstance(keep_s, int):
            await self._replica.propose(commands.KeepTrash(keep_s=keep_s))
            await self._worker.tell_trash()
        return {"keep_s": snapshots.trash(self._replica.state).keep_s}

    async def _schedules(self, _arguments: _Arguments, _by: str) -> dict[str, Any]:
        return {
            "schedules": [
                {"scope": s.scope, "path": s.path, "keep": s.keep}
                for s in snapshots.read_schedules(self._replica.state)
            ]
        }


def _name(arguments: _Arguments) -> str:
    name = arguments.get("name")
    if not isinstance(name, str):
        raise Malformed("name is missing")
    return name


def _place(arguments: _Arguments) -> tuple[int, str]:
    scope, path = arguments.get("scope", int(ROOT_INO)), arguments.get("path", "/")
    if not isinstance(scope, int) or scope <= 0 or not isinstance(path, str):
        raise Malformed("scope is a directory's inode number")
    return scope, path
