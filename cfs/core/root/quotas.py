"""Quotas as the root group knows them, and how a limit is divided among shards.

    marking ──> limiting ──> active ──> clearing ──> forgotten
     a tree is   caps are     it is      limits are off, a tree's
     walked      being set    in force   marks are being taken away

A user's or group's quota begins with limiting. What each shard may use (its *cap*) is decided by
`share` and `raised`: caps never add up to more than the limit, or what is used already.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from cfs.core.api.quota import TREE, UNLIMITED, Domain
from cfs.core.errors import Malformed, NotFound, Refused, Retryable
from cfs.core.kv import Reader, Writer
from cfs.core.root import records
from cfs.core.root.command import Command
from cfs.core.root.records import encode, get, get_counters

QUOTA_PREFIX = b"q"
QUOTAS_MAX = 10_000
GRACE_S = 7 * 86_400
LIMIT_MAX = 1 << 62


class QuotaPhase(enum.IntEnum):
    """Where a quota stands."""

    MARKING = 0
    LIMITING = 1
    ACTIVE = 2
    CLEARING = 3


class QuotaRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A quota; limits of -1 are none. Times are wall clock milliseconds."""

    domain: Domain
    name: str
    """The path of a tree, the name of a user or group, when it was set."""
    phase: QuotaPhase
    bytes_hard: int = UNLIMITED
    bytes_soft: int = UNLIMITED
    inodes_hard: int = UNLIMITED
    inodes_soft: int = UNLIMITED
    grace_s: int = GRACE_S
    """How long a soft limit may be passed."""
    bytes_over_ms: int = 0
    """Since when the soft limit is passed; 0: it is not."""
    inodes_over_ms: int = 0
    version: int = 0
    """Rises with every change of the record."""


class PutQuota(Command, frozen=True, kw_only=True, tag="quota"):
    """Set a quota's record. Value: the version of what is limited. Refused for another version."""

    record: QuotaRecord
    was: int
    """The version it was made from; 0: there is none."""


class ForgetQuota(Command, frozen=True, kw_only=True, tag="unquota"):
    """Forget a quota that is cleared."""

    domain: Domain


class RaiseTerm(Command, frozen=True, kw_only=True, tag="quotaterm"):
    """Let the terms that shards hear begin at `base`: after a restore they may know later ones."""

    base: int


def key_of(domain: Domain) -> bytes:
    """Key of a quota's record."""
    return QUOTA_PREFIX + bytes([domain.kind]) + domain.id.to_bytes(8, "big")


def read_all(kv: Reader) -> list[QuotaRecord]:
    """Give every quota: trees, users, groups."""
    return records.get_all(kv, QuotaRecord, QUOTA_PREFIX)


def find(kv: Reader, domain: Domain) -> QuotaRecord | None:
    """Give one quota."""
    return get(kv, QuotaRecord, key_of(domain))


def put(kv: Writer, command: PutQuota) -> int:
    """Apply `PutQuota`."""
    record = command.record
    check(record)
    there = find(kv, record.domain)
    if (0 if there is None else there.version) != command.was:
        raise Retryable(f"the quota of {record.name} has changed meanwhile")
    if there is None and len(read_all(kv)) >= QUOTAS_MAX:
        raise Refused(f"there are {QUOTAS_MAX} quotas, the most there can be: remove some")
    version = get_counters(kv).quota_version + 1
    kv.put(key_of(record.domain), encode(msgspec.structs.replace(record, version=version)))
    return _count(kv, version)


def forget(kv: Writer, command: ForgetQuota) -> int:
    """Apply `ForgetQuota`."""
    record = find(kv, command.domain)
    if record is not None and record.phase != QuotaPhase.CLEARING:
        raise Refused(f"the quota of {record.name} is in force: remove it first")
    kv.delete(key_of(command.domain))
    return _count(kv, get_counters(kv).quota_version + 1)


def raise_term(kv: Writer, command: RaiseTerm) -> int:
    """Apply `RaiseTerm`."""
    counters = get_counters(kv)
    base = max(counters.quota_base, command.base)
    records.put_counters(kv, msgspec.structs.replace(counters, quota_base=base))
    return base


def _count(kv: Writer, version: int) -> int:
    records.put_counters(kv, msgspec.structs.replace(get_counters(kv), quota_version=version))
    return version


def check(record: QuotaRecord) -> None:
    """Raise Malformed for limits that cannot be."""
    for what, hard, soft in (
        ("bytes", record.bytes_hard, record.bytes_soft),
        ("inodes", record.inodes_hard, record.inodes_soft),
    ):
        if not UNLIMITED <= hard <= LIMIT_MAX or not UNLIMITED <= soft <= LIMIT_MAX:
            raise Malformed(f"{max(hard, soft)} {what} cannot be a limit")
        if UNLIMITED < hard < soft:
            raise Malformed(f"the soft limit of {what} is above the hard one: {soft} > {hard}")
    if not 0 <= record.grace_s <= 3650 * 86_400:
        raise Malformed(f"a grace of {record.grace_s} s; up to ten years, please")


def require(kv: Reader, domain: Domain) -> QuotaRecord:
    """Give one quota. Raises NotFound."""
    record = find(kv, domain)
    if record is None:
        raise NotFound("there is no such quota; see cfs quota list")
    return record


# --- how much, and who ---------------------------------------------------------------------------


def limits(record: QuotaRecord, now_ms: int) -> tuple[int, int]:
    """Give the bytes and inodes that hold now: a soft limit counts as hard after its grace.

    Until then one without a hard limit has one beyond reach: where there is a limit, clients have
    room charged before they accept bytes, so it can hold from one moment to the next.
    """
    return (
        _limit(record.bytes_hard, record.bytes_soft, record.bytes_over_ms, record.grace_s, now_ms),
        _limit(
            record.inodes_hard, record.inodes_soft, record.inodes_over_ms, record.grace_s, now_ms
        ),
    )


def _limit(hard: int, soft: int, over_ms: int, grace_s: int, now_ms: int) -> int:
    if soft != UNLIMITED and over_ms and now_ms >= over_ms + grace_s * 1000:
        return soft if hard == UNLIMITED else min(hard, soft)
    return LIMIT_MAX if hard == UNLIMITED != soft else hard


def limits_something(record: QuotaRecord) -> bool:
    """Tell whether any limit is set: if not, nobody knows of it any more."""
    limits_ = record.bytes_hard, record.bytes_soft, record.inodes_hard, record.inodes_soft
    return any(limit != UNLIMITED for limit in limits_)


def noted(record: QuotaRecord, used: tuple[int, int], now_ms: int) -> QuotaRecord:
    """Note since when the soft limits are passed, by what is used."""
    over = {
        "bytes_over_ms": _over(used[0], record.bytes_soft, record.bytes_over_ms, now_ms),
        "inodes_over_ms": _over(used[1], record.inodes_soft, record.inodes_over_ms, now_ms),
    }
    return msgspec.structs.replace(record, **over)


def _over(used: int, soft: int, since_ms: int, now_ms: int) -> int:
    if soft == UNLIMITED or used <= soft:
        return 0
    return since_ms or now_ms


def share(limit: int, taken: Sequence[int], wanting: int = -1, need: int = 0) -> list[int]:
    """Give each shard its cap: what it has taken, and a part of what is left.

    The one that is `wanting` gets what it needs first, and half of the rest.
    """
    if limit == UNLIMITED:
        return [UNLIMITED] * len(taken)
    left = max(0, limit - sum(taken))
    caps = list(taken)
    if wanting >= 0:
        given = min(left, max(need, left // 2))
        caps[wanting] += given
        left -= given
    each = left // len(caps)
    return [cap + each for cap in caps]


def raised(limit: int, caps: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Give the caps after raising towards those wanted as far as the limit goes.

    `caps` are in force; those that were to be lowered are lower by now, if they could be.
    """
    if limit == UNLIMITED:
        return list(wanted)
    left = max(0, limit - sum(caps))
    found = []
    for cap, want in zip(caps, wanted, strict=True):
        more = max(0, min(want - cap, left))
        found.append(cap + more)
        left -= more
    return found


def is_tree(record: QuotaRecord) -> bool:
    """Tell whether it is a directory tree's."""
    return record.domain.kind == TREE


records.add_kind(QuotaRecord)
