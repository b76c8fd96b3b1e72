"""The root group's wrapped secrets, opened: the authority's key and the volume keys.

Every meta node has the master key; the root group's log and state hold only what it wrapped. The
authority's secret is a msgpack array [key, certificate, other trusted certificates], PEM each.
"""

from __future__ import annotations

import msgspec

from cfs.core.kv import Reader
from cfs.core.root import records
from cfs.core.root.machine import read_secret, read_volume_keys
from cfs.net.certificates import Authority
from cfs.net.ports import Entropy
from cfs.net.wrapping import unwrap, wrap

VOLUME_KEY_BYTES = 32
_AUTHORITY_PURPOSE = "authority-key"
_NEXT_PURPOSE = "authority-key-next"


class Vault:
    """Wraps and opens secrets with the master key."""

    def __init__(self, master_key: bytes, entropy: Entropy) -> None:
        self.master_key = master_key
        self._entropy = entropy
        self._authority: tuple[bytes, Authority] | None = None
        self._keys: dict[int, tuple[bytes, bytes]] = {}

    def authority(self, state: Reader) -> Authority:
        """Open the certificate authority. Raises NotFound, Corrupt."""
        blob = read_secret(state, records.SECRET_CA)
        if self._authority is None or self._authority[0] != blob:
            self._authority = (blob, self._open(blob, _AUTHORITY_PURPOSE))
        return self._authority[1]

    def next_authority(self, state: Reader) -> Authority:
        """Open the authority that is to issue next. Raises NotFound when none was made."""
        return self._open(read_secret(state, records.SECRET_CA_NEXT), _NEXT_PURPOSE)

    def wrap_authority(self, authority: Authority, *, following: bool = False) -> bytes:
        """Wrap an authority for the root group; `following`: as the one to issue next."""
        packed = msgspec.msgpack.encode([authority.key, authority.certificate, authority.others])
        return self._wrap(packed, _NEXT_PURPOSE if following else _AUTHORITY_PURPOSE)

    def volume_keys(self, state: Reader) -> dict[int, bytes]:
        """Open every volume key, by version. Raises NotFound, Corrupt."""
        for version, blob in read_volume_keys(state).items():
            known = self._keys.get(version)
            if known is None or known[0] != blob:
                key = unwrap(self.master_key, blob, purpose=_volume_purpose(version))
                self._keys[version] = (blob, key)
        return {version: key for version, (_, key) in self._keys.items()}

    def new_volume_key(self, version: int) -> bytes:
        """Make a volume key; give it wrapped."""
        return self._wrap(self._entropy.random_bytes(VOLUME_KEY_BYTES), _volume_purpose(version))

    def _open(self, blob: bytes, purpose: str) -> Authority:
        packed = unwrap(self.master_key, blob, purpose=purpose)
        key, certificate, others = msgspec.msgpack.decode(packed, type=list[bytes])
        return Authority(key=key, certificate=certificate, others=others)

    def _wrap(self, secret: bytes, purpose: str) -> bytes:
        return wrap(self.master_key, secret, purpose=purpose, entropy=self._entropy)


def _volume_purpose(version: int) -> str:
    return f"volume-key/{version}"
