"""An operator's commands on nodes, profile and settings (`root.admin`): names, arguments, answers.

    drain_check     node                  -> {}         raises Refused when it would be too few
    drain_undo      node                  -> node       in again; its drain job is cancelled
    node_remove     node                  -> node
    rebalance_plan                        -> moves, nodes (each: name, now, then), bytes
    profile_get                           -> profile
    profile_set     data, parity          -> profile    counts for what is written from now on
    settings                              -> settings
    set             name, value           -> settings

`node` is a name or an id.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.core.api.cluster import NodeState, Profile
from cfs.core.errors import Malformed, NotFound, Refused
from cfs.core.root import commands
from cfs.core.root.nodes import read_settings
from cfs.core.root.records import JobState, NodeRecord
from cfs.fs.root.admin import Command
from cfs.fs.root.job_runner import Jobs
from cfs.fs.root.redundancy import Redundancy
from cfs.fs.root.replica import RootReplica

_Arguments = dict[str, Any]


class NodeCommands:
    """Carries them out."""

    def __init__(self, replica: RootReplica, redundancy: Redundancy, jobs: Jobs) -> None:
        self._replica = replica
        self._redundancy = redundancy
        self._jobs = jobs
        self.table = {
            "drain_check": Command(self._drain_check, frozenset({"node"})),
            "drain_undo": Command(self._drain_undo, frozenset({"node"})),
            "node_remove": Command(self._remove, frozenset({"node"})),
            "rebalance_plan": Command(self._plan, frozenset()),
            "profile_get": Command(self._profile_get, frozenset()),
            "profile_set": Command(self._profile_set, frozenset({"data", "parity"})),
            "settings": Command(self._settings, frozenset()),
            "set": Command(self._set, frozenset({"name", "value"})),
        }

    async def _drain_check(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        self._redundancy.check_drain(arguments)
        return {}

    async def _drain_undo(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        node = self._find(arguments).node
        for job in self._jobs.active("drain"):
            if job.spec.get("node") in (node.name, node.node_id):
                await self._jobs.control(job.number, state=JobState.CANCELLED)
        if node.state != NodeState.DRAINING:
            raise Refused(f"{node.name} is {node.state}, it is not being drained")
        change = commands.StateChange(node.node_id, NodeState.DRAINING, NodeState.IN)
        await self._replica.propose(commands.SetStates(changes=(change,)))
        return {"node": node.name}

    async def _remove(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        node = self._find(arguments).node
        await self._replica.propose(commands.RemoveNode(node_id=node.node_id))
        return {"node": node.name}

    async def _plan(self, _arguments: _Arguments, _by: str) -> dict[str, Any]:
        moves, loads = await self._redundancy.plan_rebalance()
        names = {r.node.node_id: r.node.name for r in self._replica.nodes()}
        weights = {n: self._redundancy.bytes_a_group(n) for n in {m[1] for m in moves}}
        return {
            "moves": [
                {"group": group, "from": names.get(old, str(old)), "to": names.get(new, str(new))}
                for group, old, new in moves
            ],
            "nodes": [
                {"name": names[n], "now": now, "then": then} for n, (now, then) in loads.items()
            ],
            "bytes": sum(weights[old] for _, old, _ in moves),
        }

    async def _profile_get(self, _arguments: _Arguments, _by: str) -> dict[str, Any]:
        return self._profile()

    async def _profile_set(self, arguments: _Arguments, _by: str) -> dict[str, Any]:
        data, parity = arguments.get("data"), arguments.get("parity")
        if not isinstance(data, int) or not isinstance(parity, int):
            raise Malformed("a profile is two numbers: data and parity")
        await self._replica.propose(commands.SetProfile(profile=Profile(data, parity)))
        return self._profile()

    async def _settings(self, _arguments: _Arguments, _by: str) -> dict[str, Any]:
        return {"settings": msgspec.structs.asdict(read_settings(self._replica.state))}

    async def _set(self, arguments: _Arguments, by: str) -> dict[str, Any]:
        value = arguments.get("value")
        if not isinstance(value, int | float):
            raise Malformed("a setting's value is a number")
        name = str(arguments.get("name", ""))
        await self._replica.propose(commands.Set(name=name, value=float(value)))
        return await self._settings({}, by)

    def _profile(self) -> dict[str, Any]:
        profile = self._replica.cluster().profile
        return {"profile": f"{profile.data}+{profile.parity}"}

    def _find(self, arguments: _Arguments) -> NodeRecord:
        wanted = arguments.get("node")
        for record in self._replica.nodes():
            if wanted in (record.node.node_id, record.node.name):
                return record
        raise NotFound(f"there is no node {wanted!r}; see cfs admin node list")
