"""`cfs admin top`: what the cluster is asked for now, by client, directory, user and method."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from cfs.cli.jobs import ADMIN, Directory, ask_admin
from cfs.cli.status import size
from cfs.core.errors import CfsError

WATCH_S = 2.0
WIDTH = 120
SHOWN = 8


def top(
    directory: Directory = ADMIN,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until ^C.")] = False,  # noqa: FBT002
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
) -> None:
    """Show operations, bytes and latency of the last seconds, the busiest first."""
    if watch and not as_json:
        with Live(refresh_per_second=4) as live:
            while True:
                try:
                    live.update(_render(ask_admin(directory, "top")))
                except CfsError as error:
                    live.update(f"[red]no answer: {error}[/]")
                time.sleep(WATCH_S)
    told = ask_admin(directory, "top")
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(_render(told))


def _render(told: dict[str, Any]) -> Group:
    parts: list[Any] = []
    for dimension in ("client", "directory", "user", "method"):
        table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(dimension, min_width=30)
        for column in ("ops/s", "in/s", "out/s", "latency"):
            table.add_column(column, justify="right")
        for row in told[dimension][:SHOWN]:
            table.add_row(
                row["key"], f"{row['ops']:.1f}", size(int(row["bytes_in"])),
                size(int(row["bytes_out"])), f"{row['latency_ms']:.2f} ms",
            )  # fmt: skip
        parts.append(table)
    parts += [f"[yellow]! {name} does not answer[/]" for name in told["silent"]]
    return Group(*parts)
