"""`cfs umount`: unmount, and wait until everything written is stored."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from cfs.cli import processes
from cfs.core.errors import DeadlineExceeded, Refused
from cfs.fs.gate.attachment import abort, device_of

PATIENCE_S = 90.0
ANSWER_S = 5.0
"""A mount that lives answers sooner, or its daemon can be found."""
_POLL_S = 0.05


def umount(
    mountpoint: Annotated[Path, typer.Argument(help="Where it is mounted.", parser=Path)],
) -> None:
    """Unmount; everything written is stored when this returns."""
    unmount(mountpoint)
    typer.echo(f"unmounted {mountpoint}")


def unmount(mountpoint: Path) -> None:
    """Unmount and wait for the daemon to commit and end. Raises Refused, DeadlineExceeded."""
    if clear_dead(mountpoint):
        return
    if not os.path.ismount(mountpoint):
        raise Refused(f"{mountpoint} is not mounted")
    serving = daemons(mountpoint.absolute())
    _detach(mountpoint)
    deadline = time.monotonic() + PATIENCE_S
    while any(processes.alive(pid) for pid, _ in serving):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"{mountpoint} is unmounted, but its daemon still stores data; see its log"
            )
        time.sleep(_POLL_S)


def clear_dead(mountpoint: Path) -> bool:
    """Take away a mount whose daemon died; False when there is none. Raises Refused.

    Mostly such a mount answers ENOTCONN. A daemon that was killed while the kernel held a page for
    it never ends, though, and whoever looks at its mount hangs with it until the connection is
    aborted.
    """
    device = device_of(str(mountpoint))
    if device is None:
        return False
    answers: list[int] = []

    def ask() -> None:
        try:
            mountpoint.stat()
            answers.append(0)
        except OSError as error:
            answers.append(error.errno or errno.EIO)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    if answers and answers[0] != errno.ENOTCONN:
        return False
    if not answers:
        if daemons(mountpoint.absolute()):
            return False
        abort(device)
    _detach(mountpoint, lazily=True)
    return True


def _detach(mountpoint: Path, *, lazily: bool = False) -> None:
    command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    if lazily:
        command.append("-l" if os.geteuid() == 0 else "-z")
    done = subprocess.run(  # noqa: S603 - fixed words and a path
        [*command, str(mountpoint)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(f"{done.stderr.strip() or f'{mountpoint} cannot be unmounted'}")


def daemons(mountpoint: Path) -> list[tuple[int, list[bytes]]]:
    """Find the processes that serve a mount point, by their command line: ids and words."""
    wanted = {b"mount", b"--foreground", os.fsencode(mountpoint)}
    return [(pid, words) for pid, words in processes.command_lines() if wanted <= set(words)]
