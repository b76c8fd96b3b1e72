"""Inode numbers as a gateway sees them: of the present, and of every snapshot.

An inode of a snapshot has a number of its own, the same on every mount and for ever:

    bit 63       set
    bits 62..51  slot: the snapshot's epoch modulo 4096; the root group gives none in use, nor 0
    bits 50..39  shard
    bits 38..0   serial

Slot 0 is `.snapshots` itself, as it is seen in the directory whose shard and serial follow. Shards
are far from 2^39 inodes; one beyond cannot be looked at in a snapshot.
"""

from __future__ import annotations

import errno

from cfs.core.errors import FsError
from cfs.core.ids import SERIAL_BITS, Ino, serial_of, shard_of

PAST = 1 << 63
SLOTS = 1 << 12
_SERIAL_BITS = 39
_SHARD_MASK = (1 << 12) - 1


def seen_in(slot: int, ino: int) -> int:
    """Give the number of an inode in a snapshot. Raises EOVERFLOW."""
    serial = serial_of(Ino(ino))
    if serial >> _SERIAL_BITS:
        raise FsError(errno.EOVERFLOW, f"inode {ino} has too high a number for snapshots")
    return PAST | slot << 51 | shard_of(Ino(ino)) << _SERIAL_BITS | serial


def slot_of(number: int) -> int:
    """Give the snapshot's slot in a number of `seen_in`."""
    return number >> 51 & (SLOTS - 1)


def of_present(number: int, site: int) -> int:
    """Give the inode that a number of `seen_in` means, in the present's numbers."""
    shard = number >> _SERIAL_BITS & _SHARD_MASK
    return site << (SERIAL_BITS + 12) | shard << SERIAL_BITS | number & ((1 << _SERIAL_BITS) - 1)
