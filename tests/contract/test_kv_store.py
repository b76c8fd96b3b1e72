"""One suite for every implementation of `cfs.core.kv.Store`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cfs.core.kv import MemoryStore, Store, prefix_end
from cfs.fs.kv.lmdb_store import LmdbStore

Maker = Callable[[Path], Store]

MAKERS: dict[str, Maker] = {
    "memory": lambda _path: MemoryStore(),
    "lmdb": lambda path: LmdbStore(path / "kv"),
    "lmdb-unsynced": lambda path: LmdbStore(path / "kv", sync=False),
    "lmdb-tiny-map": lambda path: LmdbStore(path / "kv", sync=False, map_bytes=1 << 16),
}


@pytest.fixture(params=sorted(MAKERS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


def test_absent_key_is_none(store: Store) -> None:
    assert store.get(b"nothing") is None
    assert list(store.scan(b"", b"\xff")) == []
    assert list(store.scan(b"", b"\xff", reverse=True)) == []


def test_write_is_seen_and_replaced_and_deleted(store: Store) -> None:
    store.write([(b"a", b"1"), (b"b", b""), (b"c", b"3")], sync=True)
    assert [store.get(k) for k in (b"a", b"b", b"c")] == [b"1", b"", b"3"]
    store.write([(b"a", b"9"), (b"b", None), (b"absent", None)], sync=False)
    assert [store.get(k) for k in (b"a", b"b", b"c")] == [b"9", None, b"3"]


def test_later_changes_of_one_write_win(store: Store) -> None:
    store.write([(b"a", b"1"), (b"a", None), (b"b", None), (b"b", b"2")], sync=True)
    assert store.get(b"a") is None
    assert store.get(b"b") == b"2"


def test_scan_bounds_and_order(store: Store) -> None:
    keys = [b"a", b"a\0", b"ab", b"b", b"b\xff", b"c"]
    store.write([(k, k * 2) for k in reversed(keys)], sync=True)
    assert [k for k, _ in store.scan(b"a", b"c")] == keys[:-1]
    assert [k for k, _ in store.scan(b"a", b"c", reverse=True)] == keys[:-1][::-1]
    assert [k for k, _ in store.scan(b"a\0", b"b")] == [b"a\0", b"ab"]
    assert [k for k, _ in store.scan(b"a\0", b"b", reverse=True)] == [b"ab", b"a\0"]
    assert [k for k, _ in store.scan(b"b", prefix_end(b"b"))] == [b"b", b"b\xff"]
    assert list(store.scan(b"b", b"b")) == []
    assert list(store.scan(b"c", b"a")) == []
    assert list(store.scan(b"d", b"e", reverse=True)) == []
    assert dict(store.scan(b"", b"\xff"))[b"ab"] == b"abab"


def test_long_scans_cross_batches(store: Store) -> None:
    pairs = [(b"%05d" % i, b"v%d" % i) for i in range(1000)]
    store.write(pairs, sync=False)
    assert list(store.scan(b"", b"\xff")) == pairs
    assert list(store.scan(b"", b"\xff", reverse=True)) == pairs[::-1]
    assert list(store.scan(b"00100", b"00900")) == pairs[100:900]


def test_write_during_scan_neither_shows_new_keys_nor_fails(store: Store) -> None:
    store.write([(b"%05d" % i, b"old") for i in range(500)], sync=False)
    seen = []
    for count, (key, _) in enumerate(store.scan(b"", b"\xff")):
        seen.append(key)
        if count == 10:
            store.write([(b"00400x", b"new")], sync=False)
    assert seen == [b"%05d" % i for i in range(500)]


def test_abandoned_scan_holds_nothing(store: Store) -> None:
    store.write([(b"%05d" % i, b"x" * 100) for i in range(500)], sync=False)
    for _ in range(2000):
        next(iter(store.scan(b"", b"\xff")))
    store.write([(b"z", b"")], sync=True)


def test_random_changes_match_a_dict(store: Store) -> None:
    chance = random.Random(11)
    model: dict[bytes, bytes] = {}
    for _ in range(60):
        changes: list[tuple[bytes, bytes | None]] = []
        for _ in range(chance.randrange(30)):
            key = b"%d" % chance.randrange(100)
            value = None if chance.random() < 0.3 else chance.randbytes(chance.randrange(3000))
            changes.append((key, value))
            model.pop(key, None) if value is None else model.__setitem__(key, value)
        store.write(iter(changes), sync=False)
        assert list(store.scan(b"", b"\xff")) == sorted(model.items())
    assert store.bytes_used() > 0
