"""`cfs serve ROLE`: run a node in the foreground until SIGTERM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
import typer

from cfs.cli.malloc import METADATA
from cfs.cli.meta_node import MetaNode
from cfs.cli.process import run_until_signal
from cfs.cli.storage_node import StorageNode
from cfs.core.errors import Refused
from cfs.fs.root.directory import NodeDirectory

app = typer.Typer(help="Run a node in the foreground.", no_args_is_help=True)

Directory = Annotated[Path, typer.Option("--dir", help="The node's directory.")]


@app.command()
def meta(directory: Directory) -> None:
    """Serve as a metadata node."""
    _require(directory, "meta")

    served: list[MetaNode] = []

    async def run(nursery: trio.Nursery) -> None:
        served.append(MetaNode(directory))
        await served[0].run(nursery)

    async def hand_over() -> None:
        for node in served:
            await node.office.hand_over()

    run_until_signal(directory, run, name="meta", before_stop=hand_over, memory=METADATA)


@app.command()
def storage(directory: Directory) -> None:
    """Serve as a storage node."""
    _require(directory, "storage")

    async def run(nursery: trio.Nursery) -> None:
        await StorageNode(directory).run(nursery)

    run_until_signal(directory, run, name="storage")


def _require(directory: Path, role: str) -> None:
    member = NodeDirectory(directory).membership()
    if member.role != role:
        raise Refused(f"{directory} belongs to a {member.role} node, not to a {role} node")
