"""`cfs mount`: mount the file system."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import trio
import typer

from cfs.cli import processes
from cfs.cli.client_node import ClientNode
from cfs.cli.process import configuration_of, run_until_signal
from cfs.cli.umount import clear_dead
from cfs.core.errors import Refused
from cfs.fs.gate.fuse import MountOptions, serve_mount

MOUNT_S = 60.0


def mount(
    mountpoint: Annotated[Path, typer.Argument(help="An empty directory.")],
    directory: Annotated[Path, typer.Option("--dir", help="Directory of the client.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse changes.")] = False,  # noqa: FBT002
    foreground: Annotated[  # noqa: FBT002
        bool, typer.Option("--foreground", help="Stay; systemd wants that.")
    ] = False,
) -> None:
    """Mount the file system; returns when it is usable. A dead mount is taken away first."""
    clear_dead(mountpoint)
    _check(mountpoint)
    if foreground:
        _serve(directory, mountpoint, read_only=read_only)
    else:
        start(mountpoint, directory, read_only=read_only)
        typer.echo(f"mounted {mountpoint}; 'cfs umount {mountpoint}' unmounts")


def _check(mountpoint: Path) -> None:
    if os.path.ismount(mountpoint):
        raise Refused(f"{mountpoint} is a mount point already; choose another directory")
    if not mountpoint.is_dir():
        raise Refused(f"{mountpoint} is not a directory; make it first")
    if any(mountpoint.iterdir()):
        raise Refused(f"{mountpoint} is not empty; choose an empty directory")


def start(mountpoint: Path, directory: Path, *, read_only: bool) -> None:
    """Mount in the background; the mount is usable on return. Raises Refused, ProcessError."""
    _check(mountpoint)
    configuration_of(directory)
    words = ["mount", "--foreground", "--dir", str(directory.absolute())]
    if read_only:
        words.append("--read-only")
    words.append(str(mountpoint.absolute()))
    output = directory / "log" / "mount.log"
    pid = processes.start(words, directory, output)
    deadline = time.monotonic() + MOUNT_S
    while not os.path.ismount(mountpoint):
        if processes.running(directory) != pid:
            raise processes.ProcessError(f"mounting {mountpoint} failed: {_last_line(output)}")
        if time.monotonic() > deadline:
            processes.stop(directory, patience_s=2)
            raise processes.ProcessError(f"{mountpoint} was not mounted in time; see {output}")
        time.sleep(0.05)


def _serve(directory: Path, mountpoint: Path, *, read_only: bool) -> None:
    async def run(nursery: trio.Nursery) -> None:
        node = ClientNode(directory)
        files = await node.start(nursery)
        options = MountOptions(read_only=read_only, name=f"cfs:{node.process.view.map.name}")
        await serve_mount(files, str(mountpoint), options=options)
        nursery.cancel_scope.cancel()

    run_until_signal(directory, run, name="client")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
