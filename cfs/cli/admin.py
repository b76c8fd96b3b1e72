"""`cfs admin`: what an operator does to a running cluster."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli import admin_node, backup, events, jobs, restore, scrub, top
from cfs.cli.cluster import parse_profile
from cfs.cli.configuration import ConfigurationError
from cfs.cli.jobs import ADMIN, Detach, Directory, Json, MaxRate, ask_admin, start_and_follow
from cfs.cli.quantity import parse_rate
from cfs.cli.status import size

WIDTH = 100

app = typer.Typer(help="Look after a running cluster.", no_args_is_help=True)
app.command("jobs")(jobs.list_jobs)
app.add_typer(jobs.app, name="job")
app.command("scrub")(scrub.scrub)
app.command("findings")(scrub.findings)
app.command("fsck")(scrub.fsck)
app.command("events")(events.events)
app.command("top")(top.top)
app.command("backup")(backup.backup)
app.command("restore")(restore.restore)
app.add_typer(admin_node.app, name="node")
profile_app = typer.Typer(help="Show or change the erasure profile.", no_args_is_help=True)
app.add_typer(profile_app, name="profile")


@app.command()
def rebalance(
    directory: Directory = ADMIN,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,  # noqa: FBT002
    max_rate: MaxRate = "",
    detach: Detach = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Give every storage node its share of the data, by its weight, moving as little as can be."""
    plan = ask_admin(directory, "rebalance_plan")
    if as_json and dry_run:
        typer.echo(json.dumps(plan, indent=2))
    elif not as_json:
        _show_plan(plan)
    if dry_run or (not plan["moves"] and not as_json):
        return
    start_and_follow(directory, "rebalance", {}, rate=max_rate, as_json=as_json, detach=detach)


@app.command()
def settings(
    directory: Directory = ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
) -> None:
    """Show what `cfs admin set` can change."""
    _show_settings(ask_admin(directory, "settings")["settings"], as_json=as_json)


@app.command("set")
def set_setting(
    name: Annotated[str, typer.Argument(help="grace_s, share_max, repair_rate...")],
    value: Annotated[str, typer.Argument(help="A number; rates also as 50M or none.")],
    directory: Directory = ADMIN,
) -> None:
    """Change a setting of the running cluster; counts at once."""
    try:
        number = float(parse_rate(value)) if name.endswith("_rate") else float(value)
    except ValueError:
        raise ConfigurationError(f"'{value}' is no number for {name}") from None
    answer = ask_admin(directory, "set", {"name": name, "value": number})
    _show_settings(answer["settings"], as_json=False)


@profile_app.command("show")
def show_profile(directory: Directory = ADMIN) -> None:
    """Show the erasure profile in force."""
    typer.echo(ask_admin(directory, "profile_get")["profile"])


@profile_app.command("set")
def set_profile(
    profile: Annotated[str, typer.Argument(help="DATA+PARITY, as 2+1 or 4+2.")],
    directory: Directory = ADMIN,
    max_rate: MaxRate = "",
    detach: Detach = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Change the erasure profile: new data at once, what is stored by a job in the background.

    Refused when there are fewer failure domains than it needs.
    """
    wanted = parse_profile(profile)
    arguments = {"data": wanted.data, "parity": wanted.parity}
    ask_admin(directory, "profile_set", arguments)
    start_and_follow(directory, "reencode", {}, rate=max_rate, as_json=as_json, detach=detach)


def _show_settings(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        shown = f"{size(value)}/s" if name.endswith("_rate") and value else f"{value:g}"
        typer.echo(f"{name:16} {shown:>12}   {_MEANING.get(name, '')}")


def _show_plan(plan: dict[str, Any]) -> None:
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("node", "groups now", "groups then"):
        table.add_column(column, justify="left" if column == "node" else "right")
    for node in plan["nodes"]:
        table.add_row(node["name"], str(node["now"]), str(node["then"]))
    console = Console(width=WIDTH)
    console.print(table)
    if plan["moves"]:
        console.print(f"{len(plan['moves'])} group members move, about {size(plan['bytes'])}")
    else:
        console.print("every node has its share: nothing moves")


_MEANING = {
    "grace_s": "seconds a node or disk is missing before its data is re-homed",
    "share_max": "share of a role missing at once beyond which it is a network fault",
    "repair_rate": "bytes a second of a repair that begins",
    "move_rate": "bytes a second of a drain or rebalance that begins",
    "warn_share": "a storage disk fuller than this is warned of",
    "critical_share": "a storage disk fuller than this is warned of urgently",
}
