"""What every CFS process is made of: identity, transport, cluster view, connections.

The role modules (`meta_node`, `storage_node`, `client_node`) add theirs. Wiring happens here and
there only; everything below is handed what it needs.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import structlog
import trio

from cfs.cli import logs, processes
from cfs.cli.configuration import FILE_NAME, Configuration, load
from cfs.cli.malloc import DATA, Memory, give_back, keep_freed
from cfs.cli.ports import Ports, SystemPorts
from cfs.core.errors import CfsError, NotFound, Unavailable
from cfs.fs.root.directory import Membership
from cfs.fs.root.leader import RootLeader
from cfs.fs.root.renewal import Renewal
from cfs.fs.root.view import ClusterView
from cfs.net.counters import Counters
from cfs.net.handlers import Handler
from cfs.net.pool import Pool
from cfs.net.rpc import Server
from cfs.net.usage import Usage

_LOG = structlog.get_logger()

VERSION = version("cfs")
BEFORE_STOP_S = 3.0


class Process:
    """One process of a cluster, by its node directory; `ports`: the machine it runs on."""

    def __init__(
        self,
        directory: Path,
        *,
        handlers: Mapping[str, Handler] | None = None,
        ports: Ports | None = None,
    ) -> None:
        self.directory = directory
        self.ports: Ports = ports or SystemPorts(directory)
        self.home = self.ports.home
        self.configuration = self.ports.configuration
        self.member: Membership = self.home.membership()
        self.clock = self.ports.clock
        self.entropy = self.ports.entropy
        self.threads = self.ports.threads
        self.counters = Counters()
        self.started_ms = self.clock.time_ns() // 1_000_000
        self.transport = self.ports.network(self.counters)
        known = self.home.load_map()
        if known is None:
            raise NotFound(f"{directory} holds no cluster map; enrol it again")
        self.view = ClusterView(
            known, node_id=self.member.node_id, save=self.home.save_map, threads=self.threads
        )
        self.pool = Pool(
            transport=self.transport,
            resolve=self.view.resolve,
            name_of=self.view.name_of,
            epoch=lambda: self.view.epoch,
            on_epoch=self.view.on_epoch,
            refused=self.view.refused,
            handlers=handlers,
            counters=self.counters,
        )
        self.view.attach(self.pool)
        self.leader = RootLeader(self.pool, self.view)

    async def listen(self, handlers: Mapping[str, Handler]) -> Server:
        """Bind the node's address. Raises ProcessError when it is taken."""
        try:
            listener = await self.transport.listen(self.member.host, self.member.port)
        except Unavailable as error:
            message = f"{error}; see 'ss -ltnp' for who has it"
            raise processes.ProcessError(message) from None
        server = Server(
            listener=listener,
            handlers=Usage().wrap(handlers),
            epoch=lambda: self.view.epoch,
            on_epoch=self.view.on_epoch,
            refused=self.view.refused,
            counters=self.counters,
        )
        self.view.watch(lambda _map: server.close_refused())
        return server

    async def renew(self) -> None:
        """Keep the certificate in force: at half of its life, and when the authority changed."""
        await Renewal(
            home=self.home,
            view=self.view,
            leader=self.leader,
            reload=self.transport.reload,
            clock=self.clock,
            threads=self.threads,
        ).run()


def configuration_of(directory: Path) -> Configuration:
    """Read a node directory's configuration. Raises ConfigurationError."""
    return load(directory / FILE_NAME)


def run_until_signal(
    directory: Path,
    main: Callable[[trio.Nursery], Awaitable[None]],
    *,
    name: str,
    claim: bool = True,
    before_stop: Callable[[], Awaitable[None]] | None = None,
    memory: Memory = DATA,
) -> None:
    """Run `main(nursery)` until SIGTERM or SIGINT; claims the directory, configures logs.

    Without `claim`, `main` does: another process has the directory still. `before_stop` has
    `BEFORE_STOP_S` to take leave after the signal.

    What ends it otherwise is logged, and raised.
    """
    configuration = configuration_of(directory)
    logs.configure(configuration.log, directory)
    if claim:
        processes.claim(directory)
    keep_freed(memory)

    async def supervise() -> None:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(give_back, memory)
                nursery.start_soon(main, nursery)
                async for number in signals:
                    _LOG.info("process_stop", role=name, signal=signal.Signals(number).name)
                    if before_stop is not None:
                        with trio.move_on_after(BEFORE_STOP_S):
                            await before_stop()
                    break
            nursery.cancel_scope.cancel()

    _LOG.info("process_start", role=name, directory=str(directory), version=VERSION)
    try:
        trio.run(supervise, strict_exception_groups=True)
    except BaseException as error:
        _LOG.critical("process_failed", role=name, error=str(cause_of(error) or repr(error)))
        raise


def cause_of(error: BaseException) -> CfsError | None:
    """Find the one failure that ended a process, in whatever nurseries wrapped around it."""
    if isinstance(error, CfsError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [cause_of(inner) for inner in error.exceptions]
        real = [c for c in found if c is not None]
        return real[0] if len(real) == len(found) else None
    return None
