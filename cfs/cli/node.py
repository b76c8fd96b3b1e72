"""`cfs node`: tokens to join with, joining, who has joined, and shutting out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cfs.cli.ask import ask_root
from cfs.cli.cluster import write_configuration
from cfs.cli.configuration import Configuration, LogSection, NodeSection, StorageSection
from cfs.cli.rebuild_meta import rebuild_meta
from cfs.cli.restore import recover_meta
from cfs.core.api import root
from cfs.core.errors import NotFound, Refused
from cfs.fs.root.join import join as enrol

app = typer.Typer(
    help="Let nodes and clients join; list them; shut them out.", no_args_is_help=True
)

app.command("rebuild-meta")(rebuild_meta)
app.command("recover-meta")(recover_meta)

WIDTH = 140
Directory = Annotated[Path, typer.Option("--dir", help="Directory of the identity.")]


@app.command()
def token(
    directory: Directory,
    role: Annotated[
        str,
        typer.Option(
            help="meta, storage, client, reader (a client that can change nothing), gateway, admin."
        ),
    ],
    valid_hours: Annotated[float, typer.Option(help="How long it may be used.")] = 1.0,
) -> None:
    """Make a token: it lets one node or client of this role join, once."""
    typer.echo(make_token(directory, role, valid_hours))


def make_token(directory: Path, role: str, valid_hours: float = 1.0) -> str:
    """Ask the root leader for a token, as the administrator in `directory`."""
    request = root.Admin(
        command="token_create", arguments={"role": role, "valid_s": int(valid_hours * 3600)}
    )
    reply = ask_root(directory, "root.admin", request)
    text: str = reply.value["token"]
    return text


@app.command()
def join(
    directory: Directory,
    token: Annotated[str, typer.Option(help="From `cfs node token`.")],
    name: Annotated[str, typer.Option(help="Name of this node or client, unique.")],
    role: Annotated[str, typer.Option(help="Checked against the token's.")] = "",
    host: Annotated[str, typer.Option(help="Address this node serves at.")] = "",
    port: Annotated[int, typer.Option(help="Port this node serves at.")] = 0,
    domain: Annotated[str, typer.Option(help="What fails together with this node.")] = "",
    disk: Annotated[
        list[Path] | None, typer.Option(help="Storage: a disk's directory; repeatable.")
    ] = None,
    log_file: Annotated[str, typer.Option(help="Log file; empty: standard error.")] = "",
) -> None:
    """Enrol this directory as a node or client."""
    joined = enrol_here(
        directory, token=token, name=name, role=role, host=host, port=port, domain=domain,
        disks=tuple(disk or ()), log_file=log_file,
    )  # fmt: skip
    following = {
        "meta": f"cfs serve meta --dir {directory}",
        "storage": f"cfs serve storage --dir {directory}",
        "client": f"cfs mount --dir {directory} MOUNTPOINT",
    }
    typer.echo(f"joined as {joined} {name}; next: {following.get(joined, 'cfs status')}")


@app.command("list")
def list_members(
    directory: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
) -> None:
    """List everybody with a certificate in force: nodes, clients, administrators."""
    members = _members(directory)
    if as_json:
        typer.echo(json.dumps(members, indent=2))
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    columns = ("name", "role", "state", "address", "domain", "certificates", "expires", "serial")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for member in members:
        table.add_row(*(str(member[c]) for c in columns))
    Console(width=WIDTH).print(table)


@app.command()
def revoke(
    directory: Directory,
    name: Annotated[str, typer.Option(help="Whose certificates; see `cfs node list`.")],
    role: Annotated[str, typer.Option(help="Needed when several roles share the name.")] = "",
) -> None:
    """Shut a node, client or administrator out: its certificates are refused from now on."""
    roles = {m["role"] for m in _members(directory) if m["name"] == name}
    if role:
        roles &= {role}
    if not roles:
        raise NotFound(f"nobody of that name is in force: {role} {name}; see 'cfs node list'")
    if len(roles) > 1:
        raise Refused(f"{name} names {' and '.join(sorted(roles))}: say which with --role")
    request = root.Admin(command="revoke", arguments={"name": name, "role": roles.pop()})
    reply = ask_root(directory, "root.admin", request)
    typer.echo(f"revoked {reply.value['revoked']} certificates of {name}")


def _members(directory: Path) -> list[dict[str, Any]]:
    """Give who has certificates in force, nodes first, with the newest of each."""

    def ask(command: str) -> Any:
        return ask_root(directory, "root.admin", root.Admin(command=command)).value

    nodes = {n["node"]: n for n in ask("node_list")["nodes"]}
    members: dict[tuple[str, str], dict[str, Any]] = {}
    now = datetime.now(UTC)
    for found in sorted(ask("certificate_list")["certificates"], key=lambda c: c["expires_ms"]):
        expires = datetime.fromtimestamp(found["expires_ms"] / 1000, UTC)
        if found["revoked"] or expires < now:
            continue
        node = nodes.get(found["node"])
        before = members.get((found["name"], found["role"]))
        members[found["name"], found["role"]] = {
            "name": found["name"],
            "role": found["role"],
            "node": found["node"],
            "state": node["state"] if node else "",
            "address": f"{node['host']}:{node['port']}" if node else "",
            "domain": node["domain"] if node else "",
            "certificates": 1 + (before["certificates"] if before else 0),
            "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "serial": found["serial"],
        }
    return sorted(members.values(), key=lambda m: (not m["node"], m["role"], m["name"]))


def enrol_here(
    directory: Path,
    *,
    token: str,
    name: str,
    role: str,
    host: str,
    port: int,
    domain: str,
    disks: tuple[Path, ...],
    log_file: str,
) -> str:
    """Enrol and write the configuration; give the role joined as."""

    async def run() -> str:
        member = await enrol(
            token, directory, name=name, role=role, host=host, port=port, domain=domain,
            disks=disks,
        )  # fmt: skip
        return member.role

    joined = trio.run(run)
    write_configuration(
        directory,
        Configuration(
            node=NodeSection(name=name, role=joined, host=host or "", port=port, domain=domain),
            storage=StorageSection(disks=tuple(str(d.absolute()) for d in disks)),
            log=LogSection(file=log_file),
        ),
    )
    return joined
