"""The window of the replicated log that is in memory: entries after a compacted base.

Owns the entries from `first_index` to `last_index` and the term of the base just before them.
Invariants: indexes are contiguous, terms never fall, `bytes_size` is the sum over the window.
What is durable, committed or applied is `replica`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cfs.core.raft.message import Entry
from cfs.core.raft.settings import ENTRY_OVERHEAD_BYTES


def entry_bytes(entry: Entry) -> int:
    """Give what an entry counts against the bounds."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class Log:
    """Entries after `base_index`, whose term is known but whose entry is gone."""

    __slots__ = ("_entries", "base_index", "base_term", "bytes_size", "last_index", "last_term")

    def __init__(self, base_index: int, base_term: int, entries: Iterable[Entry] = ()) -> None:
        self.reset(base_index, base_term)
        self.append(tuple(entries))

    @property
    def first_index(self) -> int:
        """Index of the first entry in the window, present or to come."""
        return self.base_index + 1

    def reset(self, base_index: int, base_term: int) -> None:
        """Forget everything; the next entry follows `(base_index, base_term)`."""
        self._entries: list[Entry] = []
        self.base_index = self.last_index = base_index
        self.base_term = self.last_term = base_term
        self.bytes_size = 0

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one."""
        last_index, last_term = self.last_index, self.last_term
        size = 0
        for entry in entries:
            assert entry.index == last_index + 1, (entry.index, last_index)
            assert entry.term >= last_term, (entry.term, last_term)
            last_index, last_term = entry.index, entry.term
            size += len(entry.data) + ENTRY_OVERHEAD_BYTES
        self._entries += entries
        self.last_index, self.last_term = last_index, last_term
        self.bytes_size += size

    def truncate(self, index: int) -> None:
        """Remove the entries from `index` on."""
        assert index > self.base_index, (index, self.base_index)
        position = index - self.base_index - 1
        self.bytes_size -= sum(map(entry_bytes, self._entries[position:]))
        del self._entries[position:]
        self.last_index = self.base_index + len(self._entries)
        self.last_term = self._entries[-1].term if self._entries else self.base_term

    def compact(self, index: int) -> None:
        """Make `index` the base; nothing happens when it is at or before the base."""
        if index <= self.base_index:
            return
        term = self.term_at(index)
        assert term is not None, (index, self.last_index)
        count = index - self.base_index
        self.bytes_size -= sum(map(entry_bytes, self._entries[:count]))
        del self._entries[:count]
        self.base_index, self.base_term = index, term

    def term_at(self, index: int) -> int | None:
        """Give the term of the entry at `index` (or of the base); None outside the window."""
        position = index - self.base_index - 1
        if position >= 0:
            return self._entries[position].term if position < len(self._entries) else None
        return self.base_term if position == -1 else None

    def between(self, start: int, end: int) -> tuple[Entry, ...]:
        """Give the entries with `start <= index < end`, all within the window."""
        assert start > self.base_index, (start, self.base_index)
        first = self.base_index + 1
        return tuple(self._entries[start - first : end - first])

    def batch(self, start: int, bytes_max: int) -> tuple[tuple[Entry, ...], int]:
        """Give entries from `start` on within `bytes_max` (at least one), and their bytes."""
        position = start - self.base_index - 1
        assert position >= 0, (start, self.base_index)
        end, size, entries = position, 0, self._entries
        while end < len(entries):
            grown = size + len(entries[end].data) + ENTRY_OVERHEAD_BYTES
            if grown > bytes_max and end > position:
                break
            size = grown
            end += 1
        return tuple(entries[position:end]), size

    def conflict(self, entries: Sequence[Entry]) -> int | None:
        """Give the index of the first of `entries` that is missing here or has another term."""
        for entry in entries:
            if self.term_at(entry.index) != entry.term:
                return entry.index
        return None

    def last_at_most(self, index: int, term: int) -> tuple[int, int]:
        """Give the last `(index, term)` not after either bound: where two logs may still agree.

        Never goes below the base: what is there is committed or unknown.
        """
        index = min(index, self.last_index)
        while index > self.base_index:
            found = self._entries[index - self.base_index - 1].term
            if found <= term:
                return index, found
            index -= 1
        return self.base_index, self.base_term

    def tail_start(self, index: int, bytes_max: int) -> int:
        """Give the lowest start for which the entries `start..index` fit into `bytes_max`."""
        size = 0
        position = min(index, self.last_index) - self.base_index - 1
        while position >= 0:
            size += entry_bytes(self._entries[position])
            if size > bytes_max:
                break
            position -= 1
        return self.base_index + position + 2

    def is_current(self, last_index: int, last_term: int) -> bool:
        """Say whether a log that ends there is at least as complete as this one."""
        return (last_term, last_index) >= (self.last_term, self.last_index)
