"""`cfs snapshot`: take, schedule, list, compare, delete and restore snapshots.

Those who take, schedule and delete ask the root leader as an administrator (`--dir`); those who
look, compare and restore do it on a mount, with their own permissions.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli.ask import ask_root
from cfs.cli.configuration import ConfigurationError
from cfs.cli.mounted import SNAPSHOTS, directory_of, in_snapshot, place_of
from cfs.cli.taking_over import run_shown
from cfs.cli.trees import Done, differences, take_over, untouched
from cfs.core.api import root
from cfs.core.api.snapshots import GetSnapshots, GetSnapshotsReply
from cfs.core.errors import NotFound
from cfs.core.ids import ROOT_INO

app = typer.Typer(
    help="Keep what the file system was at one moment; look at it in .snapshots of any directory.",
    no_args_is_help=True,
)

WIDTH = 140
TAKE_S = 120.0
ADMIN = Path(".state/admin")
Directory = Annotated[
    Path, typer.Option("--dir", help="The administrator's directory.", show_default=True)
]
Name = Annotated[str, typer.Argument(help="Name of the snapshot.")]
Below = Annotated[
    Path | None, typer.Argument(help="A directory on a mount; else everything.", parser=Path)
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def create(name: Name, path: Below = None, directory: Directory = ADMIN) -> None:
    """Take a snapshot of everything, or of one directory and all below it.

    It shows one moment of all of it, with what every client had written until then.
    """
    ask_admin(directory, "snapshot_create", name=name, **_scope(path))
    typer.echo(f"took {name}; look at it in {SNAPSHOTS}/{name} of any directory it is of")


@app.command("list")
def list_snapshots(directory: Directory = ADMIN, as_json: Json = False) -> None:  # noqa: FBT002
    """List the snapshots, oldest first, and the schedules that take them."""
    reply: GetSnapshotsReply = ask_root(directory, "root.snapshots", GetSnapshots())
    schedules = ask_admin(directory, "schedule_list")["schedules"]
    if as_json:
        plain = [
            {"name": s.name, "path": s.path, "created_ms": s.created_ms, "schedule": s.schedule}
            for s in reply.snapshots
        ]
        typer.echo(json.dumps({"snapshots": plain, "schedules": schedules}, indent=2))
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("name", "of", "taken", "by"):
        table.add_column(column, no_wrap=column != "of")
    for one in reply.snapshots:
        taken = datetime.fromtimestamp(one.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S Z")
        table.add_row(one.name, one.path, taken, one.schedule.split("/")[0] or "hand")
    console = Console(width=WIDTH)
    console.print(table)
    for one in schedules:
        kept = ",".join(f"{period}={count}" for period, count in one["keep"].items())
        console.print(f"schedule of {one['path']}: {kept}")


@app.command()
def delete(
    names: Annotated[list[str], typer.Argument(help="Names of snapshots.")],
    directory: Directory = ADMIN,
) -> None:
    """Delete snapshots; what only they hold is freed in the background."""
    for name in names:
        ask_admin(directory, "snapshot_delete", name=name)
        typer.echo(f"deleted {name}")


@app.command()
def schedule(
    keep: Annotated[
        str, typer.Option("--keep", help="hourly=24,daily=7 (minutely, weekly too), or none.")
    ],
    path: Below = None,
    directory: Directory = ADMIN,
) -> None:
    """Take snapshots by themselves, and delete those that are too many."""
    kept = _parse_keep(keep)
    ask_admin(directory, "snapshot_schedule", keep=kept, **_scope(path))
    typer.echo(f"keeps {keep}" if kept else "takes none any more; those there are stay")


@app.command()
def diff(
    path: Annotated[Path, typer.Argument(help="A directory on a mount.", parser=Path)],
    old: Annotated[str, typer.Argument(help="A snapshot.")],
    new: Annotated[str, typer.Argument(help="A later one; else the present.")] = "",
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Show what came (+), went (-), changed (M) or got other attributes (m)."""
    place = place_of(path)
    before = in_snapshot(place, old)
    after = in_snapshot(place, new) if new else place.path
    for change in differences(before, after):
        line = {"change": change.kind, "path": change.path}
        typer.echo(json.dumps(line) if as_json else f"{change.kind} {change.path}")


@app.command()
def restore(
    name: Name,
    path: Annotated[Path, typer.Argument(help="A file or directory on a mount.", parser=Path)],
    keep_new: Annotated[  # noqa: FBT002
        bool, typer.Option("--keep-new", help="Leave what came since alone.")
    ] = False,
    dry_run: Annotated[  # noqa: FBT002
        bool, typer.Option("--dry-run", help="Only show what would change back.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: events.")] = False,  # noqa: FBT002
) -> None:
    """Make a file or directory what it was; no data is copied. Again goes on after an interruption.

    Whoever uses it meanwhile goes on: each file changes at once, as a whole.
    """
    place = place_of(path)
    source = in_snapshot(place, name)
    if dry_run:
        if not os.path.isdir(place.path):  # noqa: PTH112
            raise NotFound(f"{path} is not a directory: --dry-run compares directories")
        for change in differences(place.path, source):
            typer.echo(f"{change.kind} {change.path}")
        return
    done = Done()
    run_shown(
        f"restoring {place.inside}",
        lambda tell: take_over(
            source, place.path, same=untouched, remove=not keep_new, done=done, tell=tell
        ),
        done,
        as_json=as_json,
    )


def _scope(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {"scope": int(ROOT_INO), "path": "/"}
    ino, inside = directory_of(path)
    return {"scope": ino, "path": inside}


def ask_admin(directory: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """Ask the root leader for an administrator's command."""
    request = root.Admin(command=command, arguments=arguments)
    reply: root.AdminReply = ask_root(directory, "root.admin", request, timeout_s=TAKE_S)
    return reply.value


def _parse_keep(text: str) -> dict[str, int]:
    if text == "none":
        return {}
    kept: dict[str, int] = {}
    for part in text.split(","):
        period, _, count = part.partition("=")
        if not count.isdigit():
            raise ConfigurationError(f"'{text}' does not say what to keep; write hourly=24,daily=7")
        kept[period.strip()] = int(count)
    return kept
