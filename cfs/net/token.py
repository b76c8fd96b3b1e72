"""The token: the text an operator copies to a machine that is to join. Owns the format.

`cfs1.` and then base64url, without padding, of a msgpack array

    [version, cluster_id, role, token_id, addresses, ca_bundle, certificate, key, checksum]

`addresses` are `[host, port]` of meta nodes; `certificate` and `key` are a short-lived identity of
role `enrol`, so that even the first word is spoken over mutual TLS; `role` is what the holder may
become. The checksum is the CRC-32C of the other fields' msgpack: a token cut in copying is told
from a wrong one. A token is a secret until it is used or expires.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

import msgspec
from crc32c import crc32c

from cfs.core.errors import Malformed
from cfs.net.certificates import Authority, make_request, new_key
from cfs.net.identity import Identity
from cfs.net.ports import Entropy

PREFIX = "cfs1."
TOKEN_VALID_S = 86_400
TOKEN_ID_BYTES = 16
_VERSION = 1


class Token(NamedTuple):
    """What a token says."""

    cluster_id: bytes
    role: str
    token_id: bytes
    addresses: tuple[tuple[str, int], ...]
    identity: Identity

    @property
    def expires_s(self) -> int:
        """Wall time at which its certificate, and so the token, ends."""
        return self.identity.subject.not_after_s

    def encode(self) -> str:
        """Give the text."""
        fields = (
            _VERSION, self.cluster_id, self.role, self.token_id, self.addresses,
            self.identity.ca_bundle, self.identity.certificate, self.identity.key,
        )  # fmt: skip
        checksum = crc32c(msgspec.msgpack.encode(fields))
        packed = msgspec.msgpack.encode((*fields, checksum))
        return PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


_Wire = tuple[int, bytes, str, bytes, tuple[tuple[str, int], ...], bytes, bytes, bytes, int]


def issue_token(
    authority: Authority,
    *,
    role: str,
    addresses: tuple[tuple[str, int], ...],
    now_s: int,
    entropy: Entropy,
    valid_s: int = TOKEN_VALID_S,
) -> Token:
    """Make a token with which one machine may join as `role`, until `valid_s` from now.

    The certificate's name is the token's id in hex: who enrols is known by what it enrols with.
    """
    token_id = entropy.random_bytes(TOKEN_ID_BYTES)
    key = new_key()
    certificate = authority.issue(
        make_request(key), role="enrol", name=token_id.hex(), now_s=now_s, valid_s=valid_s
    )
    identity = Identity(key, certificate, authority.bundle)
    return Token(authority.cluster_id, role, token_id, addresses, identity)


def decode_token(text: str) -> Token:
    """Read a token. Raises Malformed, saying what to do."""
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise Malformed(f"this is no token: one starts with {PREFIX}")
    body = text[len(PREFIX) :]
    try:
        packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        wire = msgspec.msgpack.decode(packed, type=_Wire)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise Malformed("the token is damaged: copy it again, whole") from None
    version, cluster_id, role, token_id, addresses, bundle, certificate, key, checksum = wire
    if version != _VERSION:
        raise Malformed(f"the token is of version {version}: upgrade cfs on this machine")
    if checksum != crc32c(msgspec.msgpack.encode(wire[:-1])):
        raise Malformed("the token is damaged: copy it again, whole")
    return Token(cluster_id, role, token_id, addresses, Identity(key, certificate, bundle))
