"""Who is in the group: the history of configurations in the log, and how to get to another one.

A configuration is in force from the moment its entry is *appended*, committed or not; when the
entry is truncated the one before is in force again. At most one is uncommitted at a time (the
leader sees to that). One voter more or less is a single step: old and new majorities overlap.
Anything else goes through a joint configuration, in which both majorities must agree, and which
its leader leaves by itself once it is committed.

The data of a CONFIG entry:

    byte 0   version, 1
    byte 1.. msgpack array [voters, learners, outgoing], as `message.Config`
"""

from __future__ import annotations

import msgspec

from cfs.core.errors import Malformed
from cfs.core.raft.message import Config, Entry, EntryKind

_VERSION = b"\x01"
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Config)


def encode_config(config: Config) -> bytes:
    """Give the data of a CONFIG entry."""
    return _VERSION + _ENCODER.encode(config)


def decode_config(data: bytes) -> Config:
    """Read the data of a CONFIG entry. Raises Malformed."""
    if data[:1] != _VERSION:
        raise Malformed(f"configuration entry of unknown version {data[:1]!r}; upgrade this node")
    try:
        return _DECODER.decode(data[1:])
    except msgspec.MsgspecError as error:
        raise Malformed(f"configuration entry cannot be read: {error}") from error


def next_config(
    current: Config, voters: tuple[int, ...], learners: tuple[int, ...]
) -> Config | None:
    """Give the configuration to append on the way to the wanted one; None if it makes no sense."""
    wanted_voters, wanted_learners = set(voters), set(learners)
    if (
        not wanted_voters
        or min(wanted_voters | wanted_learners) < 1
        or wanted_voters & wanted_learners
        or current.outgoing
    ):
        return None
    joint = len(wanted_voters ^ set(current.voters)) > 1
    return Config(
        voters=tuple(sorted(wanted_voters)),
        learners=tuple(sorted(wanted_learners)),
        outgoing=current.voters if joint else (),
    )


def leave_joint(config: Config) -> Config:
    """Give what follows a joint configuration."""
    return Config(voters=config.voters, learners=config.learners)


def voters_of(config: Config) -> set[int]:
    """Give everyone whose vote counts in either half."""
    return {*config.voters, *config.outgoing}


def members_of(config: Config) -> set[int]:
    """Give everyone the log is replicated to."""
    return {*config.voters, *config.outgoing, *config.learners}


class Membership:
    """The configurations the log holds, each with the index it is in force from."""

    __slots__ = ("_history",)

    def __init__(self, index: int, config: Config) -> None:
        self._history = [(index, config)]

    @property
    def current(self) -> Config:
        """The configuration in force."""
        return self._history[-1][1]

    @property
    def current_index(self) -> int:
        """Index of the entry that the configuration in force came from."""
        return self._history[-1][0]

    def at(self, index: int) -> Config:
        """Give the configuration in force as of `index`, at or after the base."""
        for start, config in reversed(self._history):
            if start <= index:
                return config
        raise AssertionError((index, self._history))

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Note the configurations among entries that were appended."""
        for entry in entries:
            if entry.kind is EntryKind.CONFIG:
                self._history.append((entry.index, decode_config(entry.data)))

    def truncate(self, index: int) -> None:
        """Forget the configurations from `index` on."""
        while len(self._history) > 1 and self._history[-1][0] >= index:
            self._history.pop()

    def compact(self, index: int) -> None:
        """Forget the configurations that were no longer in force at `index`."""
        while len(self._history) > 1 and self._history[1][0] <= index:
            del self._history[0]

    def reset(self, index: int, config: Config) -> None:
        """Start over from a snapshot's configuration."""
        self._history = [(index, config)]
