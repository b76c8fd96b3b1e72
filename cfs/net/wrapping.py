"""Wrapping: a secret under a master key, for its purpose only. Owns the format.

    offset  size  field
         0     1  version  1
         1    12  nonce    random
        13    16  tag      AES-256-GCM
        29     n  secret   encrypted

The purpose (`volume-key/3`, `authority-key`) is the associated data: a wrapped secret that is put
in another one's place does not open. Not for the data path: that is `cfs.core.data`.
"""

from __future__ import annotations

from Crypto.Cipher import AES

from cfs.core.errors import Corrupt
from cfs.net.ports import Entropy

MASTER_KEY_BYTES = 32
_VERSION = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = 1 + _NONCE_BYTES + _TAG_BYTES


def wrap(master_key: bytes, secret: bytes, *, purpose: str, entropy: Entropy) -> bytes:
    """Give `secret` wrapped for `purpose`."""
    assert len(master_key) == MASTER_KEY_BYTES
    nonce = entropy.random_bytes(_NONCE_BYTES)
    cipher = AES.new(master_key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG_BYTES)
    cipher.update(purpose.encode())
    sealed, tag = cipher.encrypt_and_digest(secret)
    return bytes([_VERSION]) + nonce + tag + sealed


def unwrap(master_key: bytes, wrapped: bytes, *, purpose: str) -> bytes:
    """Give the secret. Raises Corrupt unless key, purpose and bytes are the ones of `wrap`."""
    assert len(master_key) == MASTER_KEY_BYTES
    if len(wrapped) < _HEADER_BYTES or wrapped[0] != _VERSION:
        raise Corrupt(f"the wrapped {purpose} is of no known format")
    nonce, tag = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES : _HEADER_BYTES]
    cipher = AES.new(master_key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG_BYTES)
    cipher.update(purpose.encode())
    try:
        return cipher.decrypt_and_verify(wrapped[_HEADER_BYTES:], tag)
    except ValueError:
        raise Corrupt(f"the wrapped {purpose} does not open: wrong master key or damage") from None
