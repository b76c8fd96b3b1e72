"""Any m of k+m may be lost, at every size; the layout is frozen."""

import itertools
import random

import pytest

from cfs.core.api.cluster import Profile
from cfs.core.code import erasure, isal
from cfs.core.errors import Corrupt, Unavailable

PROFILES = [Profile(2, 1), Profile(4, 2), Profile(8, 3), Profile(1, 1), Profile(1, 3)]
SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000, 4097]

GOLDEN_PARITY_2_1 = "eb911f651e64ea901c66e892e9931d671862ec96ed971963ef951b611a60ee94"
GOLDEN_PARITY_4_2 = ["e8c8a88868482808f5d5b59575553515", "d2f292b252721232cfef8faf4f6f0f2f"]


def _segment(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("profile", PROFILES)
def test_any_parity_fragments_may_be_lost(profile: Profile) -> None:
    for size in SIZES:
        segment = _segment(size)
        fragments = erasure.encode(segment, profile)
        assert len(fragments) == profile.total
        length = erasure.fragment_length(size, profile)
        assert {len(f) for f in fragments} == {length}
        for kept in itertools.combinations(range(profile.total), profile.data):
            available = {i: fragments[i] for i in kept}
            assert erasure.decode(available, profile, size) == segment


@pytest.mark.parametrize("profile", PROFILES)
def test_every_fragment_and_every_range_is_rebuilt(profile: Profile) -> None:
    segment = _segment(5000)
    fragments = [bytes(f) for f in erasure.encode(segment, profile)]
    for index in range(profile.total):
        others = [i for i in range(profile.total) if i != index]
        for kept in itertools.islice(itertools.combinations(others, profile.data), 40):
            whole = {i: fragments[i] for i in kept}
            assert erasure.reconstruct(index, whole, profile) == fragments[index]
            part = {i: memoryview(fragments[i])[100:117] for i in kept}
            assert erasure.reconstruct(index, part, profile) == fragments[index][100:117]


@pytest.mark.parametrize("profile", PROFILES)
def test_locate_reads_the_segment_from_its_data_fragments(profile: Profile) -> None:
    rng = random.Random(5)
    for size in SIZES:
        segment = _segment(size)
        fragments = erasure.encode(segment, profile)
        for _ in range(20):
            at = rng.randrange(size)
            length = rng.randrange(size - at + 1)
            pieces = erasure.locate(at, length, profile, size)
            read = b"".join(bytes(fragments[i][o : o + n]) for i, o, n in pieces)
            assert read == segment[at : at + length]


def test_golden_parity() -> None:
    segment = bytes(range(64))
    assert bytes(erasure.encode(segment, Profile(2, 1))[2]).hex() == GOLDEN_PARITY_2_1
    parity = erasure.encode(segment, Profile(4, 2))[4:]
    assert [bytes(p).hex() for p in parity] == GOLDEN_PARITY_4_2


def test_large_segment() -> None:
    segment = _segment(4 << 20)
    fragments = erasure.encode(segment, Profile(4, 2))
    kept = {i: fragments[i] for i in (1, 2, 4, 5)}
    assert erasure.decode(kept, Profile(4, 2), len(segment)) == segment


@pytest.mark.parametrize("profile", PROFILES)
def test_blocks_make_no_difference(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = _segment(200_001)
    blocked = [bytes(f) for f in erasure.encode(segment, profile)]
    monkeypatch.setattr(erasure, "_BLOCK_BYTES", 1 << 20)
    assert [bytes(f) for f in erasure.encode(segment, profile)] == blocked
    last = {i: blocked[i] for i in range(profile.parity, profile.total)}
    whole = erasure.reconstruct(0, last, profile)
    monkeypatch.setattr(erasure, "_BLOCK_BYTES", 1000)
    assert erasure.reconstruct(0, last, profile) == whole == blocked[0]


def test_too_few_or_misshapen_fragments_are_refused() -> None:
    profile = Profile(2, 1)
    fragments = erasure.encode(b"0123456789", profile)
    with pytest.raises(Unavailable):
        erasure.decode({0: fragments[0]}, profile, 10)
    with pytest.raises(Unavailable):
        erasure.reconstruct(0, {0: fragments[0], 1: fragments[1]}, profile)
    with pytest.raises(Unavailable):
        erasure.reconstruct(0, {}, profile)
    with pytest.raises(Corrupt):
        erasure.decode({0: fragments[0], 1: b"1234"}, profile, 10)


@pytest.mark.parametrize("profile", [Profile(2, 1), Profile(4, 2), Profile(8, 3)])
def test_isal_makes_what_pyeclib_makes(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isal.load() is not None, "the wheel carries it"
    segments = [_segment(size) for size in [*SIZES, 70_001, 1 << 20]]
    direct = [[bytes(f) for f in erasure.encode(s, profile)] for s in segments]
    monkeypatch.setattr(isal, "load", lambda: None)
    erasure._coder.cache_clear()
    try:
        assert [[bytes(f) for f in erasure.encode(s, profile)] for s in segments] == direct
    finally:
        erasure._coder.cache_clear()
