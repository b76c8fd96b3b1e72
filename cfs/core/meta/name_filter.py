"""A set of names in two bytes each: what is in it is found, what is not rarely is.

A scalable Bloom filter: layers of a power of two of bits, each twice as long as the one before,
with 16 bits and 4 probes a name, so that about one name in 400 of a layer is taken for another.
Nothing can be taken out.
"""

from __future__ import annotations

from cfs.core.meta.keys import name_hash

FIRST_BITS = 18
BITS_A_NAME = 16
PROBES = 4
_STEP_SHIFT = 29


class NameFilter:
    """Names that were dropped elsewhere and must not be taken for absent."""

    __slots__ = ("_layers", "_room")

    def __init__(self) -> None:
        self._layers: list[bytearray] = []
        self._room = 0

    def add(self, name: bytes) -> None:
        """Take a name in."""
        if not self._room:
            bits = FIRST_BITS + len(self._layers)
            self._layers.append(bytearray(1 << (bits - 3)))
            self._room = (1 << bits) // BITS_A_NAME
        self._room -= 1
        layer = self._layers[-1]
        at, step, mask = _probes(name, layer)
        for _ in range(PROBES):
            layer[at >> 3] |= 1 << (at & 7)
            at = (at + step) & mask

    def __contains__(self, name: bytes) -> bool:
        """Tell whether a name may be in it; False is certain."""
        return any(_has(layer, name) for layer in self._layers)


def _has(layer: bytearray, name: bytes) -> bool:
    at, step, mask = _probes(name, layer)
    for _ in range(PROBES):
        if not layer[at >> 3] & (1 << (at & 7)):
            return False
        at = (at + step) & mask
    return True


def _probes(name: bytes, layer: bytearray) -> tuple[int, int, int]:
    """Give the first bit, the step to the next, and the mask of a layer's bits."""
    mask = (len(layer) << 3) - 1
    hashed = name_hash(name)
    return hashed & mask, (hashed >> _STEP_SHIFT) | 1, mask
