"""One machine with one process of the cluster: what it keeps, its ports, its lives and deaths.

A process is the production wiring (`cfs.cli.meta_node`, `storage_node`, `client_node`) over
`SimPorts`. It may be killed (the kernel lives on: nothing written is lost, peers see the connection
end) or lose power (what was not synced is lost, peers hear nothing), be frozen, and start again.
What a dead life still does has no effect: its disks fail, its connections are dark.
"""

from __future__ import annotations

import errno
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from sortedcontainers import SortedDict

from cfs.cli.configuration import ClientSection, Configuration, MetaSection, StorageSection
from cfs.core.errors import CfsError
from cfs.fs.store.place import DiskPlace
from tests.sim.disks import Bolted, SimDisk, SimStore
from tests.sim.engine import CURRENT, thaw
from tests.sim.network import SimTransport

HONEST_ENDS = (
    "LogFailed", "NoSpace", "Unavailable: no disk could be opened", "OSError",
    "DeadlineExceeded", "SessionExpired",
)  # fmt: skip
"""What may end a process by itself while disks fail: it stops rather than be wrong."""
RESTART_S = 0.5
"""From the end of a process to its next start."""
EPOCH_NS = 1_700_000_000 * 10**9


class Life:
    """One run of a process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.node: Any = None


class SimWall:
    """Wall time of one machine: skewed, drifting, jumping."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.offset_ns = 0
        self.rate = 1.0

    def time_ns(self) -> int:
        return EPOCH_NS + self.offset_ns + int(self._clock.now * self.rate * 1e9)


class SimEntropy:
    """Chance of one machine."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def random_bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)


class SimThreads:
    """Calls take virtual time, then run at once."""

    def __init__(self, machine: Machine, life: Life) -> None:
        self._machine = machine
        self._life = life
        self.busy = 0

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        machine = self._machine
        self.busy += 1
        try:
            clock = machine.network.clock
            await clock.pause(machine.takes(function))
            while machine.stalled and self._life.alive and machine.uses_disk(function):
                await clock.pause(0.05)
        finally:
            self.busy -= 1
        if not self._life.alive:
            raise OSError(errno.EIO, "the machine is off")
        return function(*args)


class SimPorts:
    """See `cfs.cli.ports.Ports`."""

    inline_log = True

    def __init__(self, machine: Machine, life: Life) -> None:
        self._machine = machine
        self._life = life
        self.home = machine.home
        self.configuration = machine.configuration
        self.clock = machine.wall
        self.entropy = machine.entropy
        self.threads = SimThreads(machine, life)

    def network(self, counters: Any) -> SimTransport:
        del counters
        return SimTransport(self._machine.network, self._machine)

    def log_directory(self) -> Any:
        return Bolted(self._machine.disk, self._life)

    def state_store(self) -> SimStore:
        return SimStore(self._machine.pairs, self._life)

    def disks(self) -> list[DiskPlace]:
        machine, life = self._machine, self._life

        def open_store(fresh: bool) -> SimStore:  # noqa: FBT001 - the port
            if fresh:
                machine.pairs.clear()
            return SimStore(machine.pairs, life)

        directory = Bolted(machine.disk, life)
        return [DiskPlace(name=machine.name, directory=directory, open_store=open_store)]  # type: ignore[arg-type]

    def memory_bytes(self) -> int:
        return 1 << 26


class Machine:
    """One machine; `name` is also its host name."""

    def __init__(
        self, *, name: str, role: str, serial: int, seed: str, network: Any, trace: Any,
        capacity: int = 1 << 40, configuration: Configuration | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.role = role
        self.serial = serial
        self.network = network
        self.trace = trace
        self.chance = random.Random(f"{seed}/{name}")
        self.entropy = SimEntropy(random.Random(f"{seed}/{name}/entropy"))
        self.wall = SimWall(network.clock)
        self.disk = SimDisk(name, capacity=capacity)
        self.pairs = SortedDict()
        self.home: Any = None
        self.configuration = configuration or Configuration(
            meta=MetaSection(pack_after_s=4.0),
            storage=StorageSection(reserve_bytes=1 << 20),
            client=ClientSection(cache_bytes=256 << 10),
        )
        self.life: Life | None = None
        self.lives = 0
        self.frozen = False
        self.stash: list[Any] = []
        self.stalled = False
        self.slow = 1.0
        self.restart_s = RESTART_S
        self.failures: list[str] = []
        """What ended a life by itself."""

    # --- for `SimThreads`

    @staticmethod
    def uses_disk(function: Any) -> bool:
        module = getattr(function, "__module__", "") or ""
        return module.startswith(("cfs.fs.store", "cfs.fs.meta", "cfs.fs.kv", "cfs.fs.root"))

    def takes(self, function: Any) -> float:
        if self.uses_disk(function):
            return (0.0002 + 0.001 * self.chance.random()) * self.slow
        return 0.00002 + 0.0001 * self.chance.random()

    # --- lives

    @property
    def honest(self) -> bool:
        """Whether the last life that ended by itself had a right to: its disk had failed."""
        return bool(self.disk.faults) and self.failures[-1].startswith(HONEST_ENDS)

    @property
    def node(self) -> Any:
        """The running node; None when it is down."""
        return self.life.node if self.life is not None and self.life.alive else None

    @property
    def up(self) -> bool:
        return self.life is not None and self.life.alive

    async def start(self, nursery: trio.Nursery, make: Callable[[Machine, Life], Any]) -> Life:
        """Begin a life: `make(machine, life)` is an async function that runs until cancelled."""
        assert not self.up, self.name
        self.lives += 1
        self.life = life = Life(self.lives)
        self.network.power_on(self.name)
        self.trace.line(f"{self.name} starts, life {life.number}")
        nursery.start_soon(self._live, life, make, name=f"{self.name}.{life.number}")
        return life

    async def _live(self, life: Life, make: Any) -> None:
        CURRENT.set(self)
        reason = ""
        try:
            with life.scope:
                await make(self, life)
        except Exception as error:  # noqa: BLE001 - what ends a life is judged below
            reason = describe(error)
            if life.alive:
                self.trace.line(f"{self.name} ended by itself: {reason}")
                self.failures.append(reason)
        finally:
            if life.alive:
                life.alive = False
                self._end_quietly()
            life.ended.set()

    def _end_quietly(self) -> None:
        self.disk.generation += 1
        self.network.forget(self.name)
        self.network.break_connections(self.name, reset=True, part=True)

    def kill(self) -> None:
        """End the process as SIGKILL does."""
        if not self.up:
            return
        assert self.life is not None
        self.trace.line(f"{self.name} is killed")
        self.life.alive = False
        self._end_quietly()
        self._cancel()

    def cut_power(self, chance: random.Random | None) -> None:
        """End the machine: what was not synced is lost, or with `chance` in part."""
        if not self.up:
            return
        assert self.life is not None
        self.trace.line(f"{self.name} loses power")
        self.life.alive = False
        self.network.silence(self.name)
        self.disk.crash(chance.randrange if chance is not None else None)
        self._cancel()

    def _cancel(self) -> None:
        assert self.life is not None
        self.life.scope.cancel()
        self.stalled = False
        if self.frozen:
            thaw(self)

    def freeze(self) -> None:
        """Stop the process as SIGSTOP does."""
        self.trace.line(f"{self.name} is frozen")
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self.frozen:
            self.trace.line(f"{self.name} goes on")
            thaw(self)


def describe(error: BaseException) -> str:
    """Say what ended a life, without addresses of objects."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(sorted({describe(e) for e in error.exceptions}))
    if isinstance(error, CfsError | OSError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{error!r} at {where}"


def causes(error: BaseException) -> list[BaseException]:
    """Give the exceptions below groups."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in causes(inner)]
    return [error]
