"""`cfs node`: tokens to join with, and joining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
import typer

from cfs.cli.ask import ask_root
from cfs.cli.cluster import write_configuration
from cfs.cli.configuration import Configuration, LogSection, NodeSection, StorageSection
from cfs.core.api import root
from cfs.fs.root.join import join as enrol

app = typer.Typer(help="Let nodes and clients join.", no_args_is_help=True)

Directory = Annotated[Path, typer.Option("--dir", help="Directory of the identity.")]


@app.command()
def token(
    directory: Directory,
    role: Annotated[str, typer.Option(help="meta, storage, client, gateway or admin.")],
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
