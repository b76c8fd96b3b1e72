"""Starting, finding and stopping the processes of a node directory.

A serving process holds `run.pid` in its node directory: its process id and start time, so that a
reused id is never taken for it. `cfs up` and `cfs mount` start processes that outlive the terminal;
under systemd the unit does that instead and `cfs serve` stays in the foreground.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cfs.core.errors import CfsError

PID_FILE = "run.pid"
_POLL_S = 0.05


class ProcessError(CfsError):
    """A process could not be started or stopped; the message says why."""

    exit_code = 3


def claim(directory: Path) -> None:
    """Write this process into `directory`. Raises ProcessError when another one runs there."""
    other = running(directory)
    if other is not None and other != os.getpid():
        raise ProcessError(f"{directory} is in use by process {other}; stop it first")
    (directory / PID_FILE).write_text(f"{os.getpid()} {_start_time(os.getpid())}\n")


def running(directory: Path) -> int | None:
    """Give the id of the process that runs on `directory`, if one does."""
    try:
        words = (directory / PID_FILE).read_text().split()
        pid, started = int(words[0]), words[1]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, IndexError):
        return _by_command_line(directory)  # the disk below it died, or was cut in the middle
    return pid if _start_time(pid) == started else None


def _by_command_line(directory: Path) -> int | None:
    """Find a process that was started with `--dir DIRECTORY`, looking at every process."""
    wanted = os.fsencode(directory.absolute())
    for pid, words in command_lines():
        if pid != os.getpid() and b"--dir" in words and words[words.index(b"--dir") + 1] == wanted:
            return pid
    return None


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Yield the id and the words of every process that still is there."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        yield int(entry.name), words


def alive(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    return _start_time(pid) is not None


def start(arguments: list[str], directory: Path, output: Path, *, patience_s: float = 20.0) -> int:
    """Start `cfs ARGUMENTS` in the background; its output goes to `output`. Give its id."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as sink:
        process = subprocess.Popen(  # noqa: S603 - our own program and arguments
            [sys.executable, "-m", "cfs.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    deadline = time.monotonic() + patience_s
    while running(directory) != process.pid:
        code = process.poll()
        if code is not None:
            raise ProcessError(f"'cfs {' '.join(arguments)}' ended at once: {last_line(output)}")
        if time.monotonic() > deadline:
            raise ProcessError(f"'cfs {' '.join(arguments)}' did not start; see {output}")
        time.sleep(_POLL_S)
    return process.pid


def stop(directory: Path, *, patience_s: float) -> bool:
    """End the process on `directory`, by force after `patience_s`; False when none ran."""
    pid = running(directory)
    if pid is None:
        return False
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if running(directory) != pid:
                return True
            time.sleep(_POLL_S)
    raise ProcessError(f"process {pid} on {directory} does not end; see 'ps {pid}'")


def _start_time(pid: int) -> str | None:
    """Give a process's start time in clock ticks since boot; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


def last_line(output: Path) -> str:
    """Give the last line a process wrote."""
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
