"""Takes what scrub found to the root group, and keeps trying; bounded, newest first to go.

A finding that is lost in a crash is found again in the next pass: damage does not go away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import structlog
import trio

from cfs.core.api.scrub import Finding, ReportFindings
from cfs.core.errors import CfsError

_LOG = structlog.get_logger()

QUEUE_MAX = 1000
BATCH_MAX = 100
ASK_S = 10.0
RETRY_S = 1.0


class Leader(Protocol):
    """Calls to the root leader."""

    async def ask(self, method: str, request: Any, *, timeout_s: float) -> Any:
        """Ask it. Raises the error tree."""
        ...


class Reporter:
    """The queue and the task that empties it."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._queue: deque[Finding] = deque(maxlen=QUEUE_MAX)
        self._wake = trio.Event()

    def add(self, findings: Iterable[Finding]) -> None:
        """Report these soon; logs them now."""
        for finding in findings:
            log = _LOG.warning if finding.repaired else _LOG.error
            log("scrub_finding", kind=finding.kind, what=finding.key, where=finding.where,
                detail=finding.detail, repaired=finding.repaired)  # fmt: skip
            self._queue.append(finding)
        self._wake.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
            while True:
                try:
                    request = ReportFindings(findings=tuple(batch))
                    await self._leader.ask("root.findings", request, timeout_s=ASK_S)
                    break
                except CfsError as error:
                    _LOG.info("findings_not_reported_yet", error=str(error))
                    await trio.sleep(RETRY_S)
