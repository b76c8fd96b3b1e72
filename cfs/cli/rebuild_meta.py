"""`cfs node rebuild-meta`: a metadata node whose disk is damaged is taken from its peers anew.

Run on the node's own machine while it is stopped. Its identity stays; its log and its state are
set aside, and at the next start its replicas begin empty, vote for nobody until they have caught
up, and are filled by their leaders. Refused where that would lose something: a group without
another replica, or without a leader now.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from cfs.cli import processes
from cfs.cli.status import fetch
from cfs.core.api.cluster import Role
from cfs.core.api.root import Status
from cfs.core.errors import Refused
from cfs.fs.root.directory import NodeDirectory

_PARTS = ("wal", "state")


def rebuild_meta(
    directory: Annotated[Path, typer.Option("--dir", help="The metadata node's directory.")],
    discard: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--discard", help="Remove the damaged files instead of keeping them.")
    ] = False,
) -> None:
    """Have a stopped metadata node begin empty and be filled by its peers."""
    home = NodeDirectory(directory)
    member = home.membership()
    if member.role != Role.META:
        raise Refused(f"{directory} is a {member.role} node: only metadata nodes are rebuilt so")
    pid = processes.running(directory)
    if pid is not None:
        raise Refused(f"{member.name} runs (process {pid}): stop it first")
    terms = begin_terms(fetch(directory), member.node_id)
    home.write_rebuilding(terms)
    for part in _PARTS:
        path, aside = directory / part, directory / f"{part}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        if path.exists():
            path.rename(aside)
        if discard:
            shutil.rmtree(aside, ignore_errors=True)
    kept = "" if discard else f"; the old files are in {directory}/*.damaged, remove them some day"
    typer.echo(
        f"{member.name} begins empty with {len(terms)} replicas to be filled{kept}\n"
        f"next: cfs serve meta --dir {directory}"
    )


def begin_terms(status: Status, node_id: int) -> dict[int, int]:
    """Give the groups a node should have replicas of and terms beyond which they begin.

    Raises Refused when one of them cannot be had from others now.
    """
    terms: dict[int, int] = {}
    leads: set[int] = set()
    for node in status.nodes:
        for load in node.heartbeat.groups if node.heartbeat is not None else ():
            terms[load.group] = max(terms.get(load.group, 0), load.term)
            if load.role == "leader" and node.node_id != node_id and node.state == "in":
                leads.add(load.group)
    found: dict[int, int] = {}
    for group in status.map.groups:
        if node_id not in group.voters:
            continue
        name = "the root group" if group.group == 0 else f"shard {group.group - 1}"
        if len(group.voters) == 1:
            raise Refused(f"{name} has no other replica: only a backup can bring it back")
        if group.group not in leads:
            raise Refused(f"{name} has no leader now: bring its other metadata nodes up first")
        found[group.group] = terms[group.group]
    return found
