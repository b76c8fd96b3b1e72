"""Tells people of replicas whose log lost its tail, and whom an election waits for because of it.

Decides only what is said and how often; the rule is in `cfs.core.raft.election`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import structlog

from cfs.fs.meta.group import Group

_LOG = structlog.get_logger()

TOLD_S = 5.0
"""Between two lines about the same group."""


class DoubtReport:
    """Remembers what was said about the groups of a node."""

    def __init__(self) -> None:
        self._told_s: dict[int, float] = {}

    def opened(self, group: Group, torn: str | None) -> None:
        """Tell that a replica lost its tail; `torn`: what was cut, None when it was before."""
        _LOG.warning("group_doubtful", group=group.group, term=group.term, torn=torn)

    def check(self, groups: Iterable[Group], now_s: float) -> None:
        """Tell, now and then, which voters an election lacks that needs them all."""
        for group in groups:
            missing = group.machine.waits_for
            if missing and now_s - self._told_s.get(group.group, -math.inf) >= TOLD_S:
                self._told_s[group.group] = now_s
                _LOG.warning(
                    "group_waits_for_all_voters",
                    group=group.group,
                    missing=list(missing),
                    reason="logs lost their tails: only all voters together have what is left",
                    action="start these metadata nodes",
                )
