"""The `cfs` command: one Typer tree, one module a command.

Exit codes: 0 done; 1 refused by the file system or the cluster; 2 wrong usage or configuration;
3 a process could not be started or stopped; 4 the cluster does not answer. A `CfsError` becomes one
line that names the object, the fact and the next action; there are no tracebacks for it.
"""

from __future__ import annotations

import sys

import typer

from cfs.cli import (
    admin,
    clone,
    cluster,
    debug,
    down,
    explain,
    key,
    mount,
    node,
    quota,
    remount,
    serve,
    snapshot,
    status,
    sync,
    trash,
    umount,
    up,
)
from cfs.cli.process import cause_of
from cfs.core.errors import DeadlineExceeded, Retryable

EXIT_UNANSWERED = 4

app = typer.Typer(
    name="cfs",
    help="A distributed POSIX file system: coherent, encrypted, erasure-coded.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cluster.app, name="cluster")
app.add_typer(node.app, name="node")
app.add_typer(serve.app, name="serve")
app.add_typer(debug.app, name="debug")
app.add_typer(key.app, name="key")
app.add_typer(admin.app, name="admin")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(trash.app, name="trash")
app.add_typer(quota.app, name="quota")
app.command("undelete")(trash.undelete)
app.command("clone")(clone.clone)
app.command("mount")(mount.mount)
app.command("umount")(umount.umount)
app.command("remount")(remount.remount)
app.command("sync")(sync.sync)
app.command("status")(status.status)
app.command("explain")(explain.explain)
app.command("up")(up.up)
app.command("down")(down.down)


def main() -> None:
    """Run the command line; see the module for exit codes."""
    try:
        app()
    except BaseException as error:
        cause = cause_of(error)
        if cause is None:
            raise
        print(f"cfs: {cause}", file=sys.stderr)  # noqa: T201 - the one place that speaks of errors
        unanswered = isinstance(cause, DeadlineExceeded | Retryable)
        sys.exit(EXIT_UNANSWERED if unanswered else cause.exit_code)


if __name__ == "__main__":
    main()
