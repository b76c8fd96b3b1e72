"""`cfs admin node`: add, drain, remove, list nodes; their weight and failure domain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli.jobs import ADMIN, Detach, Directory, Json, MaxRate, ask_admin, start_and_follow
from cfs.cli.node import enrol_here, make_token
from cfs.cli.status import fetch, size
from cfs.core.api.root import Status
from cfs.core.errors import Refused

app = typer.Typer(help="Add, drain, remove, list nodes.", no_args_is_help=True)

WIDTH = 140
Name = Annotated[str, typer.Argument(help="From `cfs admin node list`.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the new node, unique.")],
    role: Annotated[str, typer.Option(help="storage or meta.")] = "storage",
    directory: Directory = ADMIN,
    node_dir: Annotated[
        Path | None, typer.Option(help="Its directory, on this machine; none: another machine.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address it serves at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port it serves at.")] = 0,
    domain: Annotated[str, typer.Option(help="Host, rack or zone it fails with.")] = "",
    disk: Annotated[
        list[Path] | None, typer.Option(help="Storage: a disk's directory; repeatable.")
    ] = None,
    log_file: Annotated[str, typer.Option(help="Log file; empty: standard error.")] = "",
) -> None:
    """Let a new node join; it takes its share of the data with `cfs admin rebalance`."""
    if role not in ("storage", "meta"):
        raise Refused(f"a node is storage or meta, not {role}")
    token = make_token(directory, role)
    if node_dir is None:
        where = f"--host HOST --port PORT --domain {domain or name}"
        typer.echo(
            f"on the new machine, within an hour:\n"
            f"  cfs node join --dir DIR --name {name} {where} --token {token}\n"
            f"  cfs serve {role} --dir DIR\n"
            f"then here: cfs admin rebalance --dir {directory}"
        )
        return
    enrol_here(
        node_dir, token=token, name=name, role=role, host=host, port=port, domain=domain or name,
        disks=tuple(disk or ()), log_file=log_file,
    )  # fmt: skip
    then = "" if role == "meta" else f"\nthen: cfs admin rebalance --dir {directory}"
    typer.echo(f"{name} has joined; start it: cfs serve {role} --dir {node_dir}{then}")


@app.command()
def drain(
    name: Name,
    directory: Directory = ADMIN,
    max_rate: MaxRate = "",
    detach: Detach = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
    undo: Annotated[bool, typer.Option("--undo", help="Stop, and use the node again.")] = False,  # noqa: FBT002
) -> None:
    """Empty a node: its data moves to others, proven there before it goes here.

    Redundancy is never below the profile meanwhile; refused when too few domains would be left.
    """
    if undo:
        ask_admin(directory, "drain_undo", {"node": name})
        typer.echo(f"{name} is in again")
        return
    start_and_follow(
        directory, "drain", {"node": name}, rate=max_rate, as_json=as_json, detach=detach
    )
    if not detach and not as_json:
        typer.echo(f"{name} is empty; shut it out: cfs admin node remove {name} --dir {directory}")


@app.command()
def remove(name: Name, directory: Directory = ADMIN) -> None:
    """Forget a node that is empty or out, and refuse its certificates."""
    ask_admin(directory, "node_remove", {"node": name})
    typer.echo(f"{name} is no part of the cluster any more: stop it and delete its directory")


@app.command("set")
def set_node(
    name: Name,
    directory: Directory = ADMIN,
    weight: Annotated[float | None, typer.Option(help="Relative capacity; usual: 1.")] = None,
    domain: Annotated[str, typer.Option(help="Before it holds data only.")] = "",
) -> None:
    """Set a node's weight or failure domain; `cfs admin rebalance` acts on it."""
    arguments: dict[str, Any] = {"node": name}
    if weight is not None:
        arguments["weight"] = weight
    if domain:
        arguments["domain"] = domain
    ask_admin(directory, "node_set", arguments)
    typer.echo(f"{name} is set; see: cfs admin rebalance --dry-run --dir {directory}")


@app.command("list")
def list_nodes(
    directory: Directory = ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
) -> None:
    """List nodes: state, failure domain, weight, placement groups or replicas, bytes stored."""
    rows = node_rows(fetch(directory))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("node", "role", "state", "domain", "weight", "groups", "moving", "stored"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        stored = size(row["stored"]) if row["role"] == "storage" else ""
        table.add_row(*(str(row[c]) for c in tuple(row)[:-1]), stored)
    Console(width=WIDTH).print(table)


def node_rows(found: Status) -> list[dict[str, Any]]:
    """Give the nodes with what they hold."""
    rows = []
    for node, shown in zip(found.map.nodes, found.nodes, strict=True):
        lists = found.map.placement if node.role == "storage" else [
            g.voters + g.learners for g in found.map.groups
        ]  # fmt: skip
        store = shown.heartbeat.store if shown.heartbeat is not None else None
        parties = [(m.source, m.target) for m in found.map.moves]
        rows.append(
            {
                "name": node.name,
                "role": node.role.value,
                "state": node.state.value,
                "domain": node.domain,
                "weight": node.weight,
                "groups": sum(node.node_id in members for members in lists),
                "moving": sum(node.node_id in pair for pair in parties),
                "stored": store.stored if store is not None else 0,
            }
        )
    return rows
