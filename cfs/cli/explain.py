"""`cfs explain PATH`: where a file's bytes are, how safe they are, why reading it might wait."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli.jobs import ADMIN, Directory, ask_admin
from cfs.cli.scrub import path_inside
from cfs.cli.status import size

WIDTH = 150


def explain(
    path: Annotated[str, typer.Argument(help="A path on a mount, or in CFS.")],
    directory: Directory = ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
) -> None:
    """Show where every byte of a file is, its redundancy now, who is slow, and who holds it."""
    told = ask_admin(directory, "explain", {"path": path_inside(path)})
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    console = Console()
    _show(console if console.is_terminal else Console(width=WIDTH), path, told)


def _show(console: Console, path: str, told: dict[str, Any]) -> None:
    console.print(
        f"{path}: inode {told['ino']}, {_size(told)}, {told['links']} links; "
        f"shard {told['shard']} on {', '.join(told['replicas'])}"
    )
    for kind, count in told.get("bytes", {}).items():
        where = {"hole": "nowhere (holes)", "inline": "in the metadata store until packed"}
        console.print(f"  {size(count)} {where.get(kind, 'in segments on storage nodes')}")
    if told.get("segments"):
        _segments(console, told)
    for name, took in told.get("slow", {}).items():
        said = "does not answer" if took is None else f"took {took} ms to answer"
        console.print(f"[yellow]! storage node {name} {said}[/]")
    for holder in told["holders"]:
        silent = f", silent for {holder['silent_s']:.1f} s" if holder["silent_s"] > 2 else ""
        name = holder["name"] or f"session {holder['session']}"
        console.print(f"held by {name}: {holder['holds']}{silent}")
    for wait in told["waits"]:
        console.print(f"[yellow]! a read may wait: {wait}[/]")


def _segments(console: Console, told: dict[str, Any]) -> None:
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("segment", "form", "bytes here", "fragments", "survives the loss of"):
        table.add_column(column)
    for row in told["segments"]:
        places = (
            f"{index}: {'+'.join(nodes) if nodes else '[red]missing[/]'}"
            for index, nodes in row["fragments"].items()
        )
        spare = row["survives"]
        safe = f"{spare} nodes" if spare > 0 else "[red]none[/]" if spare == 0 else "[red]LOST[/]"
        table.add_row(row["segment"], row["form"], size(row["bytes"]), "  ".join(places), safe)
    console.print(table)
    if told["segments_not_shown"]:
        console.print(f"and {told['segments_not_shown']} more segments")


def _size(told: dict[str, Any]) -> str:
    return size(told["size"]) if "bytes" in told else f"{told['size']} entries"
