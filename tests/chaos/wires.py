"""Network namespaces with addresses of their own, and one bridge between them in a further one.

Nothing of the machine's own network is touched: every link lies between namespaces made here, and
deleting those removes all of it. A process enters only the network namespace (`nsenter`), so what
it mounts is seen by everybody.
"""

from __future__ import annotations

import os
import subprocess

PORTS = "7000-7199"
RELAY_PORT = 7900
RELAY_MARK = 0x77
"""Connections with this mark are the relay's own: not redirected again."""


def sh(*words: object, check: bool = True) -> str:
    """Run a program; give what it said."""
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, timeout=60, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{words} gave {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Wires:
    """The namespaces of some machines, by name."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._prefix = f"cfs{os.getpid()}-"
        self.names = names
        self.address = {name: f"10.199.0.{n}" for n, name in enumerate(names, 1)}
        self._made: list[str] = []

    def space(self, name: str) -> str:
        """Give the name of a machine's namespace."""
        return self._prefix + name

    def make(self) -> None:
        """Make all of it."""
        self._add("hub")
        hub = self.space("hub")
        sh("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", hub, "link", "set", "br0", "up")
        for name in self.names:
            self._add(name)
            space = self.space(name)
            sh("ip", "-n", hub, "link", "add", f"v-{name}", "type", "veth",
               "peer", "name", "eth0", "netns", space)  # fmt: skip
            sh("ip", "-n", hub, "link", "set", f"v-{name}", "master", "br0", "up")
            sh("ip", "-n", space, "link", "set", "lo", "up")
            sh("ip", "-n", space, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
            sh("ip", "-n", space, "link", "set", "eth0", "up")
            filter_ = "type filter hook {} priority 0; policy accept;"
            self.nft(
                name,
                "add table inet cut",
                f"add chain inet cut in {{ {filter_.format('input')} }}",
                "add table inet broken",
                f"add chain inet broken out {{ {filter_.format('output')} }}",
                "add table ip relay",
                "add chain ip relay out { type nat hook output priority -100; }",
            )

    def _add(self, name: str) -> None:
        sh("ip", "netns", "add", self.space(name))
        self._made.append(name)

    def remove(self) -> None:
        """Remove all of it."""
        for name in self._made:
            sh("ip", "netns", "del", self.space(name), check=False)
        self._made.clear()

    def inside(self, name: str) -> list[str]:
        """Give the words that start a program in a machine's network."""
        return ["nsenter", f"--net=/run/netns/{self.space(name)}"]

    def nft(self, name: str, *rules: str) -> None:
        """Change a machine's packet filter."""
        sh(*self.inside(name), "nft", "; ".join(rules))

    # --- what breaks

    def link(self, name: str, *, up: bool) -> None:
        """Pull a machine's cable, or put it back."""
        sh("ip", "-n", self.space("hub"), "link", "set", f"v-{name}", "up" if up else "down")

    def deaf(self, name: str, to: str) -> None:
        """Have a machine hear nothing of another one, which still hears it."""
        self.nft(name, f"add rule inet cut in ip saddr {self.address[to]} drop")

    def hears_all(self, name: str) -> None:
        """End `deaf`."""
        self.nft(name, "flush chain inet cut in")

    def rate(self, name: str, rate: str | None) -> None:
        """Bound what a machine sends, as `1mbit`; None: no bound."""
        space = self.space(name)
        if rate is None:
            sh("tc", "-n", space, "qdisc", "del", "dev", "eth0", "root", check=False)
        else:
            sh("tc", "-n", space, "qdisc", "replace", "dev", "eth0", "root", "tbf",
               "rate", rate, "burst", "32kb", "latency", "400ms")  # fmt: skip

    def redirect(self, name: str, *, on: bool) -> None:
        """Lead new connections of a machine to the cluster through its relay."""
        self.nft(name, "flush chain ip relay out")
        if on:
            self.nft(
                name,
                f"add rule ip relay out meta mark {RELAY_MARK} accept",
                f"add rule ip relay out tcp dport {PORTS} redirect to :{RELAY_PORT}",
            )

    def breaking(self, name: str, *, on: bool) -> None:
        """Reset a machine's connections to the cluster, those that exist and new ones."""
        self.nft(name, "flush chain inet broken out")
        if on:
            self.nft(name, f"add rule inet broken out tcp dport {PORTS} reject with tcp reset")
