"""What each domain of a shard uses by its counters, and counted afresh from the inodes."""

from __future__ import annotations

import itertools

import msgspec

from cfs.core.api.quota import Domain
from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import keys, quota, read
from cfs.core.meta.records import INODE

INODES_MAX = 2048
"""Inodes counted for one answer: about 10 ms in the leader's loop."""
DOMAINS_MAX = 4096


class UsageOf(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="usageof"):
    """Ask what these domains use."""

    domains: tuple[Domain, ...]


class UsagePage(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="usagepage"):
    """Ask what all domains after one use."""

    after: Domain = Domain(0, 0)


class UsageRow(msgspec.Struct, frozen=True, array_like=True):
    """What a domain uses."""

    domain: Domain
    bytes: int
    inodes: int
    held: int = 0


class UsageRows(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Domains; `end`: nothing follows. `changes`: how many operations the shard has seen."""

    rows: tuple[UsageRow, ...]
    end: bool = True
    changes: int = 0
    counted: bool = True
    """Every inode of the shard counts already."""


class CountPage(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="countpage"):
    """Ask what the next inodes after a number weigh."""

    after: int = 0


class CountRows(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Sums of some inodes, and where to go on (0: that was all)."""

    rows: tuple[UsageRow, ...]
    after: int
    changes: int


def usage_of(kv: Reader, asked: UsageOf) -> UsageRows:
    """Answer `UsageOf`."""
    rows = []
    for domain in asked.domains:
        there = quota.usage(kv, domain)
        rows.append(UsageRow(domain, there.bytes, there.inodes, there.held))
    state = read.totals(kv)
    return UsageRows(rows=tuple(rows), changes=state.changes, counted=state.counted == quota.ALL)


def usage_page(kv: Reader, asked: UsagePage) -> UsageRows:
    """Answer `UsagePage`."""
    after = asked.after if asked.after.kind else None
    found = list(itertools.islice(quota.usages(kv, after), DOMAINS_MAX))
    rows = tuple(UsageRow(d, there.bytes, there.inodes, there.held) for d, there in found)
    state = read.totals(kv)
    return UsageRows(
        rows=rows,
        end=len(found) < DOMAINS_MAX,
        changes=state.changes,
        counted=state.counted == quota.ALL,
    )


def count_page(kv: Reader, asked: CountPage) -> CountRows:
    """Answer `CountPage`."""
    scan = kv.scan(keys.inode(asked.after + 1), prefix_end(b"i"))
    found = list(itertools.islice(scan, INODES_MAX))
    sums = quota.count_all(INODE.decode(value) for _, value in found)
    after = keys.number_at(found[-1][0], 1) if len(found) == INODES_MAX else 0
    rows = tuple(UsageRow(domain, *by) for domain, by in sums.items())
    return CountRows(rows=rows, after=after, changes=read.totals(kv).changes)
