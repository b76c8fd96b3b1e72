"""Where a disk of a storage node is: its directory and the LMDB environment of its index.

Decides the layout under a `--dir`: identity and volumes in the directory itself, the index in
`index/`. The index may be deleted while the node is stopped: it is rebuilt.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec

from cfs.core.errors import CfsError, Corrupt
from cfs.core.kv import Store
from cfs.fs.disk.port import Directory
from cfs.fs.disk.real import RealDirectory
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.store.index import FragmentIndex

OpenStore = Callable[[bool], Store]
"""Open the index's store; True: an empty one, whatever was there."""


class DiskPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A locked directory, how to open the store of its index, and what people call it."""

    name: str
    directory: Directory
    open_store: OpenStore


def place_on(path: Path) -> DiskPlace:
    """Lock a directory, made when missing, for a storage node. Raises Refused, OSError."""
    index = path / "index"

    def open_store(fresh: bool) -> Store:  # noqa: FBT001 - the port has one argument
        if fresh:
            shutil.rmtree(index, ignore_errors=True)
        _check_length(index)
        return LmdbStore(index)

    return DiskPlace(name=str(path), directory=RealDirectory(path), open_store=open_store)


def open_index(open_store: OpenStore, *, fresh: bool = False) -> FragmentIndex:
    """Open a disk's index. Raises Corrupt, IndexDamaged, lmdb.Error, OSError."""
    store = open_store(fresh)
    try:
        return FragmentIndex(store)
    except BaseException:
        store.close()
        raise


def open_empty_index(open_store: OpenStore) -> FragmentIndex:
    """Make a new index in place of whatever was there. Raises OSError."""
    try:
        return open_index(open_store, fresh=True)
    except (CfsError, lmdb.Error) as error:
        raise OSError(errno.EIO, f"its index cannot be made: {error}") from error


def _check_length(index: Path) -> None:
    """Raise Corrupt when the file is shorter than its own header says: the map would fault."""
    file = index / "data.mdb"
    if not file.exists():
        return
    try:
        with lmdb.open(str(index), readonly=True, lock=False, map_size=1 << 20) as env:
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except lmdb.Error as error:
        raise Corrupt(f"{file} is not a usable LMDB file ({error})") from error
    if file.stat().st_size < needed:
        raise Corrupt(f"{file} was cut: {file.stat().st_size} of {needed} bytes")
