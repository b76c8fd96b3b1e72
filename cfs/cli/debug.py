"""`cfs debug bundle`: what somebody needs who is to find out what is wrong, and no secret.

Decides by name what may be in it: only what is listed here is ever opened. Keys, certificates'
private halves, tokens and the master key are in files that are not; logs and settings go through
`censored` all the same.
"""

from __future__ import annotations

import io
import json
import platform
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cfs.cli.configuration import FILE_NAME
from cfs.cli.jobs import ADMIN, Directory, ask_admin
from cfs.cli.process import VERSION
from cfs.cli.status import as_plain, fetch
from cfs.core.errors import CfsError

LOG_BYTES_MAX = 4 << 20
"""The newest of each log file."""

_SECRET = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\\Z)"
    rb"|cfs1\.[A-Za-z0-9_-]{16,}"
    rb"|[A-Za-z0-9+/=_-]{200,}",
    re.DOTALL | re.IGNORECASE,
)

app = typer.Typer(help="For finding out what is wrong.", no_args_is_help=True)


@app.command()
def bundle(
    directory: Directory = ADMIN,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("cfs-debug.tar.gz"),
    nodes: Annotated[
        list[Path] | None,
        typer.Option("--node-dir", help="Node directories here; else those beside the admin's."),
    ] = None,
) -> None:
    """Gather status, map, jobs, events, findings, counters, settings and logs into one file."""
    places = nodes or sorted(p.parent for p in directory.absolute().parent.glob(f"*/{FILE_NAME}"))
    with tarfile.open(out, "w:gz") as tar:
        for name, data in _members(directory, places):
            info = tarfile.TarInfo(f"cfs-debug/{name}")
            info.size, info.mtime, info.mode = len(data), int(time.time()), 0o644
            tar.addfile(info, io.BytesIO(data))
    typer.echo(f"wrote {out}: no keys and no tokens are in it; names of files may be, in the logs")


def censored(data: bytes) -> bytes:
    """Take out what looks like a key or a token, and long runs that could hide one."""
    return _SECRET.sub(b"[taken out]", data)


def _members(directory: Path, places: list[Path]) -> Iterator[tuple[str, bytes]]:
    machine = {
        "cfs": VERSION, "python": platform.python_version(), "kernel": platform.release(),
        "machine": platform.machine(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    yield "machine.json", _json(machine)
    questions: dict[str, Callable[[], Any]] = {
        "status.json": lambda: as_plain(fetch(directory)),
        "map.json": lambda: _map(directory),
        "jobs.json": lambda: ask_admin(directory, "job_list"),
        "events.json": lambda: ask_admin(directory, "events", {"limit": 1000}),
        "findings.json": lambda: ask_admin(directory, "findings", {"all": True}),
        "rounds.json": lambda: ask_admin(directory, "round_list"),
    }
    for name, ask in questions.items():
        try:
            yield name, censored(_json(ask()))
        except CfsError as error:
            yield name, _json({"no answer": str(error)})
    for place in places:
        yield from _of_node(place)


def _of_node(place: Path) -> Iterator[tuple[str, bytes]]:
    settings = place / FILE_NAME
    if settings.exists():
        yield f"{place.name}/{FILE_NAME}", censored(settings.read_bytes())
    files = {
        str(path.relative_to(place)): path.stat().st_size
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
    yield f"{place.name}/files.json", _json(files)
    for log in sorted((place / "log").glob("*.log*")):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES_MAX))
            yield f"{place.name}/log/{log.name}", censored(file.read())


def _map(directory: Path) -> dict[str, Any]:
    known = fetch(directory).map
    return {
        "epoch": known.epoch,
        "shards": known.shard_count,
        "profile": [known.profile.data, known.profile.parity],
        "key_version": known.key_version,
        "nodes": [
            {f: str(getattr(n, f)) for f in n.__struct_fields__ if f != "serial"}
            for n in known.nodes
        ],
        "groups": [[g.group, list(g.voters), list(g.learners)] for g in known.groups],
        "placement": [list(p) for p in known.placement],
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, default=repr).encode()
