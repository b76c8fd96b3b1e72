"""An operator's questions about the cluster (`root.admin`): names, arguments, answers.

findings   all?, files?     -> findings, overflow   open ones; `files`: who is at risk
events     after?, limit?   -> events, last         oldest first; by default the latest
top                         -> what `usage` gives
explain    path             -> what `explain` gives
resolve    path             -> ino, directory
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.errors import CfsError, Malformed
from cfs.core.root import events, findings
from cfs.core.root.findings import FindingState
from cfs.fs.root.admin import Command
from cfs.fs.root.explain import Explainer
from cfs.fs.root.paths import Paths, is_directory
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.usage import UsageOfAll

EVENTS_MAX = 1000
FILES_OF_EACH = 20
FILES_OF_FINDINGS_MAX = 50
"""Findings whose files are looked up in one answer."""


class Insight:
    """Answers them."""

    def __init__(
        self, *, replica: RootReplica, paths: Paths, explainer: Explainer, usage: UsageOfAll
    ) -> None:
        self._explainer = explainer
        self._usage = usage
        self._replica = replica
        self._paths = paths
        self.table = {
            "findings": Command(self._findings, frozenset({"all", "files"})),
            "events": Command(self._events, frozenset({"after", "limit"})),
            "top": Command(self._top, frozenset()),
            "explain": Command(self._explain, frozenset({"path"})),
            "resolve": Command(self._resolve, frozenset({"path"})),
        }

    async def _findings(self, arguments: dict[str, Any], _by: str) -> dict[str, Any]:
        state = self._replica.state
        rows = []
        asked = 0
        for found in sorted(findings.read_findings(state), key=lambda f: f.since_ms):
            if found.state != FindingState.OPEN and not arguments.get("all"):
                continue
            row: dict[str, Any] = {
                "what": found.key,
                "kind": found.kind,
                "where": found.where,
                "detail": found.detail,
                "state": found.state.value,
                "since_ms": found.since_ms,
                "seen_ms": found.seen_ms,
                "count": found.count,
            }
            if arguments.get("files") and found.segment and asked < FILES_OF_FINDINGS_MAX:
                asked += 1
                row["files"] = await self._inos(found.segment)
            rows.append(row)
        await self._name(rows)
        return {"findings": rows, "overflow": findings.overflow(state)}

    async def _events(self, arguments: dict[str, Any], _by: str) -> dict[str, Any]:
        state = self._replica.state
        last = events.last_number(state)
        limit = min(int(arguments.get("limit", 50)), EVENTS_MAX)
        after = int(arguments.get("after", max(0, last - limit)))
        found = events.read_events(state, after, limit)
        return {"events": [msgspec.structs.asdict(e) for e in found], "last": last}

    async def _top(self, _arguments: dict[str, Any], _by: str) -> dict[str, Any]:
        return await self._usage.gather()

    async def _explain(self, arguments: dict[str, Any], by: str) -> dict[str, Any]:
        found = await self._resolve(arguments, by)
        return await self._explainer.explain(found["ino"])

    async def _inos(self, segment: bytes) -> list[Any]:
        try:
            return list(await self._paths.at_risk(segment, FILES_OF_EACH))
        except CfsError as error:
            return [f"not known now: {error}"]

    async def _name(self, rows: list[dict[str, Any]]) -> None:
        inos = {i for row in rows for i in row.get("files", ()) if isinstance(i, int)}
        if not inos:
            return
        try:
            names: dict[int, str] = await self._paths.names(inos)
        except CfsError:
            names = {}
        for row in rows:
            if "files" in row:
                row["files"] = [names.get(i, str(i)) for i in row["files"]]

    async def _resolve(self, arguments: dict[str, Any], _by: str) -> dict[str, Any]:
        path = arguments.get("path")
        if not isinstance(path, str):
            raise Malformed("path is missing")
        ino = await self._paths.resolve(path)
        return {"ino": ino, "directory": is_directory(await self._paths.attributes(ino))}
