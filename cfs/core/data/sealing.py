"""The sealed blob: the only form in which a chunk leaves the client.

    offset  size  field
    0       1     version, 1
    1       1     codec of the body (`compression.Codec`)
    2       4     plain length, big endian
    6       12    nonce
    18      n     ciphertext of the body, AES-256-GCM
    18 + n  16    tag

The key is derived from the chunk id, so equal chunks share a key and different ones do not. The
nonce is a keyed hash of the header (the first 6 bytes) and the body exactly as sealed: whatever a
later compressor makes of the same chunk gets a nonce of its own, and equal bytes give an equal
blob. Additional data are the header and the chunk id: neither can be exchanged.

Moving a blob needs no key; reading or making one does. Every byte of it is covered by the tag: the
nonce enters the computation, the rest is authenticated.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cfs.core.data import compression, digest
from cfs.core.data.digest import NONCE_BYTES, Subkeys
from cfs.core.errors import Corrupt

VERSION = 1
TAG_BYTES = 16
_HEADER = struct.Struct(">BBI")
_BODY_AT = _HEADER.size + NONCE_BYTES
OVERHEAD_BYTES = _BODY_AT + TAG_BYTES


def seal(
    keys: Subkeys,
    chunk_id: bytes,
    plain: bytes | bytearray | memoryview,
    *,
    fast: bool = False,
) -> bytes:
    """Compress where it pays, encrypt, and frame."""
    codec, body = compression.compress(plain, fast=fast)
    header = _HEADER.pack(VERSION, codec, len(plain))
    nonce = digest.nonce(keys, header, body)
    sealed = AESGCM(digest.chunk_key(keys, chunk_id)).encrypt(nonce, body, header + chunk_id)
    return b"".join((header, nonce, sealed))


def unseal(keys: Subkeys, chunk_id: bytes, raw: int, blob: bytes | bytearray | memoryview) -> bytes:
    """Verify and open a blob of `raw` plain bytes. Raises Corrupt."""
    if len(blob) < OVERHEAD_BYTES:
        raise Corrupt(f"chunk {chunk_id.hex()[:16]}: {len(blob)} bytes are no sealed chunk")
    view = memoryview(blob)
    version, codec, plain_length = _HEADER.unpack_from(view)
    if version != VERSION or plain_length != raw:
        raise Corrupt(
            f"chunk {chunk_id.hex()[:16]}: version {version}, {plain_length} plain bytes where "
            f"version {VERSION} and {raw} are named"
        )
    header = bytes(view[: _HEADER.size])
    cipher = AESGCM(digest.chunk_key(keys, chunk_id))
    try:
        body = cipher.decrypt(view[_HEADER.size : _BODY_AT], view[_BODY_AT:], header + chunk_id)
    except InvalidTag:
        raise Corrupt(f"chunk {chunk_id.hex()[:16]}: its tag does not match") from None
    return compression.expand(codec, body, raw)
