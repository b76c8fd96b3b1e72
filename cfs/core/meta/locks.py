"""Locks of cross-shard transactions: who holds a name, an inode, a directory's existence.

    name lock   exclusive; the name may not change
    inode lock  exclusive; its links and parent may not change; a `shut` directory takes no entries
    pin         shared; the directory may not be removed, with `stay` nor moved

An operation that meets one answers `Locked(txid, coordinator)` and has not happened. Whoever meets
an old lock settles the transaction at its coordinator. Nobody waits while holding, so no deadlock.
The state record counts locks: in a shard without any, every check is one comparison.
"""

from __future__ import annotations

from cfs.core.errors import Locked
from cfs.core.kv import Reader
from cfs.core.meta import keys
from cfs.core.meta.draft import Draft
from cfs.core.meta.records import LOCK, PINS, Lock, Pin, Pins


def held(kv: Reader, key: bytes) -> Lock | None:
    """Give who holds a name or inode."""
    value = kv.get(key)
    return None if value is None else LOCK.decode(value)


def pins_of(kv: Reader, ino: int) -> tuple[Pin, ...]:
    """Give the pins of a directory."""
    value = kv.get(keys.pins(ino))
    return () if value is None else PINS.decode(value).pins


def check_name_free(draft: Draft, parent: int, name: bytes) -> None:
    """Raise `Locked` when a transaction holds the name."""
    if draft.state.locks and (lock := held(draft, keys.name_lock(parent, name))):
        raise _locked(lock, f"name {name!r} in directory {parent}")


def check_ino_free(draft: Draft, ino: int) -> None:
    """Raise `Locked` when a transaction holds the inode."""
    if draft.state.locks and (lock := held(draft, keys.ino_lock(ino))):
        raise _locked(lock, f"inode {ino}")


def check_open(draft: Draft, ino: int) -> None:
    """Raise `Locked` when a transaction is about to remove the directory."""
    if draft.state.locks and (lock := held(draft, keys.ino_lock(ino))) and lock.shut:
        raise _locked(lock, f"directory {ino}")


def check_removable(draft: Draft, ino: int) -> None:
    """Raise `Locked` when a transaction holds or pins the directory."""
    check_ino_free(draft, ino)
    if draft.state.locks:
        for pin in pins_of(draft, ino):
            raise _locked(pin, f"directory {ino}")


def check_movable(draft: Draft, ino: int) -> None:
    """Raise `Locked` when a transaction holds the inode or needs the directory to stay."""
    check_ino_free(draft, ino)
    if draft.state.locks:
        for pin in pins_of(draft, ino):
            if pin.stay:
                raise _locked(pin, f"directory {ino}")


def check_rename_lock_free(draft: Draft) -> None:
    """Raise `Locked` when a transaction moves a directory across shards."""
    if draft.state.locks and (lock := held(draft, keys.RENAME_LOCK)):
        raise _locked(lock, "the directory rename lock")


def take(draft: Draft, key: bytes, lock: Lock) -> None:
    """Take a lock that was checked to be free; its own again is nothing new, but for `shut`."""
    before = held(draft, key)
    if before is None:
        draft.state.locks += 1
    else:
        assert before.txid == lock.txid
        lock = Lock(lock.txid, lock.coordinator, lock.shut or before.shut)
    draft.put(key, LOCK.encode(lock, draft.state.epoch))


def drop(draft: Draft, key: bytes, txid: bytes) -> None:
    """Drop a lock if this transaction holds it."""
    lock = held(draft, key)
    if lock is not None and lock.txid == txid:
        draft.delete(key)
        draft.state.locks -= 1


def pin(draft: Draft, ino: int, new: Pin) -> None:
    """Pin a directory; once a transaction and strength."""
    pins = pins_of(draft, ino)
    if new in pins:
        return
    draft.state.locks += 1
    draft.put(keys.pins(ino), PINS.encode(Pins((*pins, new)), draft.state.epoch))


def unpin(draft: Draft, ino: int, txid: bytes) -> None:
    """Drop every pin of a transaction on a directory."""
    pins = pins_of(draft, ino)
    rest = tuple(p for p in pins if p.txid != txid)
    draft.state.locks -= len(pins) - len(rest)
    if not pins:
        return
    if rest:
        draft.put(keys.pins(ino), PINS.encode(Pins(rest), draft.state.epoch))
    else:
        draft.delete(keys.pins(ino))


def _locked(holder: Lock | Pin, what: str) -> Locked:
    return Locked(
        f"a cross-shard transaction holds {what}",
        txid=holder.txid,
        coordinator=holder.coordinator,
    )
