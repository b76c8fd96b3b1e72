"""Names and keys: what is derived from a volume key.

A volume key (32 bytes) is never used itself. BLAKE3's key derivation makes three subkeys of it,
each under a context of its own, and BLAKE3's keyed hash does the rest:

    chunk id   = keyed(chunk-id key, plain bytes)              32 bytes, the dedupe name
    chunk key  = keyed(sealing key, chunk id)                  32 bytes, AES-256-GCM
    nonce      = keyed(nonce key, header, body), first 12      see `sealing`

Equal bytes have equal names only under one volume key: names tell an outsider nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3

from cfs.core.ids import ChunkId

VOLUME_KEY_BYTES = 32
NONCE_BYTES = 12
_CONTEXT = "cfs 2026 volume key: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Subkeys:
    """The subkeys of one volume key."""

    chunk_id: bytes
    sealing: bytes
    nonce: bytes


def derive(volume_key: bytes) -> Subkeys:
    """Derive the subkeys of a volume key."""
    assert len(volume_key) == VOLUME_KEY_BYTES
    return Subkeys(
        chunk_id=_derive(volume_key, "chunk id"),
        sealing=_derive(volume_key, "sealing"),
        nonce=_derive(volume_key, "nonce"),
    )


def chunk_id(keys: Subkeys, plain: bytes | bytearray | memoryview) -> ChunkId:
    """Name a chunk by its plain bytes."""
    return ChunkId(blake3(plain, key=keys.chunk_id).digest())


def chunk_key(keys: Subkeys, name: bytes) -> bytes:
    """Give the key that seals the chunk of that name."""
    return blake3(name, key=keys.sealing).digest()


def nonce(keys: Subkeys, header: bytes, body: bytes | bytearray | memoryview) -> bytes:
    """Give the nonce for exactly these bytes behind this header."""
    hasher = blake3(header, key=keys.nonce)
    hasher.update(body)
    return hasher.digest(NONCE_BYTES)


def _derive(volume_key: bytes, purpose: str) -> bytes:
    return blake3(volume_key, derive_key_context=_CONTEXT + purpose).digest()
