"""What a process asks of the machine it runs on, in one value: the real one here, or a simulator's.

The role modules reach the machine through nothing else, so that the whole of their wiring runs
unchanged under the simulator (`tests/sim`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cfs.cli.configuration import FILE_NAME, Configuration, load
from cfs.core.kv import InstantStore
from cfs.fs.disk.port import Directory
from cfs.fs.disk.real import RealDirectory
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.root.directory import NodeDirectory
from cfs.fs.root.heartbeat import rss_anon_bytes
from cfs.fs.store.place import DiskPlace, place_on
from cfs.net.counters import Counters
from cfs.net.identity import Identity
from cfs.net.ports import Entropy, Threads, Transport, WallClock
from cfs.net.system import SystemClock, SystemEntropy, TrioThreads
from cfs.net.tls import TlsTransport


class Network(Transport, Protocol):
    """A transport whose identity can be replaced while it is in use."""

    def reload(self, identity: Identity) -> None:
        """Show another certificate from now on."""
        ...


class Ports(Protocol):
    """The machine, as one process sees it."""

    home: NodeDirectory
    configuration: Configuration
    clock: WallClock
    entropy: Entropy
    threads: Threads
    inline_log: bool
    """Write a metadata node's log in the event loop: for the simulator."""

    def network(self, counters: Counters) -> Network:
        """Give the transport that shows this node's identity."""
        ...

    def log_directory(self) -> Directory:
        """Lock the directory of the metadata log."""
        ...

    def state_store(self) -> InstantStore:
        """Open the store of the metadata state."""
        ...

    def disks(self) -> list[DiskPlace]:
        """Lock the directories of a storage node's disks."""
        ...

    def memory_bytes(self) -> int:
        """Give this process's anonymous memory."""
        ...


class SystemPorts:
    """The machine itself; the process lives in `directory`."""

    inline_log = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = NodeDirectory(directory)
        self.configuration = load(directory / FILE_NAME)
        self.clock: WallClock = SystemClock()
        self.entropy: Entropy = SystemEntropy()
        self.threads: Threads = TrioThreads()

    def network(self, counters: Counters) -> Network:
        """See `Ports.network`."""
        return TlsTransport(self.home.identity(), counters)

    def log_directory(self) -> Directory:
        """See `Ports.log_directory`."""
        return RealDirectory(self.directory / "wal")

    def state_store(self) -> InstantStore:
        """See `Ports.state_store`."""
        return LmdbStore(self.directory / "state")

    def disks(self) -> list[DiskPlace]:
        """See `Ports.disks`."""
        configured = self.configuration.storage.disks
        paths = [self.directory / d for d in configured] or [self.directory / "disk"]
        return [place_on(path) for path in paths]

    def memory_bytes(self) -> int:
        """See `Ports.memory_bytes`."""
        return rss_anon_bytes()
