"""The `cfs` command: one Typer tree, one module a command.

Exit codes: 0 done; 1 refused by the file system or the cluster; 2 wrong usage or configuration;
3 a process could not be started or stopped; 4 the cluster does not answer. A `CfsError` becomes one
line that names the object, the fact and the next action; there are no tracebacks for it.
"""

from __future__ import annotations

import sys

import typer

from cfs.cli import cluster, down, mount, node, serve, status, umount, up
from cfs.core.errors import CfsError, DeadlineExceeded, Retryable

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
app.command("mount")(mount.mount)
app.command("umount")(umount.umount)
app.command("status")(status.status)
app.command("up")(up.up)
app.command("down")(down.down)


def main() -> None:
    """Run the command line; see the module for exit codes."""
    try:
        app()
    except BaseException as error:
        cause = _cause(error)
        if cause is None:
            raise
        print(f"cfs: {cause}", file=sys.stderr)  # noqa: T201 - the one place that speaks of errors
        unanswered = isinstance(cause, DeadlineExceeded | Retryable)
        sys.exit(EXIT_UNANSWERED if unanswered else cause.exit_code)


def _cause(error: BaseException) -> CfsError | None:
    """Find the one failure that ended the command, in whatever nurseries wrapped around it."""
    if isinstance(error, CfsError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [_cause(inner) for inner in error.exceptions]
        real = [c for c in found if c is not None]
        return real[0] if len(real) == len(found) else None
    return None


if __name__ == "__main__":
    main()
