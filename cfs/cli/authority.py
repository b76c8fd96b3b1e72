"""Replaces the cluster's certificate authority, step by step, as the administrator in a directory.

Each step waits until every node renewed its certificate after the one before; the administrator's
own is renewed with them, else it would be locked out by the last. A rotation that was interrupted
is simply begun again: every authority before the newest is forgotten by the last step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from cfs.cli import logs
from cfs.cli.configuration import LogSection
from cfs.cli.process import Process
from cfs.core.api import root
from cfs.core.errors import CfsError, DeadlineExceeded, Refused, Retryable

STEPS = (
    ("ca_rotate", "a second authority is trusted"),
    ("ca_switch", "the second authority issues"),
    ("ca_retire", "the first authority is forgotten"),
)
ASK_S = 20.0
POLL_S = 0.5


def rotate(directory: Path, *, wait_s: float) -> Iterator[str]:
    """Do the three steps; give a line after each. Raises Refused (a node does not renew)."""
    logs.configure(LogSection(level="warning"))
    for command, meaning in STEPS:
        version = trio.run(_step, directory, command, wait_s)
        yield f"authority {version}: {meaning}"


async def _step(directory: Path, command: str, wait_s: float) -> int:
    """Take a step as soon as it is allowed, and renew this identity after it."""
    process = Process(directory)
    async with trio.open_nursery() as nursery:
        await nursery.start(process.pool.run)
        await nursery.start(process.view.run)
        nursery.start_soon(process.renew)
        version = await _ask(process, command, trio.current_time() + wait_s)
        with trio.move_on_after(wait_s) as scope:
            while process.home.membership().authority < version:
                await process.view.refresh()
                await trio.sleep(POLL_S)
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"{directory} could not renew its certificate: run this again")
        nursery.cancel_scope.cancel()
    return version


async def _ask(process: Process, command: str, deadline: float) -> int:
    while True:
        failure: CfsError
        try:
            request = root.Admin(command=command, arguments={})
            reply: Any = await process.leader.ask("root.admin", request, timeout_s=ASK_S)
        except (Refused, Retryable) as error:
            failure = error
        else:
            version: int = reply.value["version"]
            return version
        if trio.current_time() > deadline:
            raise failure
        await trio.sleep(POLL_S)
