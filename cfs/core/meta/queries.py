"""Questions one meta node asks a shard's leader, answered from its state without proposing.

They travel as `Internal(read=True)`: one tagged msgpack array each way. The answers are hints for
the collector; what makes collection safe are the commands `Condemn` and `Standing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cfs.core.api.scrub import Chunk
from cfs.core.errors import Malformed
from cfs.core.ids import SEGMENT_ID_BYTES
from cfs.core.kv import Reader, prefix_end
from cfs.core.meta import check, keys, read, totals
from cfs.core.meta.records import ENTRIES

SEGMENTS_MAX = 4096
REFERENCES_MAX = 64
"""Segments of one answer: their pages are read in the leader's loop, some 50 us each."""
SEARCHED_MAX = 4096
LISTED_MAX = 100_000
"""Names of a directory that are searched for an inode."""


class Candidates(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="candidates"):
    """Ask which segments nothing here refers to any more: at most `limit`, after `after`."""

    limit: int
    after: bytes = b""


class Unreferred(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="unreferred"):
    """Ask which of these segments nothing here refers to."""

    segments: tuple[bytes, ...]


class Referred(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="referred"):
    """Ask for the segments after `after` that extents here refer to, and for what of them."""

    limit: int
    after: bytes = b""


class Referrers(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="referrers"):
    """Ask which inodes refer to a segment: at most `limit`."""

    segment: bytes
    limit: int


class Name(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="name"):
    """Ask for the name of an inode in a directory of this shard, and for that one's parent."""

    parent: int
    ino: int


class Names(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag="names"):
    """Ask for a name of each of these inodes, among the next `SEARCHED_MAX` entries of the shard.

    Only directories remember where they are; a file is searched for.
    """

    inos: tuple[int, ...]
    after: bytes = b""


class Reference(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A segment as the extents of a shard see it."""

    segment: bytes
    data: int
    parity: int
    segment_length: int
    chunks: tuple[Chunk, ...]
    counted: int
    """Extents, by the reverse references."""
    found: int
    """Extents that are really there."""


class Segments(msgspec.Struct, frozen=True, array_like=True):
    """The answer."""

    segments: tuple[bytes, ...]


_ENCODER = msgspec.msgpack.Encoder()


class References(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Referred`."""

    references: tuple[Reference, ...]


class Inos(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Referrers`."""

    inos: tuple[int, ...]


class Named(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Name`: empty when it is not there."""

    name: bytes
    parent: int


class Found(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Names`: (inode, directory, name), and where to go on (empty: the end)."""

    names: tuple[tuple[int, int, bytes], ...]
    after: bytes


Query = (
    Candidates | Unreferred | Referred | Referrers | Name | Names
    | check.EntryPage | check.InodePage | check.EntriesOf
    | totals.UsageOf | totals.UsagePage | totals.CountPage
)  # fmt: skip
_QUERY: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Query)
_SEGMENTS = msgspec.msgpack.Decoder(Segments)


def encode(query: Query) -> bytes:
    """Give the bytes of a question."""
    return _ENCODER.encode(query)


def decode_segments(answer: bytes) -> tuple[bytes, ...]:
    """Read an answer. Raises Malformed."""
    try:
        return _SEGMENTS.decode(answer).segments
    except msgspec.DecodeError as error:
        raise Malformed(f"answer does not decode: {error}") from error


def decode_references(answer: bytes) -> tuple[Reference, ...]:
    """Read the answer to `Referred`."""
    return msgspec.msgpack.decode(answer, type=References).references


def decode_inos(answer: bytes) -> tuple[int, ...]:
    """Read the answer to `Referrers`."""
    return msgspec.msgpack.decode(answer, type=Inos).inos


def decode_named(answer: bytes) -> Named:
    """Read the answer to `Name`."""
    return msgspec.msgpack.decode(answer, type=Named)


def decode_found(answer: bytes) -> Found:
    """Read the answer to `Names`."""
    return msgspec.msgpack.decode(answer, type=Found)


def answer(kv: Reader, query: bytes) -> bytes:
    """Answer an encoded question from a shard's state. Raises Malformed."""
    try:
        asked = _QUERY.decode(query)
    except msgspec.DecodeError as error:
        raise Malformed(f"question does not decode: {error}") from error
    if isinstance(asked, Referred):
        return _ENCODER.encode(References(_referred(kv, asked)))
    if isinstance(asked, Referrers):
        return _ENCODER.encode(Inos(_referrers(kv, asked)))
    if isinstance(asked, Name):
        return _ENCODER.encode(_name(kv, asked))
    special = _ANSWERS.get(type(asked))
    if special is not None:
        return _ENCODER.encode(special(kv, asked))
    if isinstance(asked, Candidates):
        limit = min(max(asked.limit, 0), SEGMENTS_MAX)
        segments = read.candidates(kv, limit, asked.after)
    else:
        if len(asked.segments) > SEGMENTS_MAX:
            raise Malformed(f"at most {SEGMENTS_MAX} segments can be asked after at once")
        if any(len(s) != SEGMENT_ID_BYTES for s in asked.segments):
            raise Malformed("a segment id has 16 bytes")
        segments = tuple(
            s
            for s in asked.segments
            if next(iter(kv.scan(*keys.references_range(s))), None) is None
        )
    return _ENCODER.encode(Segments(segments))


def _referred(kv: Reader, asked: Referred) -> tuple[Reference, ...]:
    found: list[Reference] = []
    after = asked.after
    while len(found) < min(max(asked.limit, 1), REFERENCES_MAX):
        start = b"r" + after + b"\xff" * 14 if after else b"r"
        first = next(iter(kv.scan(start, prefix_end(b"r"))), None)
        if first is None:
            break
        after = first[0][1:17]
        found.append(_reference(kv, after))
    return tuple(found)


def _reference(kv: Reader, segment: bytes) -> Reference:
    chunks: dict[Chunk, None] = {}
    form, count = (0, 0, 0), 0
    for _, extent in read.referrers(kv, segment):
        count += 1
        form = extent.data, extent.parity, extent.segment_length
        chunk = Chunk(
            chunk_id=extent.chunk_id, at=extent.at, stored=extent.stored, raw=extent.raw,
            key_version=extent.key_version,
        )  # fmt: skip
        chunks[chunk] = None
    return Reference(
        segment=segment,
        data=form[0],
        parity=form[1],
        segment_length=form[2],
        chunks=tuple(chunks),
        counted=read.references(kv, segment),
        found=count,
    )


def _referrers(kv: Reader, asked: Referrers) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for key, _ in kv.scan(*keys.references_range(asked.segment)):
        if len(found) >= asked.limit:
            break
        found[keys.number_at(key, 17)] = None
    return tuple(found)


def _names(kv: Reader, asked: Names) -> Found:
    wanted = set(asked.inos)
    found: list[tuple[int, int, bytes]] = []
    start = asked.after + b"\0" if asked.after else b"d"
    for number, (key, value) in enumerate(kv.scan(start, prefix_end(b"d"))):
        for slot in ENTRIES.decode(value).slots:
            if slot.ino in wanted:
                wanted.remove(slot.ino)
                found.append((slot.ino, keys.number_at(key, 1), slot.name))
        if not wanted:
            break
        if number >= SEARCHED_MAX:
            return Found(tuple(found), key)
    return Found(tuple(found), b"")


def _name(kv: Reader, asked: Name) -> Named:
    inode = read.inode(kv, asked.parent)
    if inode is None:
        return Named(b"", 0)
    for number, (_, value) in enumerate(kv.scan(*keys.entries_range(asked.parent))):
        for slot in ENTRIES.decode(value).slots:
            if slot.ino == asked.ino:
                return Named(slot.name, inode.parent)
        if number >= LISTED_MAX:
            break
    return Named(b"", inode.parent)


_ANSWERS: dict[type, Callable[[Reader, Any], Any]] = {
    Referred: lambda kv, asked: References(_referred(kv, asked)),
    Referrers: lambda kv, asked: Inos(_referrers(kv, asked)),
    Name: _name,
    Names: _names,
    check.EntryPage: check.entry_rows,
    check.InodePage: check.inode_rows,
    check.EntriesOf: check.missing,
    totals.UsageOf: totals.usage_of,
    totals.UsagePage: totals.usage_page,
    totals.CountPage: totals.count_page,
}
