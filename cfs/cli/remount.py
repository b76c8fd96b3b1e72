"""`cfs remount`: give a live mount to a new daemon, as after an upgrade; open files stay open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cfs.cli import processes
from cfs.cli.umount import daemons
from cfs.core.errors import Refused

PATIENCE_S = 180.0
"""Everything written is committed before the daemon lets go."""


def remount(
    mountpoint: Annotated[Path, typer.Argument(help="Where it is mounted.", parser=Path)],
) -> None:
    """Replace the daemon of a mount by a new one; programs go on, open files and locks stay.

    The new daemon is of the version installed now, and reads the configuration anew. When it cannot
    take the mount over, the old one goes on.
    """
    found = daemons(mountpoint.absolute())
    if not found:
        raise Refused(f"no daemon serves {mountpoint}; see 'cfs mount --help'")
    pid, words = found[0]
    arguments = [os.fsdecode(word) for word in words[words.index(b"mount") :] if word]
    directory = Path(arguments[arguments.index("--dir") + 1])
    arguments = [word for word in arguments if word != "--take-over"]
    arguments.insert(1, "--take-over")
    output = directory / "log" / "mount.log"
    new = processes.start(arguments, directory, output, patience_s=PATIENCE_S)
    typer.echo(f"{mountpoint} is served by process {new} now, no longer by {pid}")
