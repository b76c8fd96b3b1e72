"""Changes in memory above a sorted store: one layer, and the merge of several with what is below.

A layer maps keys to values, None for deleted. Putting costs one dict store; the sorted order is
made up for when a scan needs it. `merged` reads each layer in pieces and finds its place again by
key, so a layer may change while a scan is open: what it then shows of *new* keys is undefined,
what was there before is shown once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sortedcontainers import SortedList

Changes = dict[bytes, bytes | None]
_PIECE_MIN = 8
_PIECE_MAX = 512
_Tagged = tuple[bytes, bytes | None]


class Layer:
    """One generation of changes."""

    __slots__ = ("_unsorted", "keys", "values")

    def __init__(self) -> None:
        self.values: Changes = {}
        self.keys: SortedList[bytes] = SortedList()
        self._unsorted: list[bytes] = []

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set `key`, or note it deleted."""
        if key not in self.values:
            self._unsorted.append(key)
        self.values[key] = value

    def piece(self, start: bytes, end: bytes, count: int, *, reverse: bool) -> list[bytes]:
        """Give up to `count` keys in `[start, end)`, from the start or from the end."""
        keys = self.keys
        if self._unsorted:
            if len(self._unsorted) > len(keys) // 8:
                keys.update(self._unsorted)
            else:
                for key in self._unsorted:
                    keys.add(key)
            self._unsorted = []
        first, last = keys.bisect_left(start), keys.bisect_left(end)
        if reverse:
            return list(keys.islice(max(first, last - count), last, reverse=True))
        return list(keys.islice(first, min(last, first + count)))


def merged(
    layers: Sequence[Layer],
    below: Iterator[tuple[bytes, bytes]],
    start: bytes,
    end: bytes,
    *,
    reverse: bool,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs in order; an earlier layer hides later ones, all hide `below`."""
    above: Iterator[_Tagged] | None = None
    for layer in reversed(layers):
        if layer.values:
            own = _walk(layer, start, end, reverse=reverse)
            above = own if above is None else _over(own, above, reverse=reverse)
    if above is None:
        yield from below
        return
    for key, value in _over(above, below, reverse=reverse):
        if value is not None:
            yield key, value


def _walk(layer: Layer, start: bytes, end: bytes, *, reverse: bool) -> Iterator[_Tagged]:
    count = _PIECE_MIN
    values = layer.values
    while True:
        keys = layer.piece(start, end, count, reverse=reverse)
        for key in keys:
            yield key, values[key]
        if len(keys) < count:
            return
        if reverse:
            end = keys[-1]
        else:
            start = keys[-1] + b"\0"
        count = min(count * 4, _PIECE_MAX)


def _over(
    upper: Iterator[_Tagged], lower: Iterator[tuple[bytes, bytes]] | Iterator[_Tagged], *,
    reverse: bool,
) -> Iterator[_Tagged]:  # fmt: skip
    """Merge two ordered walks; where both have a key, the upper one speaks."""
    high = next(upper, None)
    low: _Tagged | None = next(lower, None)
    while high is not None and low is not None:
        if high[0] == low[0]:
            yield high
            high, low = next(upper, None), next(lower, None)
        elif (high[0] < low[0]) is not reverse:
            yield high
            high = next(upper, None)
        else:
            yield low
            low = next(lower, None)
    if high is not None:
        yield high
        yield from upper
    elif low is not None:
        yield low
        yield from lower
