"""What a Raft machine hears and what it asks for: messages, events, effects, bytes on the wire.

One machine per replica of a group. The host calls `machine.step(event)` and executes the effects
**in order**. The contract:

* `Save` must be durable before any later effect of the same step, and before anything with
  `after_save=True` of any later step, is executed. Effects with `after_save=False` (a leader's
  appends and heartbeats, vote requests) may go at once.
* When a `Save` is durable the host steps `Saved(number)`. A leader counts its own log only then.
* `Apply` gives committed entries in order, each once. Entries of kind CONFIG and EMPTY are the
  machine's own; the host only records their index as applied.
* `SendSnapshot` asks the host to stream the group's state to a peer, out of band, and to step
  `SnapshotSent` when it ended. On the receiver the host, having made the state durable, steps
  `SnapshotRestored`.
"""

from __future__ import annotations

import enum

import msgspec


class EntryKind(enum.IntEnum):
    """What an entry carries."""

    COMMAND = 0
    CONFIG = 1
    EMPTY = 2


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One record of the replicated log."""

    index: int
    term: int
    kind: EntryKind
    data: bytes


class Config(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Membership. `outgoing` is not empty during joint consensus."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a snapshot replaces: everything up to `index`."""

    index: int
    term: int
    config: Config


class HardState(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a replica must not forget."""

    term: int = 0
    vote: int = 0
    """Node voted for in `term`; 0: none."""
    commit: int = 0
    """May lag; an optimisation for restart."""


# --- messages between replicas -------------------------------------------------------------------


class Message(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag=True):
    """Base: group, sender, receiver and the sender's term (for PreVote: the term it would use)."""

    group: int
    sender: int
    receiver: int
    term: int


class PreVote(Message, frozen=True, kw_only=True, tag=1):
    """Would you vote for me? Changes nothing at the receiver."""

    last_index: int
    last_term: int
    transfer: bool = False


class PreVoteReply(Message, frozen=True, kw_only=True, tag=2):
    """The answer to a pre-vote. `doubtful`: from a log that lost its tail (see `election`)."""

    granted: bool
    doubtful: bool = False


class Vote(Message, frozen=True, kw_only=True, tag=3):
    """Vote for me in this term. `transfer`: the leader asked for it, leases do not protect."""

    last_index: int
    last_term: int
    transfer: bool = False


class VoteReply(Message, frozen=True, kw_only=True, tag=4):
    """The answer to a vote request. `doubtful`: from a log that lost its tail (see `election`).

    `silent_ms`: for how long, at least, the voter had neither heard a leader nor led itself.
    """

    granted: bool
    doubtful: bool = False
    silent_ms: int = 0


class Append(Message, frozen=True, kw_only=True, tag=5):
    """Entries after `(previous_index, previous_term)`; empty ones probe."""

    previous_index: int
    previous_term: int
    entries: tuple[Entry, ...]
    commit: int


class AppendReply(Message, frozen=True, kw_only=True, tag=6):
    """`index`: matched up to here, or with `rejected` where to try next (`hint_term` its term)."""

    index: int
    rejected: bool = False
    hint_term: int = 0


class Beat(Message, frozen=True, kw_only=True, tag=7):
    """Heartbeat; `round` numbers it for leases and ReadIndex. `commit` never exceeds the match."""

    commit: int
    round: int


class BeatReply(Message, frozen=True, kw_only=True, tag=8):
    """Answer to a heartbeat."""

    round: int


class TimeoutNow(Message, frozen=True, kw_only=True, tag=9):
    """Leadership transfer: campaign at once."""


AnyMessage = (
    PreVote | PreVoteReply | Vote | VoteReply | Append | AppendReply | Beat | BeatReply | TimeoutNow
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """Give the bytes of a message."""
    return _ENCODER.encode(message)


def decode(data: bytes) -> AnyMessage:
    """Read a message; raises `msgspec.DecodeError` on anything else."""
    message: AnyMessage = _DECODER.decode(data)
    return message


# --- events: what the host tells the machine -----------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the events."""


class Tick(Event, frozen=True, kw_only=True):
    """Time is `now_ms` (monotonic, this host's)."""

    now_ms: int


class Received(Event, frozen=True, kw_only=True):
    """A peer's message arrived."""

    message: AnyMessage


class Propose(Event, frozen=True, kw_only=True):
    """Replicate `data`. Effects hold `Proposed` or `Dropped` with the same `token`."""

    token: int
    data: bytes


class ProposeConfig(Event, frozen=True, kw_only=True):
    """Change the membership to exactly these (joint consensus when needed)."""

    token: int
    voters: tuple[int, ...]
    learners: tuple[int, ...] = ()


class Read(Event, frozen=True, kw_only=True):
    """Ask for a linearizable read. Effects, now or later: `ReadReady` or `ReadFailed`."""

    token: int


class Saved(Event, frozen=True, kw_only=True):
    """The `Save` with this number, and all before it, are durable."""

    number: int


class Compact(Event, frozen=True, kw_only=True):
    """State up to `index` is durable elsewhere: forget the log before it.

    Less what lagging followers, within the machine's bound, still need.
    """

    index: int


class SnapshotSent(Event, frozen=True, kw_only=True):
    """Streaming to `peer` ended."""

    peer: int
    ok: bool


class SnapshotRestored(Event, frozen=True, kw_only=True):
    """The host installed a snapshot, durably; the log restarts after it. `sender`: who sent it."""

    meta: SnapshotMeta
    sender: int
    term: int


class Transfer(Event, frozen=True, kw_only=True):
    """Hand leadership to `peer`."""

    peer: int


# --- effects: what the machine asks of the host -------------------------------------------------


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the effects."""


class Save(Effect, frozen=True, kw_only=True):
    """Make durable: the hard state, then `entries`.

    Entries replace everything from their first index on; `truncate_from` is set when the old tail
    goes without replacement, too.
    """

    number: int
    state: HardState
    entries: tuple[Entry, ...] = ()
    truncate_from: int | None = None


class Send(Effect, frozen=True, kw_only=True):
    """Send to `message.receiver`. `after_save`: only when every earlier `Save` is durable."""

    message: AnyMessage
    after_save: bool


class Apply(Effect, frozen=True, kw_only=True):
    """These entries are committed: apply them in order."""

    entries: tuple[Entry, ...]


class Proposed(Effect, frozen=True, kw_only=True):
    """The proposal sits at `(index, term)`; it took effect if that entry is applied."""

    token: int
    index: int
    term: int


class Dropped(Effect, frozen=True, kw_only=True):
    """The proposal was not taken: not the leader, transferring, or too many in flight."""

    token: int
    leader: int | None


class ReadReady(Effect, frozen=True, kw_only=True):
    """Reading is linearizable once `index` is applied."""

    token: int
    index: int


class ReadFailed(Effect, frozen=True, kw_only=True):
    """Leadership was lost or never there."""

    token: int
    leader: int | None


class RoleChanged(Effect, frozen=True, kw_only=True):
    """`role`: follower, candidate, leader, learner. `leader`: who leads `term`, if known."""

    role: str
    term: int
    leader: int | None


class ConfigChanged(Effect, frozen=True, kw_only=True):
    """The membership in force."""

    config: Config


class SendSnapshot(Effect, frozen=True, kw_only=True):
    """Stream state as of at least the compacted index to `peer`."""

    peer: int
    term: int
