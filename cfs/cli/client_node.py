"""Wires a client: `Files` over a cluster, for a mount or for a program.

async with open_files(Path("/var/lib/cfs/client")) as files:
    await files.write_file("/hello", b"world")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cfs.cli.ports import Ports
from cfs.cli.process import Process
from cfs.core.api import root
from cfs.core.data.pipeline import Sealer
from cfs.core.errors import CfsError
from cfs.fs.client.claim import Claim
from cfs.fs.client.files import Files
from cfs.fs.client.handover import Handed
from cfs.fs.client.limits import Limits
from cfs.fs.data.fetcher import Fetcher
from cfs.fs.data.nodes import Nodes
from cfs.fs.data.uploader import Uploader


class ClientNode:
    """A client of a cluster, not yet started."""

    def __init__(self, directory: Path, *, ports: Ports | None = None) -> None:
        self.files: Files
        self.process = Process(directory, handlers={"client.recall": self._recall}, ports=ports)

    async def start(
        self, nursery: trio.Nursery, adopt: Callable[[], Awaitable[Handed]] | None = None,
        *, exclusive: bool = False,
    ) -> Files:  # fmt: skip
        """Connect, fetch the volume keys, take a session; the work goes on in `nursery`.

        `exclusive`: no other client may use the file system. Raises EBUSY, naming who does.
        With `adopt`, called when all else is ready, go on with the session of another process.
        """
        process = self.process
        section = process.configuration.client
        await nursery.start(process.pool.run)
        await nursery.start(process.view.run)
        nursery.start_soon(process.renew)
        await process.view.refresh()
        reply = await process.leader.ask("root.keys", root.GetVolumeKeys(), timeout_s=60)
        sealer = Sealer(reply.keys, process.view.map.key_version)
        session = await process.leader.ask(
            "root.session", root.NewSession(client=process.member.name), timeout_s=60
        )
        nodes = Nodes(lambda: process.view.map)
        uploader = Uploader(
            pool=process.pool,
            cluster_map=lambda: process.view.map,
            sealer=sealer,
            threads=process.threads,
            session=lambda: session.session,
            refresh=process.view.refresh,
            nodes=nodes,
            nursery=nursery,
        )
        fetcher = Fetcher(
            pool=process.pool,
            cluster_map=lambda: process.view.map,
            sealer=sealer,
            threads=process.threads,
            cache_bytes=section.cache_bytes,
            refresh=process.view.refresh,
            nodes=nodes,
        )
        self.files = Files(
            pool=process.pool,
            view=process.view,
            uploader=uploader,
            fetcher=fetcher,
            clock=process.clock,
            name=process.member.name,
            limits=Limits(dirty=section.dirty_bytes, flush_age_s=section.flush_s / 2),
        )
        handed = await adopt() if adopt is not None else None
        own = session.session if handed is None else handed.session
        await self.files.start(nursery, session=own)
        if handed is not None:
            self.files.take_over(handed)
        claim = Claim(self.files.client, exclusive=exclusive)
        try:
            await claim.take()
        except CfsError:
            await self.files.close()
            raise
        nursery.start_soon(claim.keep)
        return self.files

    async def _recall(self, context: object, request: object, payload: object) -> object:
        return await self.files.on_recall(context, request, payload)  # type: ignore[arg-type]


@asynccontextmanager
async def open_files(directory: Path) -> AsyncIterator[Files]:
    """Give `Files` of the client enrolled in `directory`; commits everything at the end."""
    node = ClientNode(directory)
    async with trio.open_nursery() as nursery:
        files = await node.start(nursery)
        yield files
        await files.close()
        nursery.cancel_scope.cancel()
