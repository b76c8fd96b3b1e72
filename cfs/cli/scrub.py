"""`cfs admin scrub` and `cfs admin findings`: is what is stored still what was written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli.jobs import ADMIN, Detach, Directory, Json, MaxRate, ask_admin, start_and_follow
from cfs.core.errors import NotFound, Refused

WIDTH = 160
_MOUNTS = Path("/proc/self/mountinfo")
_KINDS = ("cfs", "fuse.cfs")


def scrub(
    path: Annotated[
        str, typer.Argument(help="Only this file or tree: a path on a mount, or in CFS.")
    ] = "",
    node: Annotated[str, typer.Option(help="Only this storage node.")] = "",
    everything: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--all", help="Everything; so it is without PATH and --node.")
    ] = False,
    deep: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--deep", help="Also prove that all that must agree agrees; reads all twice."),
    ] = False,
    repair: Annotated[  # noqa: FBT002
        bool, typer.Option("--repair/--report", help="Mend what can be mended, or only report.")
    ] = True,
    max_rate: MaxRate = "",
    detach: Detach = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
    directory: Directory = ADMIN,
) -> None:
    """Read and verify what is stored, mend damage from redundancy, report what was found."""
    if sum((bool(path), bool(node), everything)) > 1:
        raise Refused("PATH, --node and --all exclude one another")
    spec: dict[str, Any] = {"deep": deep or bool(path), "repair": repair}
    if path:
        inside = path_inside(path)
        spec["path"] = inside
        spec["ino"] = ask_admin(directory, "resolve", {"path": inside})["ino"]
    if node:
        known = ask_admin(directory, "node_list")["nodes"]
        ids = [n["node"] for n in known if n["name"] == node and n["role"] == "storage"]
        if not ids:
            raise NotFound(f"there is no storage node {node}; see cfs node list")
        spec["nodes"] = ids
    start_and_follow(directory, "scrub", spec, rate=max_rate, as_json=as_json, detach=detach)
    if not as_json and not detach:
        _show(ask_admin(directory, "findings", {"files": True}), empty="nothing is wrong")


def fsck(
    repair: Annotated[  # noqa: FBT002
        bool, typer.Option("--repair/--report", help="Put right what is safe to, or only report.")
    ] = False,
    detach: Detach = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
    directory: Directory = ADMIN,
) -> None:
    """Check the namespace: names, link counts, orphans, parents, extents, totals."""
    start_and_follow(directory, "fsck", {"repair": repair}, as_json=as_json, detach=detach)
    if not as_json and not detach:
        _show(ask_admin(directory, "findings"), empty="nothing is wrong")


def findings(
    directory: Directory = ADMIN,
    every: Annotated[bool, typer.Option("--all", help="Also what is over.")] = False,  # noqa: FBT002
    files: Annotated[bool, typer.Option("--files", help="Name the files at risk.")] = False,  # noqa: FBT002
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
) -> None:
    """List what scrub and fsck found: what, where, since when, and what became of it."""
    found = ask_admin(directory, "findings", {"all": every, "files": files})
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found, empty="nothing was found" if every else "nothing is wrong")


def path_inside(path: str) -> str:
    """Give the path within the file system of a path on a mount of it; others are given back."""
    whole = Path(path).absolute()
    for line in _MOUNTS.read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape")
        if rest.split()[0] in _KINDS and (whole == Path(point) or Path(point) in whole.parents):
            return "/" + str(whole.relative_to(point)).removeprefix(".")
    return path


def _show(found: dict[str, Any], *, empty: str) -> None:
    if not found["findings"]:
        typer.echo(empty)
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("what", "where", "since", "state", "detail"):
        table.add_column(column, overflow="fold")
    for row in found["findings"]:
        since = datetime.fromtimestamp(row["since_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        detail = row["detail"]
        if row.get("files"):
            detail += "\nfiles at risk: " + ", ".join(row["files"])
        table.add_row(row["what"], row["where"], since, row["state"], detail)
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table)
    if found["overflow"]:
        typer.echo(f"{found['overflow']} more were not kept: mend these first")
