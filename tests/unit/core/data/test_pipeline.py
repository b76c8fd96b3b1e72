"""The sealed blob: golden bytes, every flipped bit noticed, keys apart."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.data import compression, digest, sealing
from cfs.core.data.pipeline import Sealer
from cfs.core.errors import Corrupt

KEY = bytes(range(32))

GOLDEN_ID = "c53b2611e5aa1ffbfdb993ba9fa141d80fca14bcd23a443d213cbe3b95bd6b34"
GOLDEN_BLOB = "010000000006b6d0c2290b76baafba81b7bb54db7685d023daa53b9bea05713655cf6e5197f0429c"
GOLDEN_SUBKEYS = ["4d57e3eeccb93c79", "f30d6db6f26706fc", "1c49f8ef77ea8ae2"]
GOLDEN_ZSTD_ID = "7fb352742f9275b115a1bb42907e1ceb47f687fd4bfc235076c691cd51883301"
GOLDEN_ZSTD_BLOB = (
    "01010000100065e7ac595b656a9966eb8cd1b3827a633b7e368e41a00560358070be50d0ee41772a"
    "33c01e176a5f31df886743b30bbbb2"
)


def test_golden_raw_blob() -> None:
    sealed = Sealer({1: KEY}, 1).seal(b"golden")
    assert sealed.chunk_id.hex() == GOLDEN_ID
    assert sealed.blob.hex() == GOLDEN_BLOB
    assert (sealed.key_version, sealed.raw) == (1, 6)


def test_golden_subkeys() -> None:
    keys = digest.derive(KEY)
    assert keys.chunk_id.hex()[:16] == GOLDEN_SUBKEYS[0]
    assert keys.sealing.hex()[:16] == GOLDEN_SUBKEYS[1]
    assert keys.nonce.hex()[:16] == GOLDEN_SUBKEYS[2]


def test_golden_zstd_blob_opens() -> None:
    assert (
        Sealer({1: KEY}, 1).open(
            bytes.fromhex(GOLDEN_ZSTD_ID), 1, 4096, bytes.fromhex(GOLDEN_ZSTD_BLOB)
        )
        == b"cfs " * 1024
    )


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.integers(1, 80))
def test_round_trip_and_convergence(piece: bytes, times: int) -> None:
    plain = (piece * times)[:262144]
    sealer = Sealer({1: KEY, 4: bytes(32)}, 4)
    sealed = sealer.seal(memoryview(plain))
    assert sealed == Sealer({4: bytes(32)}, 4).seal(plain)
    assert sealer.open(sealed.chunk_id, 4, sealed.raw, memoryview(sealed.blob)) == plain
    assert len(sealed.blob) <= len(plain) + sealing.OVERHEAD_BYTES


@pytest.mark.parametrize("plain", [b"x" * 500, random.Random(3).randbytes(70)])
def test_every_flipped_bit_is_noticed(plain: bytes) -> None:
    sealer = Sealer({1: KEY}, 1)
    sealed = sealer.seal(plain)
    for at in range(len(sealed.blob) * 8):
        bad = bytearray(sealed.blob)
        bad[at // 8] ^= 1 << at % 8
        with pytest.raises(Corrupt):
            sealer.open(sealed.chunk_id, 1, sealed.raw, bad)
    for cut in range(len(sealed.blob)):
        with pytest.raises(Corrupt):
            sealer.open(sealed.chunk_id, 1, sealed.raw, sealed.blob[:cut])


def test_wrong_name_length_or_key_is_corrupt() -> None:
    sealer = Sealer({1: KEY, 2: bytes(32)}, 1)
    sealed = sealer.seal(b"some plain bytes")
    other = sealer.seal(b"some other bytes")
    for arguments in (
        (other.chunk_id, 1, sealed.raw, sealed.blob),
        (sealed.chunk_id, 2, sealed.raw, sealed.blob),
        (sealed.chunk_id, 3, sealed.raw, sealed.blob),
        (sealed.chunk_id, 1, sealed.raw + 1, sealed.blob),
        (sealed.chunk_id, 1, 0, sealed.blob),
        (sealed.chunk_id, 1, 1 << 31, sealed.blob),
    ):
        with pytest.raises(Corrupt):
            sealer.open(*arguments)


def test_names_and_blobs_differ_between_volumes() -> None:
    one = Sealer({1: KEY}, 1).seal(b"same")
    two = Sealer({1: bytes(32)}, 1).seal(b"same")
    assert one.chunk_id != two.chunk_id
    assert one.blob != two.blob


def test_nonce_follows_the_exact_body() -> None:
    keys = digest.derive(KEY)
    assert digest.nonce(keys, b"h", b"body") != digest.nonce(keys, b"h", b"bodY")
    assert digest.nonce(keys, b"h", b"body") != digest.nonce(keys, b"H", b"body")


def test_incompressible_stays_raw_and_expansion_is_bounded() -> None:
    noise = random.Random(1).randbytes(65536)
    assert compression.compress(noise) == (compression.Codec.RAW, noise)
    codec, body = compression.compress(bytes(65536))
    assert codec == compression.Codec.ZSTD
    for raw in (65535, 65537):
        with pytest.raises(Corrupt):
            compression.expand(codec, bytes(body), raw)
    with pytest.raises(Corrupt):
        compression.expand(codec, bytes(body) + b"x", 65536)
    with pytest.raises(Corrupt):
        compression.expand(9, b"x", 1)
