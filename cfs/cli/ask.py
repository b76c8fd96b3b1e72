"""Asks the root leader one thing, as whoever lives in a node directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from cfs.cli.process import Process

ASK_S = 20.0


def ask_root(directory: Path, method: str, request: Any, *, timeout_s: float = ASK_S) -> Any:
    """Connect, ask, give the reply. Raises the error tree."""

    async def run() -> Any:
        process = Process(directory)
        async with trio.open_nursery() as nursery:
            await nursery.start(process.pool.run)
            reply = await process.leader.ask(method, request, timeout_s=timeout_s)
            await process.view.settle()
            nursery.cancel_scope.cancel()
            return reply

    return trio.run(run)
