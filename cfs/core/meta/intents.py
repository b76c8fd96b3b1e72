"""What a shard remembers of cross-shard transactions: its part, and a coordinator's decision.

    t txid   Intent    PREPARED: locked, in doubt; COMMITTED, ABORTED: kept until forgotten, so
                       that a late repeat of any message finds the outcome
    T txid   Decision  at the coordinator: the outcome, and whose operation it answered

Values as in `records`.
"""

from __future__ import annotations

import enum

import msgspec

from cfs.core.kv import Reader
from cfs.core.meta import keys
from cfs.core.meta.commands import Step
from cfs.core.meta.records import Codec


class Phase(enum.IntEnum):
    """Where a part stands."""

    PREPARED = 0
    COMMITTED = 1
    ABORTED = 2


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """A shard's part of a transaction."""

    phase: Phase
    coordinator: int
    session: int
    steps: tuple[Step, ...]
    inos: tuple[int, ...]
    """For each step the inode it makes, else 0."""
    hlc: int
    """When it came to this phase; while PREPARED also the token of the preparation."""


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of a transaction, made in shard `coordinator`."""

    commit: bool
    session: int
    seq: int
    hlc: int
    coordinator: int


INTENT = Codec(Intent)
DECISION = Codec(Decision)


def intent(kv: Reader, txid: bytes) -> Intent | None:
    """Give this shard's part."""
    value = kv.get(keys.intent(txid))
    return None if value is None else INTENT.decode(value)


def decision(kv: Reader, txid: bytes) -> Decision | None:
    """Give the outcome decided here."""
    value = kv.get(keys.decision(txid))
    return None if value is None else DECISION.decode(value)
