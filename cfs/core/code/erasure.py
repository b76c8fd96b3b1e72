"""Segments to fragments and back: Reed-Solomon with Cauchy matrices, by ISA-L through pyeclib.

Layout, frozen: a segment of `n` bytes under a profile of `k` data fragments is padded with zeroes
to `k * f`, `f = ceil(n / k)`; data fragment `i` is bytes `[i * f, (i + 1) * f)`, parity fragments
are `k .. k + m - 1`, each `f` bytes. Parity is the byte-wise product with ISA-L's
`gf_gen_cauchy1_matrix(k + m, k)` over GF(2^8), so the same range of any `k` fragments gives that
range of every other: a degraded read need not move whole fragments. `k = 1` means replicated:
`m + 1` copies of the unpadded segment.

liberasurecode puts an 80-byte header before each fragment. It is not stored: `_Coder` writes it
anew from the index and sizes (its metadata's CRC included), and checks at construction that what it
writes is byte for byte what the library wrote. Integrity is the fragment record's and the seal's.

Parity is made by ISA-L directly (`isal`) where it is found. pyeclib, which then only reconstructs,
holds the GIL and copies everything several times, so work goes to it in blocks of 32 KiB a
fragment, which the range property allows: 0.21 ms/MiB where whole segments of 4 MiB cost 1.0 (page
faults of large buffers), and other threads wait for one block, not for a segment.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Mapping, Sequence

from pyeclib.ec_iface import ECDriver

from cfs.core.api.cluster import Profile
from cfs.core.code import isal
from cfs.core.errors import Corrupt, Unavailable

_LIBRARY_HEADER_BYTES = 80
_META_BYTES = 59
_CRC_AT = 67
_SIZES = struct.Struct("<III")  # index, payload bytes, backend metadata bytes (0)
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_BLOCK_BYTES = 32 << 10
_SAMPLE_BYTES = 331

Bytes = bytes | bytearray | memoryview


def fragment_length(segment_length: int, profile: Profile) -> int:
    """Give the bytes of each fragment of a segment."""
    return -(-segment_length // profile.data)


def locate(
    at: int, length: int, profile: Profile, segment_length: int
) -> list[tuple[int, int, int]]:
    """Name the pieces `(fragment index, offset, length)` that hold a range of a segment, in order.

    Replicated: one piece, index 0, standing for any copy.
    """
    assert at >= 0
    assert length >= 0
    assert at + length <= segment_length
    size = fragment_length(segment_length, profile)
    pieces = []
    while length:
        index, offset = divmod(at, size)
        taken = min(length, size - offset)
        pieces.append((index, offset, taken))
        at += taken
        length -= taken
    return pieces


def encode(segment: bytes, profile: Profile) -> list[Bytes]:
    """Give all fragments in index order. Data fragments may be views of `segment`."""
    assert segment
    if profile.data == 1:
        return [segment] * (profile.parity + 1)
    return _coder(profile.data, profile.parity).encode(segment)


def decode(available: Mapping[int, Bytes], profile: Profile, segment_length: int) -> bytes:
    """Give the segment from any `profile.data` of its fragments (whole ones).

    Raises Unavailable when there are fewer, Corrupt when one has the wrong length.
    """
    size = fragment_length(segment_length, profile)
    _check(available, profile, size)
    if profile.data == 1:
        return bytes(next(iter(available.values())))
    data = {i: f for i, f in available.items() if i < profile.data}
    for index in range(profile.data):
        if index not in data and index * size < segment_length:
            data[index] = reconstruct(index, available, profile)
    parts = [data[i] for i in range(profile.data) if i in data]
    return b"".join(parts)[:segment_length]


def reconstruct(index: int, available: Mapping[int, Bytes], profile: Profile) -> bytes:
    """Give fragment `index` (or a range of it) from the same range of `profile.data` others.

    Raises Unavailable when there are fewer, Corrupt when their lengths differ.
    """
    assert 0 <= index < profile.total
    others = {i: f for i, f in available.items() if i != index}
    _check(others, profile, len(next(iter(others.values()), b"")))
    if profile.data == 1:
        return bytes(next(iter(others.values())))
    return _coder(profile.data, profile.parity).reconstruct(index, others)


def _check(available: Mapping[int, Bytes], profile: Profile, size: int) -> None:
    if len(available) < profile.data:
        raise Unavailable(
            f"{len(available)} fragments at hand where {profile.data} are needed to decode"
        )
    for index, fragment in available.items():
        if not 0 <= index < profile.total or len(fragment) != size:
            raise Corrupt(f"fragment {index} of {profile.total}: {len(fragment)} bytes, not {size}")


class _Coder:
    """One profile's driver, and the library's header for any fragment of it."""

    def __init__(self, data: int, parity: int) -> None:
        self.data = data
        self.parity = parity
        self.driver = ECDriver(k=data, m=parity, ec_type="isa_l_rs_cauchy")
        probe = self.driver.encode(bytes(range(1, data + 1)))
        self._template = bytes(probe[0][:_LIBRARY_HEADER_BYTES])
        for index, fragment in enumerate(probe):
            assert self._header(index, 1) == fragment[:_LIBRARY_HEADER_BYTES], "foreign header"
        self._direct = self._found_direct()

    def encode(self, segment: bytes) -> list[Bytes]:
        size = -(-len(segment) // self.data)
        whole = len(segment) // size
        view = memoryview(segment)
        fragments: list[Bytes] = [view[i * size : (i + 1) * size] for i in range(whole)]
        places = [(segment, i * size) for i in range(whole)]
        if whole < self.data:
            rest = segment[whole * size :].ljust((self.data - whole) * size, b"\0")
            fragments += [rest[i : i + size] for i in range(0, len(rest), size)]
            places += [(rest, i) for i in range(0, len(rest), size)]
        if self._direct is not None:
            return [*fragments, *self._direct.of(size, places)]
        return [*fragments, *self._parity_of(size, fragments)]

    def _parity_of(self, size: int, fragments: Sequence[Bytes]) -> list[bytes]:
        parity: list[list[Bytes]] = [[] for _ in range(self.parity)]
        for at in range(0, size, _BLOCK_BYTES):
            block = b"".join([fragment[at : at + _BLOCK_BYTES] for fragment in fragments])
            coded = self.driver.encode(block)
            for parts, part in zip(parity, coded[self.data :], strict=True):
                parts.append(memoryview(part)[_LIBRARY_HEADER_BYTES:])
        return [b"".join(parts) for parts in parity]

    def _found_direct(self) -> isal.Parity | None:
        """Give ISA-L without pyeclib, if it is there and makes the same parity of a sample."""
        library = isal.load()
        if library is None:
            return None
        direct = isal.Parity(library, self.data, self.parity)
        sample = bytes(i * i % 251 for i in range(self.data * _SAMPLE_BYTES))
        places = [(sample, i * _SAMPLE_BYTES) for i in range(self.data)]
        fragments = [sample[at : at + _SAMPLE_BYTES] for _, at in places]
        same = direct.of(_SAMPLE_BYTES, places) == self._parity_of(_SAMPLE_BYTES, fragments)
        return direct if same else None

    def reconstruct(self, index: int, others: Mapping[int, Bytes]) -> bytes:
        chosen = {i: memoryview(others[i]) for i in sorted(others)[: self.data]}
        size = len(next(iter(chosen.values())))
        rebuilt: list[Bytes] = []
        for at in range(0, size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, size - at)
            framed = [
                b"".join((self._header(i, length), fragment[at : at + length]))
                for i, fragment in chosen.items()
            ]
            (part,) = self.driver.reconstruct(framed, [index])
            rebuilt.append(memoryview(part)[_LIBRARY_HEADER_BYTES:])
        return b"".join(rebuilt)

    def _header(self, index: int, size: int) -> bytes:
        header = bytearray(self._template)
        _SIZES.pack_into(header, 0, index, size, 0)
        _LENGTH.pack_into(header, _SIZES.size, size * self.data)
        _CRC.pack_into(header, _CRC_AT, zlib.crc32(memoryview(header)[:_META_BYTES]))
        return bytes(header)


@functools.lru_cache(maxsize=16)
def _coder(data: int, parity: int) -> _Coder:
    return _Coder(data, parity)
