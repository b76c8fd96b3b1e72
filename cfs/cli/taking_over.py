"""Shows how far taking a tree over is, for `cfs snapshot restore` and `cfs clone`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import typer
from rich.console import Console

from cfs.cli.status import size
from cfs.cli.trees import Done

EVERY_S = 0.5


def run_shown(
    what: str, work: Callable[[Callable[[], None]], None], done: Done, *, as_json: bool
) -> None:
    """Do it, showing progress on standard error, or events; then say what was done."""
    console = Console(stderr=True)
    started = shown = time.monotonic()

    def tell() -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < EVERY_S:
            return
        shown = now
        if as_json:
            typer.echo(_event("progress", done, now - started))
        elif console.is_terminal:
            console.print(f"{what}: {_text(done)}", end="\r", highlight=False)

    work(tell)
    seconds = time.monotonic() - started
    if as_json:
        typer.echo(_event("done", done, seconds))
    else:
        typer.echo(f"{what}: {_text(done)} in {seconds:.1f} s")


def _text(done: Done) -> str:
    return (
        f"{done.files} files ({size(done.size)}, by reference), {done.directories} directories, "
        f"{done.removed} removed, {done.unchanged} as they were"
    )


def _event(event: str, done: Done, seconds: float) -> str:
    return json.dumps(
        {
            "event": event,
            "files": done.files,
            "directories": done.directories,
            "removed": done.removed,
            "unchanged": done.unchanged,
            "bytes": done.size,
            "seconds": round(seconds, 3),
        }
    )
