"""Wires a metadata node: Raft host, shard service, root group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lmdb
import msgspec
import structlog
import trio

from cfs.cli.ports import Ports
from cfs.cli.process import VERSION, Process
from cfs.core.api import root
from cfs.core.errors import CfsError, Corrupt
from cfs.core.ids import ROOT_GROUP
from cfs.core.machine import StateMachine
from cfs.core.meta.shard import Shard
from cfs.core.root.machine import RootMachine
from cfs.fs.data.fragment_client import FragmentClient
from cfs.fs.data.fragments import Fragments, ReadCounters
from cfs.fs.data.uploader import Uploader
from cfs.fs.meta.examiner import Examiner
from cfs.fs.meta.exporter import Exporter
from cfs.fs.meta.host import Host
from cfs.fs.meta.leaders import Leaders
from cfs.fs.meta.packer import Packer
from cfs.fs.meta.peers import PoolSender
from cfs.fs.meta.rebuild import begin_empty
from cfs.fs.meta.service import MetaService
from cfs.fs.meta.state import State
from cfs.fs.meta.wal import Wal
from cfs.fs.root import bootstrap
from cfs.fs.root.heartbeat import HeartbeatSender
from cfs.fs.root.office import RootOffice
from cfs.fs.root.rewriter import DataPath
from cfs.net.handlers import Handler

_LOG = structlog.get_logger()

SESSION_RETRY_S = 0.5


class MetaNode:
    """A metadata node of a cluster."""

    def __init__(self, directory: Path, *, ports: Ports | None = None) -> None:
        self.process = process = Process(directory, ports=ports)
        node = process.member.node_id
        empty = process.home.rebuilding()
        self._open(directory)
        begin_empty(self.log, self.state, empty)
        self.host = Host(
            node=node,
            log=self.log,
            state=self.state,
            machines=self._machine,
            send=PoolSender(node=node, pool=process.pool),
            threads=process.threads,
            seed=int.from_bytes(process.entropy.random_bytes(8), "big"),
            inline_log=process.ports.inline_log,
        )
        if empty:
            process.home.write_rebuilding({})
        self.exporter = Exporter(self.host)
        self.examiner = Examiner(self.host, process.home)
        self._session = 0
        uploader = Uploader(
            pool=process.pool,
            cluster_map=lambda: process.view.map,
            sealer=None,
            threads=process.threads,
            session=lambda: self._session,
            refresh=process.view.refresh,
        )
        self.packer = Packer(
            uploader=uploader,
            clock=process.clock,
            after_s=process.configuration.meta.pack_after_s,
        )
        self.service = MetaService(
            host=self.host,
            clock=process.clock,
            shard_count=lambda: process.view.map.shard_count,
            workers=(self._pack,),
        )
        self.leaders = Leaders(
            node=node,
            pool=process.pool,
            cluster_map=lambda: process.view.map,
            handlers=self.service.handlers,
        )
        self.service.transactions.leaders = self.leaders
        self.office = RootOffice(
            home=process.home,
            member=process.member,
            host=self.host,
            view=process.view,
            calls=process.pool,
            shards=self.leaders,
            clock=process.clock,
            entropy=process.entropy,
            threads=process.threads,
            data=DataPath(
                reader=Fragments(
                    client=FragmentClient(process.pool),
                    nodes=uploader.nodes,
                    refresh=process.view.refresh,
                    counters=ReadCounters(),
                ),
                uploader=uploader,
                ready=self._have_session,
            ),
        )

        self.leaders.serve(self.office.handlers)

    def _open(self, directory: Path) -> None:
        """Open log and state. Raises Corrupt, saying what to do."""
        process = self.process
        try:
            self.log = Wal(process.ports.log_directory(), doubt_short_tails=False)
            self.store = process.ports.state_store()
            self.state = State(self.store)
        except (Corrupt, lmdb.Error, msgspec.MsgspecError) as error:
            raise Corrupt(
                f"what {process.member.name} keeps is damaged ({error}); nothing is lost while its "
                f"peers are there: run 'cfs node rebuild-meta --dir {directory}', then start it"
            ) from error

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Every method a metadata node answers."""
        return {
            **self.service.handlers,
            **self.office.handlers,
            **self.examiner.handlers,
            **self.exporter.handlers,
            "raft.messages": self.host.on_raft_messages,
            "raft.snapshot": self.host.on_snapshot_chunk,
        }

    async def run(self, nursery: trio.Nursery) -> None:
        """Serve until cancelled. Raises what makes going on impossible, by name."""
        process = self.process
        server = await process.listen(self.handlers)
        await nursery.start(process.pool.run)
        await nursery.start(process.view.run)
        await nursery.start(self.host.run)
        bootstrap.start_groups(self.host, process.home)
        await nursery.start(self.service.run)
        await nursery.start(self.office.run)
        heartbeat = HeartbeatSender(
            node_id=process.member.node_id,
            view=process.view,
            leader=process.leader,
            started_ms=process.started_ms,
            version=VERSION,
            host=self.host,
            meta_bytes=lambda: (self.log.bytes_used(), self.store.bytes_used()),
            counters=self.counters,
            memory=process.ports.memory_bytes,
        )
        await nursery.start(heartbeat.run)
        nursery.start_soon(process.renew)
        nursery.start_soon(self.exporter.run)
        _LOG.info("node_serving", role="meta", host=process.member.host, port=server.port)
        await server.run()

    def counters(self) -> dict[str, int]:
        """Give what this process counts."""
        return {**self.process.counters.snapshot(), "chunks_packed": self.packer.packed_chunks}

    def _machine(self, group: int) -> StateMachine:
        if group == ROOT_GROUP:
            return RootMachine()
        return Shard(self.process.view.map.site, group - 1)

    async def _pack(self, led: object) -> None:
        await self._have_session()
        await self.packer.run(led)  # type: ignore[arg-type]

    async def _have_session(self) -> None:
        """Wait until the uploader may name segments."""
        while not self._session:
            try:
                name = f"packer of {self.process.member.name}"
                reply = await self.process.leader.ask("root.session", root.NewSession(client=name))
                self._session = reply.session
            except CfsError as error:
                _LOG.info("packer_waits", error=str(error))
                await trio.sleep(SESSION_RETRY_S)
