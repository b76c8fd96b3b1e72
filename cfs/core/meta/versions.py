"""Versions: what records were before they changed, kept for as long as a snapshot needs them.

A stored value carries the history epoch at which it became current (`since`). A snapshot of epoch
E is every value with `since < E`, so taking one only raises the shard's epoch. From then on the
first change of such a value keeps it:

    h key until4      what `key` was from its `since` until this epoch: snapshots in (since, until]
    H until4 key      the same, by when it ended: what deleting a snapshot looks through
    N inline8 ino8    how many tiles of kept pages refer to an inline chunk
    g epoch4          a deleted snapshot whose versions are still to be trimmed

Inodes, entries, pages and extended attributes are kept so. The segments that a kept page names
stay referred to: they are counted in buckets of their own (`keys.KEPT`), so whoever counts
references counts history. Sealed inline bytes are never copied: they stay while any page, live or
kept, names them.

A version that no snapshot needs goes in bounded steps, a few with every entry of the shard.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from typing import TYPE_CHECKING

from cfs.core.errors import Refused
from cfs.core.kv import prefix_end
from cfs.core.meta import keys
from cfs.core.meta.records import (
    PAGE,
    PRESENT,
    TRIM,
    Present,
    Trim,
    since_of,
)

if TYPE_CHECKING:
    from cfs.core.meta.draft import Draft

EPOCH_MAX = (1 << 24) - 1
"""So that an epoch's first byte is zero: then the versions of one key lie together."""
SNAPSHOTS_MAX = 1024
STEP_VERSIONS = 64
"""Versions looked at, and removed where nothing needs them, beside an entry's own work."""
_PAGE = ord("e")
_VERSIONED = frozenset(b"idex")


def is_versioned(key: bytes) -> bool:
    """Tell whether snapshots show records of this kind."""
    return key[0] in _VERSIONED


def keep(draft: Draft, key: bytes) -> None:
    """Keep what `key` holds if a snapshot shows it; call before it is changed or removed."""
    state = draft.state
    old = draft.kv.get(key)
    if old is None or since_of(old) >= state.snapshots[-1]:
        return
    draft.kv.put(keys.version(key, state.epoch), old)
    ended = PRESENT.encode(Present(draft.now), state.epoch)
    draft.kv.put(keys.version_ended(state.epoch, key), ended)
    state.versions += 1
    if key[0] == _PAGE:
        _refer(draft, key, old, 1)


def take(draft: Draft, epoch: int) -> None:
    """Let everything that is current now be the snapshot `epoch`. Raises Refused."""
    state = draft.state
    if epoch in state.snapshots:
        return
    if not state.epoch < epoch <= EPOCH_MAX:
        raise Refused(f"snapshot {epoch} comes too late: the shard is at epoch {state.epoch}")
    if len(state.snapshots) >= SNAPSHOTS_MAX:
        raise Refused(f"there are {SNAPSHOTS_MAX} snapshots, the most there can be: delete some")
    state.epoch = epoch
    state.snapshots = (*state.snapshots, epoch)


def drop(draft: Draft, epoch: int) -> None:
    """Delete a snapshot, or make sure that it is never taken; its versions are trimmed later."""
    state = draft.state
    state.epoch = max(state.epoch, min(epoch, EPOCH_MAX))
    if epoch not in state.snapshots:
        return
    place = bisect_left(state.snapshots, epoch)
    newer = state.snapshots[place + 1 :]
    end = newer[0] if newer else state.epoch + 1
    state.snapshots = state.snapshots[:place] + newer
    draft.put(keys.trim(epoch), TRIM.encode(Trim(end, b""), state.epoch))
    state.trims += 1


def step(draft: Draft) -> None:
    """Look through a few versions of a deleted snapshot, if there is one: see `trimming.step`."""
    state = draft.state
    if not state.trims:
        return
    job, value = next(draft.kv.scan(b"g", prefix_end(b"g")))
    trim = TRIM.decode(value)
    start = trim.after + b"\0" if trim.after else keys.version_ended(keys.epoch_at(job, 1), b"")
    end = keys.version_ended(trim.end, b"")
    found = list(itertools.islice(draft.kv.scan(start, end), STEP_VERSIONS))
    for index, _ in found:
        until, key = keys.epoch_at(index, 1), index[5:]
        version = draft.kv.get(keys.version(key, until))
        assert version is not None
        if needed(state.snapshots, since_of(version), until):
            continue
        draft.delete(keys.version(key, until))
        draft.delete(index)
        state.versions -= 1
        if key[0] == _PAGE:
            _refer(draft, key, version, -1)
    if len(found) < STEP_VERSIONS:
        draft.delete(job)
        state.trims -= 1
    else:
        draft.put(job, TRIM.encode(Trim(trim.end, found[-1][0]), state.epoch))
    draft.commit(changed=False)


def needed(snapshots: tuple[int, ...], since: int, until: int) -> bool:
    """Tell whether one of these snapshots, in order, lies in `(since, until]`."""
    place = bisect_left(snapshots, since + 1)
    return place < len(snapshots) and snapshots[place] <= until


def _refer(draft: Draft, key: bytes, page: bytes, sign: int) -> None:
    ino, offset = keys.number_at(key, 1), keys.number_at(key, 9)
    decoded = PAGE.decode(page)
    for tile in decoded.tiles:
        if tile.kind == 1:
            bucket = keys.KEPT | offset >> keys.BUCKET_SHIFT
            draft.refer(decoded.segments[tile.ref].segment, ino, bucket, sign)
        elif tile.kind:
            draft.keep_inline(tile.inline_id, ino, sign)
        offset += tile.length
