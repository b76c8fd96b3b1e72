"""`cfs up`: a whole cluster on this machine, mounted; again: whatever is not running, started.

STATE/meta1..  STATE/storage1..   node directories
STATE/admin    STATE/client       identities
"""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from cfs.cli import cluster, mount, node, processes
from cfs.cli.configuration import FILE_NAME
from cfs.cli.status import fetch, show
from cfs.cli.umount import clear_dead
from cfs.core.api.root import Status
from cfs.core.errors import CfsError, DeadlineExceeded
from cfs.fs.root.bootstrap import PLACEMENT_COUNT

HOST = "127.0.0.1"
READY_S = 60.0
LOG_FILE = "log/node.log"


def up(
    state: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".state"),
    mountpoint: Annotated[
        Path, typer.Option("--mount", help="Where to mount.", parser=Path)
    ] = Path("mnt"),
    metas: Annotated[int, typer.Option("--meta", help="Metadata nodes.")] = 3,
    storages: Annotated[int, typer.Option("--storage", help="Storage nodes.")] = 3,
    profile: Annotated[str, typer.Option(help="Erasure profile.")] = "2+1",
    shards: Annotated[int, typer.Option(help="Shards of the namespace.")] = 8,
) -> None:
    """Start a cluster on this machine and mount it; continue one that is there."""
    if not (state / "admin" / FILE_NAME).exists():
        _create(state, profile, shards)
    wanted = [("meta", f"meta{i + 1}") for i in range(metas)]
    wanted += [("storage", f"storage{i + 1}") for i in range(storages)]
    _start_all(state, _present(state, wanted))
    new = [(role, name) for role, name in wanted if not (state / name / FILE_NAME).exists()]
    for role, name in new:
        _join(state, role, name)
    _start_all(state, new)
    if not (state / "client" / FILE_NAME).exists():
        _join(state, "client", "client")
    found = _until_ready(state, strict=bool(new))
    clear_dead(mountpoint)
    mountpoint.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(mountpoint):
        mount.start(mountpoint, state / "client", mount.View())
    show(found)
    typer.echo(
        f"mounted at {mountpoint.absolute()}\n"
        f"look:  cfs status --dir {state}/admin --watch\n"
        f"stop:  cfs down --state {state}"
    )


def _present(state: Path, wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """List the nodes that exist already: those asked for, and others made before."""
    found = {p.parent.name for p in state.glob(f"*/{FILE_NAME}")}
    names = [n for n in wanted if n[1] in found]
    for name in sorted(found):
        role = name.rstrip("0123456789")
        if role in ("meta", "storage") and (role, name) not in names:
            names.append((role, name))
    return names


def _create(state: Path, profile: str, shards: int) -> None:
    state.mkdir(parents=True, exist_ok=True)
    cluster.make(
        directory=state / "meta1", host=HOST, port=_free_port(), admin=state / "admin",
        name="local", node="meta1", domain="", profile=profile, shards=shards,
        groups=PLACEMENT_COUNT, log_file=LOG_FILE,
    )  # fmt: skip


def _join(state: Path, role: str, name: str) -> None:
    token = node.make_token(state / "admin", role)
    node.enrol_here(
        directory=state / name, token=token, name=name, role=role,
        host="" if role == "client" else HOST, port=0 if role == "client" else _free_port(),
        domain=name, disks=(), log_file=LOG_FILE,
    )  # fmt: skip


def _start_all(state: Path, nodes: list[tuple[str, str]]) -> None:
    """Start those that do not run, all at once: most of a start is Python reading its modules."""
    waiting = [name for _, name in nodes if processes.running(state / name) is None]
    roles = {name: role for role, name in nodes}

    def start(name: str) -> None:
        directory = state / name
        words = ["serve", roles[name], "--dir", str(directory.absolute())]
        processes.start(words, directory, directory / "log" / "output.log")

    with ThreadPoolExecutor(max(1, len(waiting))) as pool:
        list(pool.map(start, waiting))


def _until_ready(state: Path, *, strict: bool) -> Status:
    """Wait until the cluster serves; `strict`: until every node takes part."""
    deadline = time.monotonic() + READY_S
    problem = "no answer"
    while time.monotonic() < deadline:
        try:
            found = fetch(state / "admin", timeout_s=5)
        except CfsError as error:
            problem = str(error)
            continue
        if found.health == "ok" or (not strict and found.health != "down"):
            return found
        problem = "; ".join(found.problems)
        time.sleep(0.2)
    raise DeadlineExceeded(f"the cluster is not ready: {problem}; see {state}/*/log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
