"""What only the LMDB store promises: checksums, growth, bounds, durability across reopening."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from cfs.core.errors import Corrupt, NoSpace, Unavailable
from cfs.fs.kv.lmdb_store import LmdbStore


def test_golden_bytes_of_a_value(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.write([(b"key", b"value")], sync=True)
    store.close()
    with lmdb.open(str(tmp_path)) as env, env.begin() as txn:
        assert txn.get(b"key") == bytes.fromhex("2d0e4433") + b"value"


def test_flipped_bit_and_moved_value_are_refused(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.write([(b"a", b"same"), (b"b", b"other"), (b"c", b"")], sync=True)
    store.close()
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(b"moved", txn.get(b"a"))
        txn.put(b"b", txn.get(b"b")[:-1] + b"R")
        txn.put(b"c", b"abc")
    store = LmdbStore(tmp_path)
    assert store.get(b"a") == b"same"
    for key in (b"b", b"c", b"moved"):
        with pytest.raises(Corrupt):
            store.get(key)
        with pytest.raises(Corrupt):
            list(store.scan(key, key + b"\0"))
    store.close()


def test_unusable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not lmdb" * 2048)
    with pytest.raises(Corrupt, match=r"data\.mdb"):
        LmdbStore(tmp_path)


def test_map_grows_under_open_scans_and_reopens_at_size(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, sync=False, map_bytes=1 << 16)
    pairs = [(b"%06d" % i, b"x" * 50) for i in range(500)]
    store.write(pairs, sync=False)
    scan = store.scan(b"", b"\xff")
    first = next(scan)
    view = store.view()
    store.write([(b"big", b"y" * (1 << 21))], sync=True)
    assert [first, *scan][:500] == pairs
    with pytest.raises(Unavailable):
        view.get(b"big")
    with pytest.raises(Unavailable):
        list(view.scan(b"", b"\xff"))
    view.close()
    store.close()
    store = LmdbStore(tmp_path, map_bytes=1 << 16)
    assert store.get(b"big") == b"y" * (1 << 21)
    store.close()


def test_view_stays_at_its_instant(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.write([(b"%04d" % i, b"old") for i in range(300)], sync=False)
    view = store.view()
    store.write([(b"%04d" % i, b"new") for i in range(400)], sync=False)
    assert list(view.scan(b"", b"\xff")) == [(b"%04d" % i, b"old") for i in range(300)]
    assert view.get(b"0000") == b"old"
    view.close()
    assert store.get(b"0000") == b"new"
    store.close()


def test_bound_is_no_space_and_changes_nothing(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, sync=False, map_bytes=1 << 16, map_bytes_max=1 << 18)
    store.write([(b"a", b"1")], sync=True)
    with pytest.raises(NoSpace):
        store.write([(b"a", b"2"), (b"big", b"z" * (1 << 20))], sync=True)
    assert store.get(b"a") == b"1"
    store.write([(b"a", None)], sync=True)
    assert store.get(b"a") is None
    store.close()
