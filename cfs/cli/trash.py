"""`cfs trash` and `cfs undelete`: what was removed lately, and having it back.

The trash is looked at through a mount, as root (`cfs.fs.client.trash`); how long it keeps things is
said to the cluster, as an administrator.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli.configuration import ConfigurationError
from cfs.cli.mounted import SNAPSHOTS, place_of
from cfs.cli.snapshot import ADMIN, WIDTH, Directory, Json, ask_admin
from cfs.cli.status import size
from cfs.core.errors import NotFound, Refused

app = typer.Typer(help="What was removed lately: look, restore, empty.", no_args_is_help=True)

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
On = Annotated[Path, typer.Argument(help="A directory on a mount.", parser=Path)]


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the trash."""

    held: Path
    """Where the trash shows it."""
    path: str
    """Where it was, from the root of the file system."""
    removed_ns: int
    mode: int
    size: int


@app.command("list")
def list_trash(directory: On, as_json: Json = False) -> None:  # noqa: FBT002
    """List what was removed in a directory and below, oldest first."""
    found = list(_below(directory))
    if as_json:
        plain = [
            {"path": e.path, "removed_ns": e.removed_ns, "mode": e.mode, "size": e.size}
            for e in found
        ]
        typer.echo(json.dumps(plain, indent=2))
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("removed", "size", "path"):
        table.add_column(column, no_wrap=column != "path")
    for one in found:
        removed = datetime.fromtimestamp(one.removed_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S Z")
        is_directory = stat.S_ISDIR(one.mode)
        table.add_row(
            removed, "" if is_directory else size(one.size), one.path + "/" * is_directory
        )
    Console(width=WIDTH).print(table)


@app.command()
def empty(
    directory: On,
    older: Annotated[
        str, typer.Option("--older", help="Only what was removed so long ago: 7d, 12h.")
    ] = "0s",
) -> None:
    """Throw away for good what was removed in a directory and below."""
    horizon_ns = time.time_ns() - seconds_of(older) * 10**9
    gone = 0
    for one in _below(directory):
        if one.removed_ns <= horizon_ns:
            with contextlib.suppress(FileNotFoundError):
                (one.held.rmdir if stat.S_ISDIR(one.mode) else one.held.unlink)()
                gone += 1
    typer.echo(f"threw {gone} away")


@app.command()
def keep(
    how_long: Annotated[str, typer.Argument(help="7d, 12h, 30m; none: what is removed goes.")],
    directory: Directory = ADMIN,
) -> None:
    """Say how long what is removed stays; what is older goes by itself."""
    seconds = 0 if how_long == "none" else seconds_of(how_long)
    ask_admin(directory, "trash_keep", keep_s=seconds)
    typer.echo(
        f"keeps what is removed for {how_long}" if seconds else "what is removed goes at once"
    )


@app.command()
def restore(path: Annotated[Path, typer.Argument(help="Where it was.", parser=Path)]) -> None:
    """Have what was removed back where it was: the same as `cfs undelete`."""
    undelete(path)


def undelete(
    path: Annotated[Path, typer.Argument(help="Where it was, on a mount.", parser=Path)],
) -> None:
    """Have a removed file, or directory and all that was removed in it, back where it was.

    Of several removed from one place the last one comes back; what is there now stays.
    """
    place = place_of(path)
    inside = place.inside
    newest: dict[str, Entry] = {}
    for one in _entries(place.root):
        if one.path == inside or one.path.startswith(inside.rstrip("/") + "/"):
            newest[one.path] = one  # they come oldest first
    if not newest:
        raise NotFound(f"{inside} is not in the trash; see 'cfs trash list', or a snapshot")
    back = there = 0
    for inner, one in sorted(newest.items()):
        target = place.root / inner.lstrip("/")
        if os.path.lexists(target):
            there += not stat.S_ISDIR(one.mode)
            continue
        if stat.S_ISDIR(one.mode):
            _directory_back(one, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            one.held.rename(target)
        back += 1
    typer.echo(f"{inside}: {back} back" + (f", {there} left as they are now" if there else ""))


def _directory_back(one: Entry, target: Path) -> None:
    target.mkdir(parents=True)
    was = one.held.lstat()
    os.chown(target, was.st_uid, was.st_gid)
    target.chmod(stat.S_IMODE(was.st_mode))
    with contextlib.suppress(FileNotFoundError):
        one.held.rmdir()  # out of the trash: it is made anew


def _below(directory: Path) -> Iterator[Entry]:
    place = place_of(directory)
    prefix = place.inside.rstrip("/") + "/"
    for one in _entries(place.root):
        if one.path.startswith(prefix):
            yield one


def _entries(root: Path) -> Iterator[Entry]:
    held = root / SNAPSHOTS / ".trash"
    try:
        names = sorted(path.name for path in held.iterdir())
    except PermissionError as error:
        raise Refused("only root may look into the trash; use sudo") from error
    for name in names:
        try:
            said: dict[str, Any] = json.loads(os.getxattr(held, f"user.cfs.entry.{name}"))
        except OSError:
            continue  # it went between the two
        path = said["directory"].rstrip("/") + "/" + said["name"]
        yield Entry(held / name, path, said["removed_ns"], said["mode"], said["size"])


def seconds_of(text: str) -> int:
    """Read 7d, 12h, 30m or 90s. Raises ConfigurationError."""
    match = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if match is None:
        raise ConfigurationError(f"'{text}' is no time; write 7d, 12h, 30m or 90s")
    return int(match[1]) * _UNITS_S[match[2]]
