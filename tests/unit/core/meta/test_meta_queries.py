"""The collector's questions to a shard: pages of candidates, what nothing refers to."""

from __future__ import annotations

import pytest

from cfs.core.errors import Malformed
from cfs.core.kv import MemoryStore
from cfs.core.meta import keys, queries


def _segment(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _ask(kv: MemoryStore, query: queries.Candidates | queries.Unreferred) -> tuple[bytes, ...]:
    return queries.decode_segments(queries.answer(kv, queries.encode(query)))


def test_candidates_come_in_pages() -> None:
    kv = MemoryStore()
    assert _ask(kv, queries.Candidates(limit=9)) == ()
    for number in range(1, 6):
        kv.put(keys.candidate(_segment(number)), b"")
    first = _ask(kv, queries.Candidates(limit=3))
    rest = _ask(kv, queries.Candidates(limit=3, after=first[-1]))
    assert first + rest == tuple(_segment(n) for n in range(1, 6))


def test_what_an_extent_refers_to_is_left_out() -> None:
    kv = MemoryStore()
    start, _end = keys.references_range(_segment(1))
    kv.put(start + b"anything", b"")
    asked = queries.Unreferred(segments=(_segment(1), _segment(2)))
    assert _ask(kv, asked) == (_segment(2),)


def test_garbage_is_malformed() -> None:
    kv = MemoryStore()
    for query in (b"", b"\xc1", queries.encode(queries.Unreferred(segments=(b"short",)))):
        with pytest.raises(Malformed):
            queries.answer(kv, query)
    with pytest.raises(Malformed):
        queries.decode_segments(b"\xc1")
