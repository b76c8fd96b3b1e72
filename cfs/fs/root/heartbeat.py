"""Tells the root leader twice a second that this node is alive, and how it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
import trio

from cfs.core.api.root import GroupLoad, Heartbeat
from cfs.core.api.store import StoreStat
from cfs.core.errors import CfsError
from cfs.fs.root.leader import RootLeader
from cfs.fs.root.ports import Host
from cfs.fs.root.view import ClusterView

_LOG = structlog.get_logger()

PERIOD_S = 0.5
TIMEOUT_S = 2.0
ATTEMPT_S = 0.7
"""A leader that stands still must not use up the silence that this node is allowed."""
SILENCE_S = 5.0
"""How long the root leader may be out of reach before the log says so."""


class HeartbeatSender:
    """Beats until cancelled."""

    def __init__(
        self,
        *,
        node_id: int,
        view: ClusterView,
        leader: RootLeader,
        started_ms: int,
        version: str,
        host: Host | None = None,
        store_stat: Callable[[], StoreStat] | None = None,
        meta_bytes: Callable[[], tuple[int, int]] | None = None,
        counters: Callable[[], Mapping[str, int]] | None = None,
        memory: Callable[[], int] | None = None,
    ) -> None:
        self._node_id = node_id
        self._view = view
        self._leader = leader
        self._started_ms = started_ms
        self._version = version
        self._host = host
        self._store_stat = store_stat
        self._meta_bytes = meta_bytes
        self._counters = counters
        self._heard_at = 0.0
        self._told = ""
        self._memory = memory or rss_anon_bytes

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send a heartbeat every half second; what fails is sent anew, never queued."""
        task_status.started()
        due = self._heard_at = trio.current_time()
        while True:
            try:
                request = self.make()
                reply = await self._leader.ask(
                    "root.heartbeat", request, timeout_s=TIMEOUT_S, attempt_s=ATTEMPT_S
                )
                self._view.on_epoch(reply.epoch)
                self._heard()
            except (CfsError, OSError) as error:
                self._unheard(error)
            due = max(due + PERIOD_S, trio.current_time())
            await trio.sleep_until(due)

    def _heard(self) -> None:
        """Note an answer; say so when the log had complained."""
        self._heard_at = trio.current_time()
        if self._told:
            _LOG.info("root_reached_again")
            self._told = ""

    def _unheard(self, error: Exception) -> None:
        """Complain of being shut out at once, of silence after a while; once each, not per beat."""
        if isinstance(error, CfsError) and error.detail.get("refused"):
            event, advice = "shut_out", "enrol this directory anew: cfs node token, cfs node join"
        elif trio.current_time() - self._heard_at < SILENCE_S:
            return
        else:
            event, advice = "root_out_of_reach", "see whether a majority of meta nodes runs"
        if self._told != event:
            _LOG.error(event, error=str(error), advice=advice)
            self._told = event

    def make(self) -> Heartbeat:
        """Build a heartbeat from how things are now."""
        log_bytes, state_bytes = self._meta_bytes() if self._meta_bytes is not None else (0, 0)
        groups = self._host.groups if self._host is not None else {}
        return Heartbeat(
            node_id=self._node_id,
            epoch=self._view.epoch,
            started_ms=self._started_ms,
            rss_anon=self._memory(),
            version=self._version,
            store=self._store_stat() if self._store_stat is not None else None,
            groups=tuple(load_of(number, group) for number, group in sorted(groups.items())),
            meta_log_bytes=log_bytes,
            meta_state_bytes=state_bytes,
            counters=dict(self._counters()) if self._counters is not None else {},
        )


def load_of(number: int, group: Any) -> GroupLoad:
    """Describe a replica; `doubtful` is shown for what its role would be (a lost tail)."""
    return GroupLoad(
        group=number,
        role="doubtful" if group.doubtful and not group.is_leader else group.role,
        term=group.term,
        leader=group.leader,
        applied=group.applied,
        committed=group.commit,
        last=group.last_index,
    )


def rss_anon_bytes() -> int:
    """Read this process's anonymous memory from proc(5) `status`, in bytes; 0 if not there."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
