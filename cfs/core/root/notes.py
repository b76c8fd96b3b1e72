"""Commands that only remember: what scrub found, what happened."""

from __future__ import annotations

from cfs.core.api.scrub import Finding
from cfs.core.root.command import Command


class NoteFindings(Command, frozen=True, kw_only=True, tag="found"):
    """Remember what scrub found. Value: how many were new."""

    findings: tuple[Finding, ...]
    now_ms: int


class NoteEvent(Command, frozen=True, kw_only=True, tag="event"):
    """Remember that something happened that no other command says."""

    kind: str
    text: str
    now_ms: int = 0


class CloseFindings(Command, frozen=True, kw_only=True, tag="unfound"):
    """A whole look at these kinds that began at `before_ms` did not find the others again.

    `where`: names of the nodes that were looked at; empty: all.
    """

    kinds: tuple[str, ...]
    before_ms: int
    where: tuple[str, ...] = ()
