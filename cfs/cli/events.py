"""`cfs admin events`: what happened to the cluster."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cfs.cli.jobs import ADMIN, Directory, ask_admin
from cfs.core.errors import DeadlineExceeded, Retryable

WATCH_S = 1.0


def events(
    directory: Directory = ADMIN,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many of the latest.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until ^C.")] = False,  # noqa: FBT002
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one a line.")] = False,  # noqa: FBT002
) -> None:
    """Show what happened: nodes that came and went, leaders, joins, jobs, findings, settings."""
    answer = ask_admin(directory, "events", {"limit": limit})
    while True:
        for event in answer["events"]:
            typer.echo(json.dumps(event) if as_json else _line(event))
        if not follow:
            return
        last = answer["events"][-1]["number"] if answer["events"] else answer["last"]
        time.sleep(WATCH_S)
        try:
            answer = ask_admin(directory, "events", {"after": last, "limit": 1000})
        except (Retryable, DeadlineExceeded):
            answer = {"events": [], "last": last}


def _line(event: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(event["at_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{at}  {event['kind']:<12}{event['text']}"
