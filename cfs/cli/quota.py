"""`cfs quota`: how much a directory tree, a user or a group may hold.

Set, listed and removed by an administrator (`--dir`); a tree is named by its path on a mount.
"""

from __future__ import annotations

import grp
import json
import pwd
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli.configuration import ConfigurationError
from cfs.cli.jobs import follow
from cfs.cli.mounted import place_of
from cfs.cli.quantity import parse_rate
from cfs.cli.snapshot import ADMIN, WIDTH, Directory, Json, ask_admin
from cfs.cli.status import size
from cfs.cli.trash import seconds_of
from cfs.core.api.quota import GROUP, TREE, UNLIMITED, USER
from cfs.core.errors import NotFound, Refused

app = typer.Typer(
    help="Limit what a directory tree, a user or a group holds, in bytes and inodes.",
    no_args_is_help=True,
)

Tree = Annotated[
    Path | None, typer.Argument(help="A directory on a mount: it and all below.", parser=Path)
]
User = Annotated[str, typer.Option("--user", help="Instead: a user, by name or number.")]
Group = Annotated[str, typer.Option("--group", help="Instead: a group, by name or number.")]
Limit = Annotated[str, typer.Option(help="10G, 500M, or none.")]
Number = Annotated[str, typer.Option(help="A number (100000, 2M), or none.")]


@app.command("set")
def set_quota(
    tree: Tree = None,
    user: User = "",
    group: Group = "",
    max_bytes: Annotated[str, typer.Option("--bytes", help="At most: 10G, 500M, none.")] = "",
    soft_bytes: Annotated[str, typer.Option(help="For no longer than the grace.")] = "",
    inodes: Annotated[str, typer.Option(help="Files, directories, links: at most.")] = "",
    soft_inodes: Annotated[str, typer.Option(help="For no longer than the grace.")] = "",
    grace: Annotated[str, typer.Option(help="How long soft limits may be passed: 7d.")] = "",
    directory: Directory = ADMIN,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Limit a tree, a user or a group; what is not named stays as it is.

    Bytes are sizes as `ls` and `du --apparent-size` show them. A limit below what is used lets
    nothing more in and takes nothing away. Names do not move into or out of a tree that has a
    quota: `mv` copies.
    """
    kind, number, name = _of(tree, user, group)
    arguments: dict[str, Any] = {"kind": kind, "id": number, "name": name}
    for key, text in (
        ("bytes", max_bytes),
        ("bytes_soft", soft_bytes),
        ("inodes", inodes),
        ("inodes_soft", soft_inodes),
    ):
        if text:
            arguments[key] = _amount(text)
    if grace:
        arguments["grace_s"] = seconds_of(grace)
    _follow(directory, ask_admin(directory, "quota_set", **arguments)["job"], as_json=as_json)
    if not as_json:
        typer.echo(f"{name} is limited; see cfs quota list")


@app.command()
def remove(
    tree: Tree = None,
    user: User = "",
    group: Group = "",
    directory: Directory = ADMIN,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Take a limit away; nothing else changes."""
    kind, number, name = _of(tree, user, group, gone=ask_admin(directory, "quota_list"))
    reply = ask_admin(directory, "quota_remove", kind=kind, id=number)
    _follow(directory, reply["job"], as_json=as_json)
    if not as_json:
        typer.echo(f"{name} is not limited any more")


@app.command("list")
def list_quotas(
    everybody: Annotated[  # noqa: FBT002
        bool, typer.Option("--all", help="What every user and group uses, limited or not.")
    ] = False,
    directory: Directory = ADMIN,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """List limits and what is used, exactly."""
    rows = ask_admin(directory, "quota_list", everybody=everybody)["quotas"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("of", "bytes", "soft", "hard", "inodes", "soft", "hard", "state"):
        numbers = column not in {"of", "state"}
        table.add_column(column, overflow="fold", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(
            _named(row),
            size(row["bytes"]),
            _limit(row.get("bytes_soft", UNLIMITED), as_bytes=True),
            _limit(row.get("bytes_hard", UNLIMITED), as_bytes=True),
            str(row["inodes"]),
            _limit(row.get("inodes_soft", UNLIMITED)),
            _limit(row.get("inodes_hard", UNLIMITED)),
            _state(row),
        )
    Console(width=WIDTH).print(table)


@app.command()
def check(directory: Directory = ADMIN, as_json: Json = False) -> None:  # noqa: FBT002
    """Count everything afresh and compare; exit 1 when anything counted is wrong."""
    found = ask_admin(directory, "quota_check")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for row in found["wrong"]:
            if row.get("busy"):
                typer.echo(f"shard {row['shard']} is changed all the time; check again")
                continue
            counted, real = row["counted"], row["found"]
            typer.echo(
                f"shard {row['shard']}: {row['kind']} {row['id']} counts {counted[0]} bytes and "
                f"{counted[1]} inodes, and has {real[0]} and {real[1]}"
            )
        if not found["wrong"]:
            typer.echo(f"all counts are right ({found['inodes']} inodes)")
    if found["wrong"]:
        raise typer.Exit(1)


def _follow(directory: Path, job: int, *, as_json: bool) -> None:
    if job:
        follow(directory, job, as_json=as_json)


def _of(
    tree: Path | None, user: str, group: str, gone: dict[str, Any] | None = None
) -> tuple[int, int, str]:
    """Give kind, number and name of what a quota is of."""
    if (tree is not None) + bool(user) + bool(group) != 1:
        raise ConfigurationError("name one: a directory, or --user, or --group")
    if user:
        return USER, _number(user, _user_number, "user"), f"user {user}"
    if group:
        return GROUP, _number(group, _group_number, "group"), f"group {group}"
    assert tree is not None
    place = place_of(tree)
    if gone is not None and not place.path.exists():
        # the directory is gone; its quota has the name it was set by
        for row in gone["quotas"]:
            if row["kind"] == "tree" and row.get("gone") and row["name"] == place.inside:
                return TREE, row["id"], place.inside
    if not place.path.is_dir() or place.path.is_symlink():
        raise Refused(f"{tree} is not a directory; a quota is of a directory and all below it")
    return TREE, place.path.stat().st_ino, place.inside


def _number(text: str, by_name: Any, what: str) -> int:
    if text.isdigit():
        return int(text)
    try:
        return int(by_name(text))
    except KeyError:
        raise NotFound(f"there is no {what} {text} here; name it by its number") from None


def _user_number(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group_number(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _named(row: dict[str, Any]) -> str:
    if row["kind"] == "tree":
        return str(row.get("name") or f"tree {row['id']}")
    try:
        if row["kind"] == "user":
            return f"user {pwd.getpwuid(row['id']).pw_name}"
        return f"group {grp.getgrgid(row['id']).gr_name}"
    except KeyError:
        return f"{row['kind']} {row['id']}"


def _amount(text: str) -> int:
    if text.strip().lower() == "none":
        return UNLIMITED
    try:
        return parse_rate(text)
    except ConfigurationError:
        raise ConfigurationError(f"'{text}' is no limit; write 10G, 500M, 1000 or none") from None


def _limit(value: int, *, as_bytes: bool = False) -> str:
    if value == UNLIMITED:
        return "-"
    return size(value) if as_bytes else str(value)


def _state(row: dict[str, Any]) -> str:
    if "state" not in row:
        return ""
    said = ["removed: cfs quota remove it too"] if row.get("gone") else []
    for what in ("bytes", "inodes"):
        since_ms = row[f"{what}_over_ms"]
        if since_ms:
            until = datetime.fromtimestamp(since_ms / 1000 + row["grace_s"], UTC)
            said.append(f"over soft {what}, grace until {until:%Y-%m-%d %H:%M:%S Z}")
        hard = row[f"{what}_hard"]
        if hard != UNLIMITED and row[what] >= hard:
            said.append(f"{what} full")
    return "; ".join(said) if said else "" if row["state"] == "active" else row["state"]
