"""Three servers and two clients, made with the commands of `examples/three_machines.md`.

A keeper starts a process that ended by itself again, as systemd would, unless its machine is held.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from tests.chaos.machines import CFS, Client, Relays, Server
from tests.chaos.wires import Wires, sh

SERVERS, CLIENTS = ("a", "b", "c"), ("d", "e")
META_PORT, STORAGE_PORT = 7001, 7101
RESTART_S = 1.0


class Cluster:
    """All machines of a run."""

    def __init__(self, *, kind: str = "ext4") -> None:
        self._temporary = tempfile.TemporaryDirectory(
            prefix="cfs-chaos-", ignore_cleanup_errors=True
        )
        self.base = Path(self._temporary.name)
        self.kind = kind
        self.wires = Wires(SERVERS + CLIENTS)
        self.servers: list[Server] = []
        self.clients: list[Client] = []
        self.relays: dict[str, Relays] = {}
        self.held: set[str] = set()
        """Servers whose processes are meant to be down."""
        self.restarts = 0
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def cfs(self, machine: str, *words: object) -> str:
        """Run the cfs command on a machine."""
        return sh(*self.wires.inside(machine), *CFS, *words)

    def _make(self) -> None:
        self.wires.make()
        for name in SERVERS:
            self.servers.append(Server(self.wires, name, self.base, kind=self.kind))
        first = self.servers[0]
        admin = self.base / "admin"
        self.cfs(
            "a", "cluster", "init", "--dir", first.disk / "meta", "--admin", admin, "--name",
            "chaos", "--node", "a", "--host", first.address, "--port", META_PORT, "--shards", 2,
            "--groups", 16,
        )  # fmt: skip
        first.processes[0].start()
        for server in self.servers[1:]:
            self._join(server, "meta", server.name, META_PORT)
            server.processes[0].start()
        for server in self.servers:
            self._join(server, "storage", f"{server.name}-disk", STORAGE_PORT,
                       "--domain", server.name, "--disk", server.disk / "data")  # fmt: skip
            server.processes[1].start()
        self._keeper.start()
        for name in CLIENTS:
            client = Client(self.wires, name, self.base)
            self.clients.append(client)
            token = self._token("client")
            self.cfs(name, "node", "join", "--token", token, "--dir", client.directory,
                     "--name", f"{name}-client")  # fmt: skip
        self.settle(90)
        for client in self.clients:
            client.start()

    def _token(self, role: str) -> str:
        return self.cfs("a", "node", "token", "--dir", self.base / "admin", "--role", role).strip()

    def _join(self, server: Server, role: str, name: str, port: int, *more: object) -> None:
        token = self._token(role)
        self.cfs(server.name, "node", "join", "--token", token, "--dir", server.disk / role,
                 "--name", name, "--host", server.address, "--port", port, *more)  # fmt: skip

    def _keep(self) -> None:
        down: dict[str, float] = {}
        while not self._over.wait(0.2):
            for server in self.servers:
                if server.name in self.held or all(p.alive for p in server.processes):
                    down.pop(server.name, None)
                elif time.monotonic() - down.setdefault(server.name, time.monotonic()) > RESTART_S:
                    server.start()
                    self.restarts += 1

    # --- looking

    def status(self) -> dict[str, Any]:
        """Give what `cfs status --json` says on the first client."""
        told: dict[str, Any] = json.loads(
            self.cfs("d", "status", "--dir", self.base / "admin", "--json")
        )
        return told

    def leader(self) -> Server:
        """Give the server whose metadata node leads most groups; the first when nobody can say."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, ValueError):
            leads = {
                node["name"]: sum(g["role"] == "leader" for g in node["heartbeat"]["groups"])
                for node in self.status()["nodes"]
                if node["role"] == "meta" and node["heartbeat"]
            }
            if leads:
                most = max(leads, key=lambda name: leads[name])
                return next(s for s in self.servers if s.name == most)
        return self.servers[0]

    def settle(self, seconds: float) -> None:
        """Wait until the cluster calls itself healthy and every node is in."""
        deadline = time.monotonic() + seconds
        why = "?"
        while time.monotonic() < deadline:
            try:
                status = self.status()
            except (AssertionError, subprocess.TimeoutExpired, ValueError) as error:
                why = str(error)
            else:
                out = [
                    f"{n['name']} is {n['state']}" for n in status["nodes"] if n["state"] != "in"
                ]
                if len(status["nodes"]) < 2 * len(SERVERS):
                    out.append(f"{len(status['nodes'])} nodes")
                if not out and status["health"] == "ok":
                    return
                why = "; ".join([*out, f"{status['health']}: {status['problems']}"])
            time.sleep(0.3)
        raise AssertionError(f"not healthy within {seconds} s: {why}")

    # --- relays

    def relay(self, name: str) -> Relays:
        """Give a machine's relay, started when it is wanted first."""
        if name not in self.relays:
            self.relays[name] = Relays(self.wires, name)
        return self.relays[name]

    def end_relays(self) -> None:
        for relay in self.relays.values():
            relay.end()
        self.relays.clear()

    # --- ending

    def remove(self) -> None:
        """End everything that was started, and remove what was made."""
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for relay in self.relays.values():
            relay.end()
        for client in self.clients:
            client.remove()
        for server in self.servers:
            server.remove()
        self.wires.remove()
        self._temporary.cleanup()
