"""`cfs status`: the cluster at a glance, for people and, with --json, for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from cfs.cli.ask import ask_root
from cfs.core.api import root
from cfs.core.api.root import NodeStatus, Status
from cfs.core.api.store import StoreStat
from cfs.core.errors import CfsError

WATCH_S = 2.0
WIDTH = 120
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def status(
    directory: Annotated[
        Path, typer.Option("--dir", help="Directory of any identity of the cluster.")
    ] = Path(".state/admin"),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until ^C.")] = False,  # noqa: FBT002
) -> None:
    """Show nodes, health, capacity, what is stored, and what is wrong."""
    if watch and not as_json:
        _watch(directory)
        return
    found = fetch(directory)
    if as_json:
        typer.echo(json.dumps(as_plain(found), indent=2))
    else:
        show(found)


def show(found: Status) -> None:
    """Print the status for people; wide enough for its tables where there is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(render(found))


def fetch(directory: Path, *, timeout_s: float = 20.0) -> Status:
    """Ask the root leader for the status."""
    reply: Status = ask_root(directory, "root.status", root.GetStatus(), timeout_s=timeout_s)
    return reply


def totals(found: Status) -> dict[str, int]:
    """Sum what the storage nodes and shards report. Bytes."""
    stores = [n.heartbeat.store for n in found.nodes if n.heartbeat and n.heartbeat.store]
    metas = [n.heartbeat for n in found.nodes if n.heartbeat and n.role == "meta"]
    return {
        "logical": found.logical_bytes,
        "inline": found.inline_bytes,
        "deduplicated": sum(s.raw_bytes for s in stores),
        "compressed": sum(s.sealed_bytes for s in stores),
        "stored": sum(s.stored for s in stores),
        "allocated": sum(s.allocated for s in stores),
        **room(stores),
        "store_indexes": sum(s.index_bytes for s in stores),
        "meta_logs": sum(h.meta_log_bytes for h in metas),
        "meta_state": sum(h.meta_state_bytes for h in metas),
        "corrupt_reads": sum(s.corrupt_reads for s in stores),
        "inodes": found.inodes,
    }


def room(stores: Iterable[StoreStat]) -> dict[str, int]:
    """Sum capacity and free room: a file system counts once, whoever shares it. Bytes."""
    by_device: dict[str, tuple[int, int]] = {}
    for disk in (d for s in stores for d in s.disks if d.usable):
        size_of, free = by_device.get(disk.device, (disk.size, disk.free))
        by_device[disk.device] = (max(size_of, disk.size), min(free, disk.free))
    return {
        "capacity": sum(size_of for size_of, _ in by_device.values()),
        "free": sum(free for _, free in by_device.values()),
    }


def as_plain(found: Status) -> dict[str, Any]:
    """Give the status as plain values with names."""
    return {
        "cluster": found.map.name,
        "cluster_id": found.map.cluster_id.hex(),
        "epoch": found.map.epoch,
        "health": found.health,
        "problems": list(found.problems),
        "profile": f"{found.map.profile.data}+{found.map.profile.parity}",
        "shards": found.map.shard_count,
        "root_leader": found.leader,
        "bytes": totals(found),
        "nodes": [_plain_node(n) for n in found.nodes],
        "workers": [_named(w) for w in found.workers],
    }


def render(found: Status) -> Group:
    """Build what people see."""
    colour = {"ok": "green", "degraded": "yellow"}.get(found.health, "red")
    head = Table.grid(padding=(0, 2))
    head.add_row(
        f"cluster [bold]{found.map.name}[/]", f"health [bold {colour}]{found.health}[/]",
        f"profile {found.map.profile.data}+{found.map.profile.parity}",
        f"{found.map.shard_count} shards", f"epoch {found.map.epoch}",
    )  # fmt: skip
    nodes = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("node", "role", "state", "address", "leads", "free", "stored", "memory", "note"):
        nodes.add_column(
            column, justify="right" if column in _RIGHT else "left", no_wrap=column != "note"
        )
    for node in found.nodes:
        nodes.add_row(*_node_cells(node))
    bytes_ = totals(found)
    data = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("logical", "deduplicated", "compressed", "stored", "capacity", "free"):
        data.add_column(column, justify="right")
    data.add_row(
        *(size(bytes_[c]) for c in ("logical", "deduplicated", "compressed", "allocated")),
        size(bytes_["capacity"]), size(bytes_["free"]),
    )  # fmt: skip
    apart = (
        f"apart: {bytes_['inodes']} inodes, {size(bytes_['inline'])} inline until packed, "
        f"metadata {size(bytes_['meta_state'])}, logs {size(bytes_['meta_logs'])}, "
        f"indexes {size(bytes_['store_indexes'])}"
    )
    lines: list[Any] = [head, nodes, data, apart]
    lines += [f"[yellow]! {problem}[/]" for problem in found.problems]
    lines += [
        f"worker {w.name} on {w.node}: {w.state} {w.progress} {w.last_error}"
        for w in found.workers
        if w.last_error or w.state not in {"idle", "watching"}
    ]
    return Group(*lines)


_RIGHT = {"leads", "free", "stored", "memory"}


def size(count: int) -> str:
    """Write bytes the way people read them."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def _node_cells(node: NodeStatus) -> list[str]:
    beat = node.heartbeat
    store = beat.store if beat else None
    leads = str(sum(g.role == "leader" for g in beat.groups)) if beat and beat.groups else ""
    behind = max((g.committed - g.applied for g in beat.groups), default=0) if beat else 0
    notes = list(store.warnings) if store else []
    if node.seen_ms_ago is None:
        notes.append("not heard of yet")
    elif node.seen_ms_ago > 3000:
        notes.append(f"silent for {node.seen_ms_ago // 1000} s")
    if behind > 100:
        notes.append(f"{behind} entries behind")
    colour = {"in": "green", "joining": "cyan"}.get(node.state, "red")
    return [
        node.name,
        node.role,
        f"[{colour}]{node.state}[/]",
        node.address,
        leads,
        size(store.free) if store else "",
        size(store.allocated) if store else "",
        size(beat.rss_anon) if beat else "",
        "; ".join(notes),
    ]


def _plain_node(node: NodeStatus) -> dict[str, Any]:
    plain = _named(node)
    beat = node.heartbeat
    plain["heartbeat"] = _named(beat) if beat else None
    if beat:
        plain["heartbeat"]["store"] = _plain_store(beat.store) if beat.store else None
        plain["heartbeat"]["groups"] = [_named(g) for g in beat.groups]
    return plain


def _plain_store(store: StoreStat) -> dict[str, Any]:
    disks = [{**_named(d), "disk_id": d.disk_id.hex()} for d in store.disks]
    return {**_named(store), "disks": disks}


def _named(value: msgspec.Struct) -> dict[str, Any]:
    return {f: getattr(value, f) for f in value.__struct_fields__}


def _watch(directory: Path) -> None:
    with Live(refresh_per_second=4) as live:
        while True:
            try:
                live.update(render(fetch(directory, timeout_s=5)))
            except CfsError as error:
                live.update(f"[red]no answer: {error}[/]")
            time.sleep(WATCH_S)
