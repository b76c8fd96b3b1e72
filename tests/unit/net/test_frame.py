"""The frame: golden bytes, bounds, and every damaged header told by name."""

import pytest

from cfs.core.api import meta
from cfs.core.errors import Malformed
from cfs.net import frame
from cfs.net.frame import HEADER_BYTES, Header, Kind, encode, parse_header

GOLDEN = bytes.fromhex(
    "43465301"  # CFS, version 1
    "02" "00" "001b"  # request, no flags, meta.statfs
    "0000000000000007"  # id
    "00000002" "00000005"  # lengths
    "0000000000000009"  # epoch
    "000003e8"  # deadline
    "40e4fe09"  # crc32c of the above
    "9103"  # [3]
)  # fmt: skip


def sample():
    return encode(
        Kind.REQUEST, meta.StatFs(shard=3), method=27, request=7, payload_bytes=5, epoch=9,
        deadline_ms=1000,
    )  # fmt: skip


def test_golden_bytes():
    assert bytes(sample()) == GOLDEN


def test_header_round_trip():
    assert parse_header(b"xx" + GOLDEN, 2) == Header(Kind.REQUEST, 27, 7, 2, 5, 9, 1000)


def test_a_frame_without_message_is_a_header():
    assert len(encode(Kind.PING)) == HEADER_BYTES


def test_every_flipped_bit_is_noticed():
    for bit in range(HEADER_BYTES * 8):
        damaged = bytearray(GOLDEN)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Malformed) as caught:
            parse_header(damaged)
        assert caught.value.detail["reason"] in ("magic", "version", "checksum")


@pytest.mark.parametrize("kind", [0, 9, 255])
def test_unknown_kinds(kind):
    with pytest.raises(Malformed) as caught:
        parse_header(encode(kind))
    assert caught.value.detail["reason"] == "kind"


@pytest.mark.parametrize(
    "lengths", [(frame.MESSAGE_BYTES_MAX + 1, 0), (0, frame.PAYLOAD_BYTES_MAX + 1)]
)
def test_oversized(lengths, monkeypatch):
    with pytest.raises(Malformed):
        encode(Kind.REPLY, bytes(lengths[0]), payload_bytes=lengths[1])
    monkeypatch.setattr(frame, "MESSAGE_BYTES_MAX", 1 << 30)
    monkeypatch.setattr(frame, "PAYLOAD_BYTES_MAX", 1 << 30)
    sent = encode(Kind.REPLY, bytes(lengths[0]), payload_bytes=lengths[1])
    monkeypatch.undo()
    with pytest.raises(Malformed) as caught:
        parse_header(sent)
    assert caught.value.detail["reason"] == "oversized"
