"""LMDB behind the key-value port: one environment, one table, every value under a checksum.

Stored value, little endian:

    offset 0   u32   crc32c over key then value, seeded with the key's length
    offset 4   ...   value

The checksum covers the key, so a value that damage attached to another key is refused as well.
What damage made *absent* no read can notice; digests kept by the owners catch that.

Invariants: a `write` is one LMDB transaction. The map grows by doubling up to `map_bytes_max`;
growing needs every read transaction of this process closed, so all readers register here and are
reset under the lock. A `scan` resumes after its last key on a new transaction; a `View`, which
promises one instant, raises Unavailable instead. Keys are 1 to `KEY_BYTES_MAX` bytes.

Durability: with `sync=True` (the default) LMDB orders its own writes and every `write` is durable
whatever was asked. With `sync=False` nothing is synced until a `write(sync=True)`, and power loss
in between can leave the file unreadable: only for what can be rebuilt from elsewhere.

An environment that its last user did not close is examined before it is used (`examine`): damage
in a page of LMDB's own can end a process.

All calls may come from any thread; writes exclude one another.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb
from crc32c import crc32c

from cfs.core.errors import Corrupt, NoSpace, Unavailable
from cfs.fs.kv.examine import examine

KEY_BYTES_MAX = 511
"""LMDB's compiled-in limit."""
MAP_BYTES_START = 1 << 28
MAP_BYTES_MAX = 1 << 40
"""Address space, not disk: the file takes only the pages that were written."""
_READERS_MAX = 1024
_BATCH_PAIRS_FIRST = 8
"""Many scans want only the first few pairs."""
_BATCH_PAIRS = 256
"""Pairs a scan reads under the lock before it yields: bounds how long it holds up a resize."""
_BATCH_BYTES = 1 << 18

_pack_crc: Callable[[int], bytes] = struct.Struct("<I").pack
_unpack_crc: Callable[[bytes], tuple[int]] = struct.Struct("<I").unpack_from


class LmdbStore:
    """A durable `Store` in the directory `path`, which is made when missing.

    Raises Corrupt when the environment or a value is damaged, NoSpace when the disk or the map is
    full.
    """

    def __init__(
        self,
        path: Path,
        *,
        sync: bool = True,
        map_bytes: int = MAP_BYTES_START,
        map_bytes_max: int = MAP_BYTES_MAX,
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path / "data.mdb"
        self._in_use = path / "in-use"
        self._synced = sync
        self._map_bytes_max = map_bytes_max
        if self._in_use.exists() and self._file.exists() and (said := examine(path)):
            raise Corrupt(f"{self._file} is damaged ({said}): rebuild it")
        self._in_use.touch()
        self._map_bytes = _map_size(self._file, map_bytes, map_bytes_max)
        try:
            self._env: Any = lmdb.open(
                str(path),
                map_size=self._map_bytes,
                sync=sync,
                metasync=sync,
                readahead=False,
                meminit=False,
                max_readers=_READERS_MAX,
                max_dbs=0,
            )
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            raise Corrupt(
                f"{self._file} is not a usable LMDB file ({error}): rebuild it"
            ) from error
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._reader: Any = None
        self._stale = True
        self._open: set[_Cursor] = set()

    def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        with self._lock:
            if self._stale:
                self._refresh()
            stored: bytes | None = self._reader.get(key)
        return None if stored is None else _check(self._file, key, stored)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Reader.scan`; one instant, unless the map grows meanwhile."""
        return self._scan(start, end, reverse=reverse, expire=False)

    def view(self) -> View:
        """Open a view of this instant; close it soon, it keeps old pages from being reused."""
        return View(self)

    def write(self, changes: Iterable[tuple[bytes, bytes | None]], *, sync: bool) -> None:
        """See `Store.write`."""
        batch = [
            (key, None if value is None else _pack_crc(_crc(key, value)) + value)
            for key, value in changes
        ]
        with self._write_lock:
            while True:
                try:
                    self._commit(batch)
                    break
                except lmdb.MapFullError:
                    self._grow()
                except lmdb.DiskError as error:
                    raise NoSpace(f"{self._file}: no room on the disk ({error})") from error
            self._stale = True
            if sync and not self._synced:
                self._env.sync(True)

    def bytes_used(self) -> int:
        """See `Store.bytes_used`."""
        return self._file.stat().st_blocks * 512

    def close(self) -> None:
        """See `Store.close`; syncs what an unsynced store still holds."""
        with self._write_lock, self._lock:
            if not self._synced:
                self._env.sync(True)
            self._reset_readers()
            self._env.close()
            self._in_use.unlink(missing_ok=True)

    def _commit(self, batch: list[tuple[bytes, bytes | None]]) -> None:
        with self._env.begin(write=True) as txn:
            put, delete = txn.put, txn.delete
            for key, stored in batch:
                if stored is None:
                    delete(key)
                else:
                    put(key, stored)

    def _grow(self) -> None:
        if self._map_bytes >= self._map_bytes_max:
            raise NoSpace(f"{self._file} reached its limit of {self._map_bytes_max} bytes")
        with self._lock:
            self._reset_readers()
            self._map_bytes = min(self._map_bytes * 2, self._map_bytes_max)
            self._env.set_mapsize(self._map_bytes)

    def _reset_readers(self) -> None:
        if self._reader is not None:
            self._reader.abort()
            self._reader = None
        self._stale = True
        for cursor in self._open:
            cursor.abort()

    def _refresh(self) -> None:
        # Cleared first: a commit after this line marks it again.
        self._stale = False
        if self._reader is not None:
            self._reader.abort()
        self._reader = self._env.begin()

    def _scan(
        self, start: bytes, end: bytes, *, reverse: bool, expire: bool, txn: _Cursor | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        cursor = txn or _Cursor(self._env)
        with self._lock:
            self._open.add(cursor)
        count = _BATCH_PAIRS_FIRST
        try:
            while True:
                with self._lock:
                    if cursor.txn is None:
                        if expire:
                            raise Unavailable(f"{self._file} grew under a view: open another")
                        cursor.begin()
                    pairs, more = _batch(cursor.txn, start, end, count, reverse=reverse)
                count = min(4 * count, _BATCH_PAIRS)
                for key, stored in pairs:
                    yield key, _check(self._file, key, stored)
                if not more:
                    return
                if reverse:
                    end = pairs[-1][0]
                else:
                    start = pairs[-1][0] + b"\0"
        finally:
            if txn is None:
                with self._lock:
                    self._open.discard(cursor)
                    cursor.abort()


class View:
    """One instant of an `LmdbStore`; use from one thread at a time.

    Raises Unavailable once the map grew: whoever streams from it starts over.
    """

    def __init__(self, store: LmdbStore) -> None:
        self._store = store
        self._cursor = _Cursor(store._env)  # noqa: SLF001 - the other half of this module
        with store._lock:  # noqa: SLF001
            self._cursor.begin()
            store._open.add(self._cursor)  # noqa: SLF001

    def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        store = self._store
        with store._lock:  # noqa: SLF001
            if self._cursor.txn is None:
                raise Unavailable(f"{store._file} grew under a view: open another")  # noqa: SLF001
            stored: bytes | None = self._cursor.txn.get(key)
        return None if stored is None else _check(store._file, key, stored)  # noqa: SLF001

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        return self._store._scan(  # noqa: SLF001
            start, end, reverse=reverse, expire=True, txn=self._cursor
        )

    def close(self) -> None:
        """Let go of the instant."""
        with self._store._lock:  # noqa: SLF001
            self._store._open.discard(self._cursor)  # noqa: SLF001
            self._cursor.abort()


class _Cursor:
    """A registered read transaction; `txn` is None once aborted."""

    __slots__ = ("_env", "txn")

    def __init__(self, env: Any) -> None:
        self._env = env
        self.txn: Any = None

    def begin(self) -> None:
        self.txn = self._env.begin()

    def abort(self) -> None:
        if self.txn is not None:
            self.txn.abort()
            self.txn = None


def _batch(
    txn: Any, start: bytes, end: bytes, count: int, *, reverse: bool
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Read pairs in order up to a bound; the flag says that there may be more."""
    pairs: list[tuple[bytes, bytes]] = []
    if start >= end:
        return pairs, False
    size = 0
    with txn.cursor() as cursor:
        if reverse:
            found = cursor.prev() if cursor.set_range(end) else cursor.last()
        else:
            found = cursor.set_range(start) if start else cursor.first()
        if not found:
            return pairs, False
        step = cursor.iterprev if reverse else cursor.iternext
        for key, stored in step(keys=True, values=True):
            if (key < start) if reverse else (key >= end):
                return pairs, False
            pairs.append((key, stored))
            size += len(stored)
            if len(pairs) >= count or size >= _BATCH_BYTES:
                return pairs, True
    return pairs, False


def _crc(key: bytes, value: bytes) -> int:
    crc: int = crc32c(value, crc32c(key, len(key)))
    return crc


def _check(file: Path, key: bytes, stored: bytes) -> bytes:
    value = stored[4:]
    if len(stored) < 4 or _unpack_crc(stored)[0] != crc32c(value, crc32c(key, len(key))):
        raise Corrupt(f"{file}: the value of key {key.hex()} fails its checksum", key=key)
    return value


def _map_size(file: Path, wanted: int, limit: int) -> int:
    """Give a map that holds the file as it is, with room to grow."""
    size = min(wanted, limit)
    used = file.stat().st_size if file.exists() else 0
    while size < used * 2 and size < limit:
        size *= 2
    return min(size, limit)
