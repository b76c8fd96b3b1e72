"""What must hold when a run is over: histories explained, replicas equal, the tree whole.

Everything here reads; nothing is repaired. `Violation`s are texts, collected by the runner.
"""

from __future__ import annotations

import itertools
import stat
from collections import Counter, defaultdict
from typing import Any

from cfs.core.errors import CfsError
from cfs.core.ids import Ino, shard_of
from cfs.core.meta import keys, read
from cfs.core.meta.records import ENTRIES, INODE
from cfs.fs.meta.snapshot import check_digest
from tests.sim.history import History
from tests.sim.linear import Undecided, explain
from tests.sim.models import TreeModel, file_step

ROOT_INO = 1


def histories(
    history: History, bases: tuple[int, ...], *, brief: bool = False
) -> tuple[list[str], int, int]:
    """Explain every object's operations; give (violations, operations checked, undecided).

    `brief`: without looking for the first answer that does not fit.
    """
    found: list[str] = []
    checked = undecided = 0
    tree = TreeModel(bases)
    for name, ops in sorted(history.by_object().items()):
        initial, step = (tree.initial, tree.step) if name == "tree" else (b"", file_step)
        try:
            order = explain(ops, initial, step)
        except Undecided:
            undecided += 1
            continue
        if order is None:
            why = "" if brief else shortest(ops, initial, step)
            found.append(f"{name}: no order explains its {len(ops)} operations{why}")
        checked += len(ops)
    return found, checked, undecided


def shortest(ops: list[Any], initial: Any, step: Any) -> str:
    """Find the first answer that nothing explains, and tell what led up to it."""
    ops = sorted(ops, key=lambda op: (op.ret, op.index))
    low, high = 0, len(ops)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            fits = explain(_upto(ops, middle), initial, step) is not None
        except Undecided:
            return ""
        low, high = (middle, high) if fits else (low, middle)
    told = "\n    ".join(str(op) for op in sorted(ops, key=lambda o: o.invoke)
                         if op.invoke <= ops[high - 1].ret)  # fmt: skip
    return f"; the first that does not fit: {ops[high - 1]}\n    " + told


def _upto(ops: list[Any], count: int) -> list[Any]:
    """Give the first answers, and everything that was under way by then."""
    last = ops[count - 1].ret if count else 0.0
    strict = ops[:count]
    later = [op for op in ops[count:] if op.invoke <= last and op.changes]
    import dataclasses  # noqa: PLC0415

    return strict + [dataclasses.replace(op, optional=True, before=None) for op in later]


def locks(held: list[tuple[int, str, float, float]]) -> list[str]:
    """Two clients must not surely hold the same lock at the same time."""
    found = []
    by_file: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
    for ino, client, began, until in held:
        by_file[ino].append((began, until, client))
    for ino, intervals in by_file.items():
        intervals.sort()
        for (_, until, one), (began, _, other) in itertools.pairwise(intervals):
            if began < until and one != other:
                found.append(f"lock of {ino}: {one} held it until {until:.4f}, "
                             f"{other} from {began:.4f}")  # fmt: skip
    return found


def replicas(cluster: Any) -> list[str]:
    """Replicas at the same index have the same digest; what is stored has the digest kept."""
    found = []
    digests: dict[tuple[int, int], dict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
    for machine in cluster.metas():
        if machine.node is None:
            found.append(f"{machine.name} is down at the end")
            continue
        for number, group in machine.node.host.groups.items():
            digests[number, group.applied][group.digest].append(machine.name)
            try:
                check_digest(machine.node.store, number)
            except CfsError as error:
                found.append(f"{machine.name}: {error}")
    for (group, index), by_digest in digests.items():
        if len(by_digest) > 1:
            found.append(f"group {group} at {index}: replicas differ: {sorted(by_digest.values())}")
    return found


def leaders(cluster: Any) -> dict[int, Any]:
    """Give the replica that leads each shard, by shard."""
    found = {}
    for machine in cluster.metas():
        if machine.node is not None:
            for number, group in machine.node.host.groups.items():
                if number and group.is_leader and group.ready:
                    found[number - 1] = group
    return found


def unsettled(cluster: Any) -> str | None:
    """Say what is still under way in the shards; None at quiescence."""
    led = leaders(cluster)
    if len(led) < cluster.shape.shards:
        return "a leader"
    for shard, group in led.items():
        if read.open_transactions(group.state):
            return f"transactions in shard {shard}"
        if read.orphans(group.state, 0, 1):
            return f"orphans in shard {shard}"
        if read.totals(group.state).doomed:
            return f"cut files in shard {shard}"
    return None


def tree(cluster: Any) -> list[str]:
    """Every name leads to an inode, counts are exact, directories form one tree."""
    found: list[str] = []
    inodes: dict[int, Any] = {}
    names: dict[int, list[tuple[int, bytes, int]]] = defaultdict(list)
    links: Counter[int] = Counter()
    for shard, group in sorted(leaders(cluster).items()):
        state = group.state
        own = 0
        allocated = 0
        for key, value in state.scan(b"i", b"j"):
            ino = keys.number_at(key, 1)
            inode = INODE.decode(value)
            own += 1
            inodes[ino] = inode
            if stat.S_ISREG(inode.mode):
                allocated += inode.allocated
            if shard_of(Ino(ino)) != shard:
                found.append(f"inode {ino} lies in shard {shard}")
        for key, value in state.scan(b"d", b"e"):
            parent = keys.number_at(key, 1)
            for slot in ENTRIES.decode(value).slots:
                names[parent].append((slot.ino, slot.name, slot.kind))
                links[slot.ino] += 1
        totals = read.totals(state)
        if totals.inodes != own:
            found.append(f"shard {shard} counts {totals.inodes} inodes and has {own}")
        if totals.logical_bytes != allocated:
            found.append(f"shard {shard} counts {totals.logical_bytes} bytes, has {allocated}")
        if totals.locks:
            found.append(f"shard {shard} has {totals.locks} locks of transactions left")
    for parent, entries in names.items():
        if parent not in inodes:
            found.append(f"entries of directory {parent}, which is not there")
            continue
        if inodes[parent].size != len(entries):
            found.append(f"directory {parent} counts {inodes[parent].size}, has {len(entries)}")
        for ino, name, kind in entries:
            if ino not in inodes:
                found.append(f"name {name!r} in {parent} leads to inode {ino}, which is not there")
            elif stat.S_IFMT(inodes[ino].mode) != kind:
                found.append(f"name {name!r} in {parent} has another kind than inode {ino}")
    for ino, inode in inodes.items():
        if stat.S_ISDIR(inode.mode):
            below = sum(kind == stat.S_IFDIR for _, _, kind in names[ino])
            if inode.nlink != 2 + below:
                found.append(f"directory {ino} has nlink {inode.nlink}, not {2 + below}")
            if ino != ROOT_INO:
                if links[ino] != 1:
                    found.append(f"directory {ino} has {links[ino]} names")
                elif not any(i == ino for i, _, _ in names[inode.parent]):
                    found.append(f"directory {ino} is not in its parent {inode.parent}")
                if not _reaches_root(inodes, ino):
                    found.append(f"directory {ino} is in a cycle or cut off")
        elif inode.nlink != links[ino]:
            found.append(f"inode {ino} has nlink {inode.nlink} and {links[ino]} names")
    return found


def _reaches_root(inodes: dict[int, Any], ino: int) -> bool:
    for _ in range(len(inodes)):
        if ino == ROOT_INO:
            return True
        inode = inodes.get(ino)
        if inode is None:
            return False
        ino = inode.parent
    return False
