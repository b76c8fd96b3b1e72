"""`cfs cluster`: make a cluster and its first metadata node; replace its certificate authority."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from cfs.cli import authority
from cfs.cli.configuration import (
    FILE_NAME,
    Configuration,
    ConfigurationError,
    LogSection,
    NodeSection,
    dump,
)
from cfs.core.api.cluster import Profile
from cfs.fs.root.bootstrap import PLACEMENT_COUNT, SHARD_COUNT, Plan, create_cluster
from cfs.net.system import SystemClock, SystemEntropy

app = typer.Typer(help="Make a cluster; replace its certificate authority.", no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """Make a cluster; replace its certificate authority."""


@app.command()
def init(
    directory: Annotated[Path, typer.Option("--dir", help="Directory of the first meta node.")],
    host: Annotated[str, typer.Option(help="Address this node serves at.")],
    port: Annotated[int, typer.Option(help="Port this node serves at.")],
    admin: Annotated[
        Path | None, typer.Option(help="Where the administrator's identity goes.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the cluster.")] = "cfs",
    node: Annotated[str, typer.Option(help="Name of this node.")] = "meta1",
    domain: Annotated[str, typer.Option(help="What fails together with this node.")] = "",
    profile: Annotated[str, typer.Option(help="Erasure profile: DATA+PARITY.")] = "2+1",
    shards: Annotated[int, typer.Option(help="Shards of the namespace, fixed.")] = SHARD_COUNT,
    groups: Annotated[int, typer.Option(help="Placement groups, fixed.")] = PLACEMENT_COUNT,
    log_file: Annotated[str, typer.Option(help="Log file; empty: standard error.")] = "",
) -> None:
    """Make a cluster: authority, keys, first metadata node, administrator.

    Start it with `cfs serve meta`; let others join with `cfs node token` and `cfs node join`.
    """
    made = make(
        directory=directory, host=host, port=port, admin=admin, name=name, node=node,
        domain=domain, profile=profile, shards=shards, groups=groups, log_file=log_file,
    )  # fmt: skip
    typer.echo(
        f"made cluster {name}, profile {profile}, {shards} shards\n"
        f"  first metadata node  {directory}   start it: cfs serve meta --dir {directory}\n"
        f"  administrator        {made}\n"
        f"  save {directory}/master.key and {made} now, away from this machine: see docs/keys.md"
    )


@app.command("rotate-ca")
def rotate_ca(
    directory: Annotated[Path, typer.Option("--dir", help="The administrator's directory.")],
    wait_s: Annotated[float, typer.Option(help="How long nodes may take for a step.")] = 60.0,
) -> None:
    """Replace the certificate authority while the cluster runs.

    Three steps: a second authority is trusted, it issues, the first is forgotten. Every node renews
    its certificate in between, by itself; the command waits for all of them. Clients and
    administrators that do not run meanwhile must join again. When it was interrupted, run it again.
    """
    for done in authority.rotate(directory, wait_s=wait_s):
        typer.echo(done)


def make(
    *,
    directory: Path,
    host: str,
    port: int,
    admin: Path | None,
    name: str,
    node: str,
    domain: str,
    profile: str,
    shards: int,
    groups: int,
    log_file: str,
) -> Path:
    """Make the cluster and its configuration; give the administrator's directory."""
    plan = Plan(
        cluster=name,
        node=node,
        host=host,
        port=port,
        domain=domain,
        profile=parse_profile(profile),
        shard_count=shards,
        placement_count=groups,
    )
    create_cluster(directory, plan, clock=SystemClock(), entropy=SystemEntropy())
    write_configuration(
        directory,
        Configuration(
            node=NodeSection(name=node, role="meta", host=host, port=port, domain=domain or node),
            log=LogSection(file=log_file),
        ),
    )
    made = directory / "admin"
    write_configuration(made, Configuration(node=NodeSection(name="admin", role="admin")))
    if admin is not None:
        admin.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, admin)
        made = admin
    return made


def parse_profile(text: str) -> Profile:
    """Read `DATA+PARITY`. Raises ConfigurationError."""
    match = re.fullmatch(r"(\d+)\+(\d+)", text)
    if match is None:
        raise ConfigurationError(f"'{text}' is no erasure profile; write it as 2+1, 4+2 or 8+3")
    return Profile(int(match[1]), int(match[2]))


def write_configuration(directory: Path, configuration: Configuration) -> None:
    """Write a node directory's configuration file."""
    (directory / FILE_NAME).write_text(dump(configuration))
