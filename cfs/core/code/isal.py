"""ISA-L itself, as pyeclib's wheel carries it: parity without copies and without the GIL.

pyeclib holds the GIL while it computes and copies every byte four times (0.17 ms a MiB of segment,
against 0.02 here). The library it brings is called directly where it is found: `ec_encode_data` of
its documented interface (erasure_code.h), with `gf_gen_cauchy1_matrix`, which is what pyeclib's
driver `isa_l_rs_cauchy` uses. Where it is not found, `load` gives None and pyeclib does the work.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import pyeclib

_BUNDLED = "pyeclib.libs/libisal-pyeclib.so.2"
_NAMES = (str(Path(pyeclib.__file__).parents[1] / _BUNDLED), "libisal.so.2")
_TABLE_BYTES = 32
"""Of one coefficient, expanded."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """Give the library, or None."""
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            library.ec_encode_data.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None


class Parity:
    """The parity of one profile. Many threads may use one."""

    def __init__(self, library: ctypes.CDLL, data: int, parity: int) -> None:
        self._data = data
        self._parity = parity
        self._encode = library.ec_encode_data
        matrix = (ctypes.c_ubyte * ((data + parity) * data))()
        library.gf_gen_cauchy1_matrix(matrix, data + parity, data)
        rows = (ctypes.c_ubyte * (parity * data)).from_buffer(matrix, data * data)
        self._tables = (ctypes.c_ubyte * (_TABLE_BYTES * data * parity))()
        library.ec_init_tables(data, parity, rows, self._tables)

    def of(self, size: int, fragments: Sequence[tuple[bytes, int]]) -> list[bytearray]:
        """Give the parity fragments of data fragments `size` long: (what holds it, where)."""
        assert len(fragments) == self._data
        assert all(at >= 0 and at + size <= len(held) for held, at in fragments)
        sources = (ctypes.c_void_p * self._data)(*(_address(held) + at for held, at in fragments))
        parity = [bytearray(size) for _ in range(self._parity)]
        targets = (ctypes.c_void_p * self._parity)(
            *(ctypes.addressof(ctypes.c_ubyte.from_buffer(part)) for part in parity)
        )
        self._encode(size, self._data, self._parity, self._tables, sources, targets)
        return parity


def _address(held: bytes) -> int:
    """Give the address of the first byte; it stands while `held` lives."""
    return ctypes.cast(ctypes.c_char_p(held), ctypes.c_void_p).value or 0
