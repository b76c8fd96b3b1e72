"""`cfs admin jobs` and `cfs admin job`: long operations, looked at, followed, controlled.

For other commands: `start_and_follow` starts a job and shows its progress. A job runs in the
cluster; what happens here is only watching, so ^C and a lost connection do it no harm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from cfs.cli.ask import ask_root
from cfs.cli.process import Process
from cfs.cli.quantity import parse_rate, rate_text
from cfs.core.api import root
from cfs.core.errors import CfsError, DeadlineExceeded, Refused, Retryable
from cfs.fs.root.job_runner import progress_text

POLL_S = 0.5
WATCH_S = 1.0
WIDTH = 140
OVER = ("done", "failed", "cancelled")

Directory = Annotated[
    Path, typer.Option("--dir", help="The administrator's directory.", show_default=True)
]
Detach = Annotated[bool, typer.Option("--detach", help="Start it and return at once.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: events, one a line.")]
MaxRate = Annotated[str, typer.Option("--max-rate", help="Bytes a second: 50M, 1G, none.")]
ADMIN = Path(".state/admin")

app = typer.Typer(help="Follow, pause, resume, cancel or slow down a job.", no_args_is_help=True)
Number = Annotated[int, typer.Argument(help="From `cfs admin jobs`.")]


def list_jobs(
    directory: Directory = ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until ^C.")] = False,  # noqa: FBT002
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,  # noqa: FBT002
) -> None:
    """List long operations: what runs, how far it is, what it waits for, how it ended."""
    if watch and not as_json:
        with Live(refresh_per_second=4) as live:
            while True:
                try:
                    live.update(_table(_fetch(directory), every=every))
                except CfsError as error:
                    live.update(f"[red]no answer: {error}[/]")
                time.sleep(WATCH_S)
    found = _fetch(directory)
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=_plain))
        return
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(_table(found, every=every))


@app.command()
def attach(number: Number, directory: Directory = ADMIN, as_json: Json = False) -> None:  # noqa: FBT002
    """Show a job's progress until it ends; ^C leaves it running."""
    follow(directory, number, as_json=as_json)


@app.command()
def pause(number: Number, directory: Directory = ADMIN) -> None:
    """Stop a job; it goes on from there with resume."""
    _control(directory, number, "pause")


@app.command()
def resume(number: Number, directory: Directory = ADMIN) -> None:
    """Let a paused or failed job go on from where it was."""
    _control(directory, number, "resume")


@app.command()
def cancel(number: Number, directory: Directory = ADMIN) -> None:
    """End a job for ever; what it did stays done."""
    _control(directory, number, "cancel")


@app.command()
def rate(
    number: Number,
    bound: Annotated[str, typer.Argument(help="Bytes a second: 50M, 1G, none.")],
    directory: Directory = ADMIN,
) -> None:
    """Change how fast a job may go; counts at once."""
    _control(directory, number, "rate", rate=parse_rate(bound))


def start_and_follow(
    directory: Path,
    kind: str,
    spec: dict[str, Any],
    *,
    rate: str = "",
    as_json: bool = False,
    detach: bool = False,
) -> None:
    """Start a job and show its progress until it ends. `rate` empty: the kind's own.

    Raises Refused when the job fails or is cancelled, and what starting it raises.
    """
    arguments: dict[str, Any] = {"kind": kind, "spec": spec}
    if rate:
        arguments["rate"] = parse_rate(rate)
    number = ask_admin(directory, "job_start", arguments)["id"]
    if detach:
        if as_json:
            typer.echo(json.dumps({"event": "started", "id": number}))
        else:
            typer.echo(f"job {number} runs; look: {_again(number, directory)}")
        return
    follow(directory, number, as_json=as_json)


def ask_admin(directory: Path, command: str, arguments: dict[str, Any] | None = None) -> Any:
    """Give a command to the root leader; give its answer."""
    request = root.Admin(command=command, arguments=arguments or {})
    return ask_root(directory, "root.admin", request).value


def follow(directory: Path, number: int, *, as_json: bool) -> dict[str, Any]:
    """Show a job until it is over or paused; give it. Raises Refused when it did not succeed."""
    show = _print_event if as_json else _Bar()
    try:
        job: dict[str, Any] = trio.run(_follow, directory, number, show)
    except KeyboardInterrupt:
        if isinstance(show, _Bar):
            show.stop()
            typer.echo(f"job {number} goes on; look again: {_again(number, directory)}")
        raise typer.Exit(0) from None
    finally:
        if isinstance(show, _Bar):
            show.stop()
    if job["state"] in ("failed", "cancelled"):
        what = job["last_error"] or "cancelled by an administrator"
        then = f"; mend it, then cfs admin job resume {number}" if job["state"] == "failed" else ""
        raise Refused(f"job {number} ({job['kind']}) {job['state']}: {what}{then}")
    if not as_json:
        typer.echo(_end_text(job, directory))
    return job


async def _follow(
    directory: Path, number: int, show: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    process = Process(directory)
    request = root.Admin(command="job_get", arguments={"id": number})
    async with trio.open_nursery() as nursery:
        await nursery.start(process.pool.run)
        while True:
            try:
                reply = await process.leader.ask("root.admin", request, timeout_s=5.0)
            except (Retryable, DeadlineExceeded):
                await trio.sleep(POLL_S)  # a new leader is being elected: it goes on with the job
                continue
            job: dict[str, Any] = reply.value["job"]
            show(job)
            if job["state"] in OVER or job["state"] == "paused":
                break
            await trio.sleep(POLL_S)
        await process.view.settle()
        nursery.cancel_scope.cancel()
    return job


class _Bar:
    """A progress bar for people: bar, share, rate, estimate, what is being done."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[title]}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}"),
            console=Console(width=None if Console().is_terminal else WIDTH),
        )
        self._task: TaskID | None = None

    def __call__(self, job: dict[str, Any]) -> None:
        total = job["total"] or None
        text = progress_text(job)
        if job["state"] == "running" and job["last_error"]:
            text += f" [yellow]({job['last_error']})[/]"
        if self._task is None:
            self._progress.start()
            title = f"{job['kind']} (job {job['id']})"
            self._task = self._progress.add_task("", title=title, text=text, total=total)
        self._progress.update(self._task, completed=job["done"], total=total, text=text)

    def stop(self) -> None:
        self._progress.stop()


def _print_event(job: dict[str, Any]) -> None:
    event = "end" if job["state"] in OVER else "progress"
    typer.echo(json.dumps({"event": event, **job}, default=_plain))


def _end_text(job: dict[str, Any], directory: Path) -> str:
    if job["state"] == "paused":
        number = job["id"]
        return f"job {number} is paused; go on: cfs admin job resume {number} --dir {directory}"
    said = "; ".join(f"{name} {value}" for name, value in job["result"].items())
    return f"job {job['id']} ({job['kind']}) done: {said or progress_text(job)}"


def _again(number: int, directory: Path) -> str:
    return f"cfs admin job attach {number} --dir {directory}"


def _control(directory: Path, number: int, action: str, **more: Any) -> None:
    arguments = {"id": number, "action": action, **more}
    job = ask_admin(directory, "job_control", arguments)["job"]
    bound = rate_text(job["rate"])
    typer.echo(f"job {number} ({job['kind']}) is {job['state']}, bound {bound}")


def _fetch(directory: Path) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = ask_admin(directory, "job_list")["jobs"]
    return jobs


def _table(jobs: list[dict[str, Any]], *, every: bool) -> Table | str:
    shown = [j for j in jobs if every or j["state"] not in ("done", "cancelled")]
    if not shown:
        over = len(jobs)
        return f"no jobs run; {over} are over: see --all" if over else "no jobs"
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("id", "kind", "state", "started", "by", "bound", "progress", "last error"):
        table.add_column(column, no_wrap=column not in ("progress", "last error"))
    for job in shown:
        started = datetime.fromtimestamp(job["started_ms"] / 1000, UTC)
        table.add_row(
            str(job["id"]), job["kind"], job["state"], started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            job["started_by"], rate_text(job["rate"]), progress_text(job), job["last_error"],
        )  # fmt: skip
    return table


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} in a job's figures")
