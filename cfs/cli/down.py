"""`cfs down`: unmount and stop what `cfs up` started."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from cfs.cli import processes
from cfs.cli.configuration import FILE_NAME

CLIENT_S = 60.0
NODE_S = 15.0


def down(
    state: Annotated[Path, typer.Option(help="What `cfs up` was given.")] = Path(".state"),
) -> None:
    """Unmount, then stop every process of this cluster on this machine."""
    names = sorted(p.parent.name for p in state.glob(f"*/{FILE_NAME}"))
    clients = [n for n in names if n.startswith("client")]
    nodes = [n for n in names if n not in clients]
    stopped = _stop_all(state, clients, CLIENT_S)
    for prefix in ("storage", "meta"):
        stopped += _stop_all(state, [n for n in nodes if n.startswith(prefix)], NODE_S)
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def _stop_all(state: Path, names: list[str], patience_s: float) -> list[str]:
    """End processes, all at once; give the names of those that ran."""
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        ran = pool.map(lambda name: processes.stop(state / name, patience_s=patience_s), names)
        return [name for name, did in zip(names, ran, strict=True) if did]
