"""Wires a storage node: its disks and their service."""

from __future__ import annotations

from pathlib import Path

import structlog
import trio

from cfs.cli.ports import Ports
from cfs.cli.process import VERSION, Process
from cfs.fs.root.heartbeat import HeartbeatSender
from cfs.fs.store.peers import Peers
from cfs.fs.store.reporter import Reporter
from cfs.fs.store.scrubber import Scrubber
from cfs.fs.store.service import StorageService
from cfs.fs.store.transfer import Transfers

_LOG = structlog.get_logger()


class StorageNode:
    """A storage node of a cluster."""

    def __init__(self, directory: Path, *, ports: Ports | None = None) -> None:
        self.process = process = Process(directory, ports=ports)
        section = process.configuration.storage
        self.service = StorageService(
            node_id=process.member.node_id,
            cluster_id=process.member.cluster_id,
            disks=process.ports.disks(),
            threads=process.threads,
            clock=process.clock,
            entropy=process.entropy,
            cluster_map=lambda: process.view.map,
            reserve_bytes=section.reserve_bytes or None,
        )

        self.scrubber = Scrubber(
            committers=self.service.committers,
            peers=Peers(
                node_id=process.member.node_id,
                calls=process.pool,
                cluster_map=lambda: process.view.map,
                handlers=self.service.handlers,
            ),
            reporter=Reporter(process.leader),
            threads=process.threads,
            clock=process.clock,
            period_days=section.scrub_days,
            bytes_per_s_max=section.scrub_bytes_per_s,
        )
        self.service.suspect = self.scrubber.suspect
        self.transfers = Transfers(
            node_id=process.member.node_id,
            committers=self.service.committers,
            put=self.service.handlers["store.put"],
            calls=process.pool,
            threads=process.threads,
            cluster_map=lambda: process.view.map,
            hold_epoch=process.view.hold,
        )

    async def run(self, nursery: trio.Nursery) -> None:
        """Serve until cancelled."""
        process = self.process
        server = await process.listen(
            {**self.service.handlers, **self.scrubber.handlers, **self.transfers.handlers}
        )
        await nursery.start(process.pool.run)
        await nursery.start(process.view.run)
        await nursery.start(self.service.run)
        heartbeat = HeartbeatSender(
            node_id=process.member.node_id,
            view=process.view,
            leader=process.leader,
            started_ms=process.started_ms,
            version=VERSION,
            store_stat=lambda: self.scrubber.shown(self.service.stat()),
            counters=process.counters.snapshot,
            memory=process.ports.memory_bytes,
        )
        await nursery.start(heartbeat.run)
        nursery.start_soon(process.renew)
        nursery.start_soon(self.scrubber.run)
        _LOG.info("node_serving", role="storage", host=process.member.host, port=server.port)
        await server.run()
