"""`cfs mount`: mount the file system."""

from __future__ import annotations

import functools
import importlib
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import msgspec
import trio
import typer

from cfs.cli import processes
from cfs.cli.client_node import ClientNode
from cfs.cli.process import configuration_of, run_until_signal
from cfs.cli.umount import clear_dead
from cfs.core.api.cluster import Role
from cfs.core.errors import FsError, Refused
from cfs.core.ids import ROOT_INO
from cfs.fs.client.files import Files
from cfs.fs.client.handover import Handed
from cfs.fs.gate.attachment import MountOptions
from cfs.fs.gate.kernel import mount as kernel_mount
from cfs.fs.gate.kernel.door import Door, Taken, take

MOUNT_S = 60.0
BINDINGS = ("kernel", "pyfuse3")


def mount(
    mountpoint: Annotated[Path, typer.Argument(help="An empty directory.", parser=Path)],
    directory: Annotated[Path, typer.Option("--dir", help="Directory of the client.")],
    read_only: Annotated[  # noqa: FBT002
        bool, typer.Option("--read-only", help="Refuse changes; a reader's mount always does.")
    ] = False,
    root_squash: Annotated[  # noqa: FBT002
        bool, typer.Option("--root-squash", help="Root has nobody's rights here (user 65534).")
    ] = False,
    subdir: Annotated[
        str,
        typer.Option(
            "--subdir",
            help="Mount only this directory, a path from the root: a view, not a boundary.",
        ),
    ] = "",
    exclusive: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--exclusive", help="Only while nobody else mounts: the kernel writes back by itself."
        ),
    ] = False,
    binding: Annotated[
        str, typer.Option("--binding", help="kernel or pyfuse3; else as configured.")
    ] = "",
    foreground: Annotated[  # noqa: FBT002
        bool, typer.Option("--foreground", help="Stay; systemd wants that.")
    ] = False,
    take_over: Annotated[  # noqa: FBT002
        bool, typer.Option("--take-over", help="Take a live mount over; see cfs remount.")
    ] = False,
) -> None:
    """Mount the file system; returns when it is usable. A dead mount is taken away first."""
    if not take_over:
        clear_dead(mountpoint)
        _check(mountpoint)
    if binding and binding not in BINDINGS:
        raise Refused(f"{binding} is no binding; choose {' or '.join(BINDINGS)}")
    if exclusive and binding == "pyfuse3":
        raise Refused("--exclusive needs the kernel binding")
    view = View(read_only=read_only, root_squash=root_squash, subdir=subdir, exclusive=exclusive)
    if take_over and (not foreground or binding == "pyfuse3"):
        raise Refused("--take-over needs --foreground and the kernel binding; use cfs remount")
    if foreground:
        _serve(directory, mountpoint, view, binding, take_over=take_over)
    else:
        start(mountpoint, directory, view, binding=binding)
        typer.echo(f"mounted {mountpoint}; 'cfs umount {mountpoint}' unmounts")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a mount shows and allows."""

    read_only: bool = False
    root_squash: bool = False
    subdir: str = ""
    exclusive: bool = False

    def words(self) -> list[str]:
        """Give it as options of `cfs mount`."""
        words = ["--read-only"] if self.read_only else []
        words += ["--root-squash"] if self.root_squash else []
        words += ["--exclusive"] if self.exclusive else []
        return [*words, "--subdir", self.subdir] if self.subdir else words


def _check(mountpoint: Path) -> None:
    if os.path.ismount(mountpoint):
        raise Refused(f"{mountpoint} is a mount point already; choose another directory")
    if not mountpoint.is_dir():
        raise Refused(f"{mountpoint} is not a directory; make it first")
    if any(mountpoint.iterdir()):
        raise Refused(f"{mountpoint} is not empty; choose an empty directory")


def start(mountpoint: Path, directory: Path, view: View, *, binding: str = "") -> None:
    """Mount in the background; the mount is usable on return. Raises Refused, ProcessError."""
    _check(mountpoint)
    configuration_of(directory)
    words = ["mount", "--foreground", "--dir", str(directory.absolute())]
    words += view.words()
    if binding:
        words += ["--binding", binding]
    words.append(str(mountpoint.absolute()))
    output = directory / "log" / "mount.log"
    pid = processes.start(words, directory, output)
    deadline = time.monotonic() + MOUNT_S
    while not os.path.ismount(mountpoint):
        if processes.running(directory) != pid:
            raise processes.ProcessError(
                f"mounting {mountpoint} failed: {processes.last_line(output)}"
            )
        if time.monotonic() > deadline:
            processes.stop(directory, patience_s=2)
            raise processes.ProcessError(f"{mountpoint} was not mounted in time; see {output}")
        time.sleep(0.05)


def _serve(directory: Path, mountpoint: Path, view: View, binding: str, *, take_over: bool) -> None:
    binding = binding or configuration_of(directory).client.binding
    serve_mount = _serving(binding, directory)
    taken: list[Taken] = []

    async def adopt() -> Handed:
        taken.append(await take(directory))
        processes.claim(directory)
        return taken[0].state.files

    async def run(nursery: trio.Nursery) -> None:
        node = ClientNode(directory)
        reader = node.process.member.role == Role.READER
        if reader and view.exclusive:
            raise Refused("this client may only read, so it cannot have the file system alone")
        files = await node.start(nursery, adopt if take_over else None, exclusive=view.exclusive)
        if taken:
            root = taken[0].state.root
        else:
            root = await _root_of(files, view.subdir) if view.subdir else ROOT_INO
        subdir = view.subdir.strip("/")
        options = MountOptions(
            read_only=view.read_only or reader,
            name=f"cfs:{node.process.view.map.name}" + (f"/{subdir}" if subdir else ""),
            root=root,
            root_squash=view.root_squash,
            exclusive=view.exclusive,
        )
        if taken:
            await kernel_mount.serve_mount(
                files, str(mountpoint), options=options, door=_door(directory), taken=taken[0]
            )
        else:
            await serve_mount(files, str(mountpoint), options=options)
        nursery.cancel_scope.cancel()

    run_until_signal(directory, run, name="client", claim=not take_over)


def _door(directory: Path) -> Door:
    """Give the way out of this process for its mount."""

    def leave(begin: Callable[[], None]) -> None:
        (directory / processes.PID_FILE).unlink(missing_ok=True)
        begin()
        os._exit(0)

    return Door(directory, leave)


async def _root_of(files: Files, path: str) -> int:
    """Give the inode of a directory by its path. Raises Refused."""
    try:
        attr = await files.walk(path)
    except FsError as error:
        raise Refused(
            f"--subdir {path}: {os.strerror(error.errno)}; make it on a mount of the whole first"
        ) from error
    if not stat.S_ISDIR(attr.mode):
        raise Refused(f"--subdir {path} is not a directory; choose one")
    return attr.ino


def _serving(binding: str, directory: Path) -> Callable[..., Awaitable[None]]:
    """Give what serves a mount; only the binding in use is imported."""
    if binding not in BINDINGS:
        raise Refused(f"{binding} is no binding; choose {' or '.join(BINDINGS)}")
    if binding == "kernel":
        return functools.partial(kernel_mount.serve_mount, door=_door(directory))
    module = importlib.import_module("cfs.fs.gate.fuse")
    served: Callable[..., Awaitable[None]] = module.serve_mount
    return served
