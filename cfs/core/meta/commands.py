"""Commands of a shard, as they stand in its Raft log, and what each results in.

One entry is a `Batch`: msgpack array `[time_ns, [command, ...]]`, each command and each step a
tagged array. `Shard.apply` gives one result a command: for `ClientOps` a list of `OpResult`, for
others the `Result` (see `results`) named beside it, or `Failed` with an error and nothing changed.

    ClientOps     list[OpResult]    numbered operations of a session
    InitShard     Done              the shard exists; on shard 0 the root directory too
    OpenSession   Opened            a session opens, or comes back
    ExpireSession Done              its WRITE leases and file locks are gone, its number stays
    DropLeases    Done              recalled WRITE leases are gone
    Refuse        Refused           an operation's refusal is recorded as its answer
    Reclaim       Reclaimed         an orphan goes, step by step
    Pack          Packed            inline chunks become chunks of a segment
    Relocate      Relocated         chunks of a segment are read from others
    Condemn       Condemned         no new references; how many live ones there are
    Withdraw      Done              a round's condemnations end
    Standing      Stands            what a round still condemns, read through the log
    Collected     Gone              segments are deleted: refused for ever
    TxnPrepare    Prepared          validate and lock this shard's part of a transaction
    TxnDecide     Decided           coordinator: settle the outcome, once
    TxnFinish     Finished          apply or drop this shard's part
    TxnForget     Done              every part is finished
    Mend          Done              fsck: counts of an inode are right again
    DropEntry     Done              fsck: a name that leads nowhere is gone
    TakeSnapshot  Done              what is current now is a snapshot
    DropSnapshot  Done              a snapshot is gone, or never will be
    SetTrash      Done              how long what is removed stays
    EmptyTrash    Emptied           what lay in the trash is orphaned
    SetCaps       Capped            the shard's parts of quotas
    MarkTree      Marked            a page of a directory belongs to a quota tree
    Recount       Reclaimed         fsck: what quotas use is counted anew
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

# ruff: noqa: PLC0414 - these names are given on
from cfs.core.api.meta import (
    Acquire,
    Caller,
    Commit,
    CopyRange,
    Create,
    Link,
    Lock,
    MakeOrphan,
    OpResult,
    Release,
    RemoveXattr,
    Rename,
    ReserveInos,
    Rmdir,
    SetAttr,
    SetXattr,
    Unlink,
)
from cfs.core.api.quota import Charge
from cfs.core.api.store import ChunkRef
from cfs.core.errors import Malformed
from cfs.core.meta.keeping import DropSnapshot as DropSnapshot
from cfs.core.meta.keeping import EmptyTrash as EmptyTrash
from cfs.core.meta.keeping import SetTrash as SetTrash
from cfs.core.meta.keeping import TakeSnapshot as TakeSnapshot
from cfs.core.meta.quota_commands import MarkTree as MarkTree
from cfs.core.meta.quota_commands import Recount as Recount
from cfs.core.meta.quota_commands import SetCaps as SetCaps

ClientOp: TypeAlias = (
    Create | Unlink | Rmdir | Link | Rename | SetAttr | SetXattr | RemoveXattr | Commit | Acquire
    | Release | ReserveInos | Lock | CopyRange | MakeOrphan | Charge
)  # fmt: skip


# --- steps of a cross-shard transaction ----------------------------------------------------------


class Attach(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="attach"):
    """Let `name` in `parent` be `ino`; `replaces` is who must be there now (0: nobody).

    With `exchange` the kinds of the two need not match.
    """

    parent: int
    name: bytes
    ino: int
    kind: int
    replaces: int = 0
    exchange: bool = False
    heritage: bytes = b""
    """What the new inode has inherited; the directory must still pass on just that. Empty: any."""
    project: int = -1
    """The quota tree the directory must be of. -1: any; so too below."""


class Detach(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="detach"):
    """Remove `name` from `parent`; it must be `ino`."""

    parent: int
    name: bytes
    ino: int
    project: int = -1


class MakeInode(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="make"):
    """Make a directory inode whose `parent` is in another shard; nlink 2."""

    parent: int
    mode: int
    uid: int
    gid: int
    acl: bytes = b""
    default_acl: bytes = b""
    project: int = 0


class Adjust(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="adjust"):
    """Add to an inode's nlink (0 left: an orphan), give a directory another parent; touch ctime."""

    ino: int
    nlink_delta: int = 0
    parent: int | None = None
    thrown_from: tuple[int, bytes] = (0, b"")
    """Directory and name that it loses, when it is being removed; see `trash`."""
    project: int = -1


class Empty(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="empty"):
    """Remove a directory: it must be empty and stays so."""

    ino: int
    thrown_from: tuple[int, bytes] = (0, b"")
    """Directory and name that it loses; see `trash`."""


class Stay(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="stay"):
    """Hold a directory where it is: its parent must be `parent` and stays so.

    A transaction that moves a directory names every ancestor of its new place, so no concurrent
    move can close a cycle.
    """

    ino: int
    parent: int


class RenameLock(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="rename_lock"):
    """The cluster's one lock for moving directories across shards; on shard 0."""


Step: TypeAlias = Attach | Detach | MakeInode | Adjust | Empty | Stay | RenameLock


# --- commands ------------------------------------------------------------------------------------


class ClientOps(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="ops"):
    """Operations of a session; see `cfs.core.api.meta.Mutate`."""

    session: int
    first_seq: int
    acked: int
    ops: tuple[ClientOp, ...]
    caller: Caller = Caller()
    """Not looked at: operations carry their own. Older log entries and clients have it."""
    chained: bool = False


class InitShard(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="init"):
    """Begin the shard; `root` makes inode 1."""

    root: bool


class OpenSession(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="open"):
    """Open a session, or open an expired one again."""

    session: int
    name: str = ""


class ExpireSession(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="expire"):
    """Take a session's WRITE leases and file locks; refuse its operations until it opens again."""

    session: int


class DropLeases(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="drop"):
    """Take WRITE leases away that the session gave up when they were recalled."""

    session: int
    inos: tuple[int, ...]


class Refuse(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="refuse"):
    """Record that an operation was refused before it reached the log, unless it has an answer."""

    session: int
    seq: int
    answer: OpResult


class Reclaim(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="reclaim"):
    """Remove at most `budget` records of an orphan, and the inode when they are gone."""

    ino: int
    budget: int = 256


class Pack(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="pack"):
    """Let inline chunks be read from a segment; those overwritten meanwhile are passed over."""

    ino: int
    replacements: tuple[tuple[int, ChunkRef], ...]


class Relocate(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="relocate"):
    """Let chunks of `segment` be read from other segments: whichever of `refs` has their id.

    Looks at so many reverse references after the one with key `after`; see `relocation`.
    """

    segment: bytes
    refs: tuple[ChunkRef, ...]
    after: bytes = b""


class Condemn(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="condemn"):
    """Refuse new references to these segments while the round stands."""

    round: int
    segments: tuple[bytes, ...]


class Withdraw(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="withdraw"):
    """End a round without collecting."""

    round: int


class Standing(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="standing"):
    """Ask, through the log, how many segments the round condemns here."""

    round: int


class Collected(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="collected"):
    """These segments are deleted: refuse them for ever."""

    round: int
    segments: tuple[bytes, ...]


class TxnPrepare(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="prepare"):
    """Validate `steps`, lock what they touch and remember them, all or nothing."""

    txid: bytes
    coordinator: int
    steps: tuple[Step, ...]
    session: int = 0


class TxnDecide(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="decide"):
    """Settle a transaction at its coordinator, together with the answer to the client's operation.

    The first decision stands. `steps` are the coordinator's own part, if it was not prepared
    before: they are prepared and applied in this entry, and when they cannot be the decision is to
    abort, and the operation stays without an answer. A part prepared here before is finished in
    this entry too.

    A wish to commit, or one with an answer, comes only from the coordinator's own leader, straight
    into its log: unlike all other messages it must not arrive again after `TxnForget` while its
    number is open. A wish to abort without an answer may come from anyone at any time.
    """

    txid: bytes
    commit: bool
    session: int = 0
    seq: int = 0
    answer: OpResult | None = None
    steps: tuple[Step, ...] = ()


class TxnFinish(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="finish"):
    """Apply (`commit`) or drop the part of a transaction that was prepared here.

    `token` is what the preparation gave. A late repeat of a preparation that is finished and
    forgotten has another, so a late repeat of its finish cannot apply it again. 0: any.
    """

    txid: bytes
    commit: bool
    token: int = 0


class TxnForget(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="forget"):
    """Forget a transaction all of whose parts are finished: the coordinator first, then the rest.

    At the coordinator `answer` replaces the recorded answer to the client's operation, if given.
    """

    txid: bytes
    answer: OpResult | None = None


class Mend(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="mend"):
    """Set the counts of an inode to what fsck found, if it is still as it was found.

    `size` counts for directories only: their number of entries. Without links it is an orphan.
    """

    ino: int
    nlink_was: int
    size_was: int
    nlink: int
    size: int


class DropEntry(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="dropentry"):
    """Remove a name whose inode does not exist."""

    parent: int
    name: bytes
    ino: int


Command: TypeAlias = (
    ClientOps
    | InitShard
    | OpenSession
    | ExpireSession
    | DropLeases
    | Refuse
    | Reclaim
    | Pack
    | Relocate
    | Condemn
    | Withdraw
    | Standing
    | Collected
    | TxnPrepare
    | TxnDecide
    | TxnFinish
    | TxnForget
    | Mend
    | DropEntry
    | TakeSnapshot
    | DropSnapshot
    | SetTrash
    | EmptyTrash
    | SetCaps
    | MarkTree
    | Recount
)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """One Raft entry; `time_ns` is the proposer's wall clock."""

    time_ns: int
    commands: tuple[Command, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_command: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def encode_batch(batch: Batch) -> bytes:
    """Give the bytes of a Raft entry."""
    return _encode(batch)


def decode_batch(entry: bytes) -> Batch:
    """Read a Raft entry. Raises `Malformed`."""
    try:
        return _decode_batch(entry)
    except msgspec.DecodeError as error:
        raise Malformed(f"batch does not decode: {error}") from error


def encode_command(command: Command) -> bytes:
    """Give the bytes of one command: what one meta node asks another's shard leader to propose."""
    return _encode(command)


def decode_command(command: bytes) -> Command:
    """Read one command. Raises `Malformed`."""
    try:
        return _decode_command.decode(command)
    except msgspec.DecodeError as error:
        raise Malformed(f"command does not decode: {error}") from error
