"""Sealer: plain chunk to sealed chunk and back, under every key version a volume has had.

New chunks use the current version; old ones are opened with the version their reference names. An
object is immutable and may be used by many threads at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cfs.core.data import digest, sealing
from cfs.core.data.chunking import CHUNK_BYTES_MAX
from cfs.core.errors import Corrupt
from cfs.core.ids import ChunkId


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed chunk: all that is needed to move, pack and name it, and no key."""

    chunk_id: ChunkId
    key_version: int
    raw: int
    """Plain length."""
    blob: bytes


class Sealer:
    """Seals and opens chunks of one volume."""

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        """Take the volume keys by version; `current` seals."""
        self._subkeys = {version: digest.derive(key) for version, key in keys.items()}
        self._current = self._subkeys[current]
        self.current = current

    def chunk_id(self, plain: bytes | bytearray | memoryview) -> ChunkId:
        """Name a chunk under the current key."""
        return digest.chunk_id(self._current, plain)

    def seal(
        self,
        plain: bytes | bytearray | memoryview,
        chunk_id: ChunkId | None = None,
        *,
        fast: bool = False,
    ) -> Sealed:
        """Seal 1 byte to `CHUNK_BYTES_MAX`; `chunk_id` when it is known already.

        `fast` compresses less and sooner; either opens the same.
        """
        assert 0 < len(plain) <= CHUNK_BYTES_MAX
        name = digest.chunk_id(self._current, plain) if chunk_id is None else chunk_id
        blob = sealing.seal(self._current, name, plain, fast=fast)
        return Sealed(name, self.current, len(plain), blob)

    def open(
        self, chunk_id: bytes, key_version: int, raw: int, blob: bytes | bytearray | memoryview
    ) -> bytes:
        """Give the plain bytes, verified. Raises Corrupt, also for a key this sealer lacks."""
        if not 0 < raw <= CHUNK_BYTES_MAX:
            raise Corrupt(f"chunk {chunk_id.hex()[:16]}: {raw} plain bytes are out of range")
        keys = self._subkeys.get(key_version)
        if keys is None:
            raise Corrupt(
                f"chunk {chunk_id.hex()[:16]}: sealed with key version {key_version}, which this "
                "process does not have; mount again to fetch the keys"
            )
        return sealing.unseal(keys, chunk_id, raw, blob)

    def knows(self, key_version: int) -> bool:
        """Tell whether chunks of this key version can be opened."""
        return key_version in self._subkeys
