"""Who a disk belongs to: a small file, twice, in its directory.

`cfs-disk.json` and `cfs-disk.copy.json`, each one JSON object:

    format       1
    cluster_id   hexadecimal
    node_id      number
    disk_id      hexadecimal, 16 bytes; covered by every record's checksum
    check        crc32c of the others, joined by commas

A directory of another cluster or node is refused: its fragments would be served under a wrong name.
So is one with volumes and no readable identity: without the disk id no record can be verified.
"""

from __future__ import annotations

import errno

import msgspec
from crc32c import crc32c

from cfs.core.errors import Refused
from cfs.fs.disk.port import Directory
from cfs.net.ports import Entropy

FORMAT = 1
_NAMES = ("cfs-disk.json", "cfs-disk.copy.json")
_PROBE = "probe"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content."""

    format: int
    cluster_id: str
    node_id: int
    disk_id: str
    check: int = 0

    def checksum(self) -> int:
        """Give what `check` must be."""
        text = f"{self.format},{self.cluster_id},{self.node_id},{self.disk_id}"
        return int(crc32c(text.encode()))


def identify(
    directory: Directory, *, name: str, cluster_id: bytes, node_id: int, entropy: Entropy
) -> bytes:
    """Give the disk id of a directory; a new directory becomes this node's, durably.

    Raises Refused (another owner, newer format, unusable file system), OSError.
    """
    names = set(directory.names())
    found = [_read(directory, each) for each in _NAMES if each in names]
    known = next((identity for identity in found if identity is not None), None)
    if known is None:
        if found or any(each.endswith(".volume") for each in names):
            raise Refused(
                f"{name} has volumes but no readable {_NAMES[0]}: restore that file, or empty the"
                " directory and let the cluster repair it"
            )
        known = _make(directory, name, cluster_id, node_id, entropy)
        found = []
    if known.format > FORMAT:
        raise Refused(f"{name} has format {known.format}; this program knows {FORMAT}: upgrade it")
    if known.cluster_id != cluster_id.hex() or known.node_id != node_id:
        raise Refused(
            f"{name} belongs to node {known.node_id} of cluster {known.cluster_id}, this is node"
            f" {node_id} of cluster {cluster_id.hex()}: choose another directory"
        )
    if len(found) < len(_NAMES) or None in found:
        for each in _NAMES:
            directory.write_whole(each, msgspec.json.encode(known))
    return bytes.fromhex(known.disk_id)


def _read(directory: Directory, name: str) -> Identity | None:
    file = directory.open(name)
    try:
        data = file.pread(0, 1 << 16)
    finally:
        file.close()
    try:
        identity = msgspec.json.decode(data, type=Identity)
    except msgspec.MsgspecError:
        return None
    return identity if identity.check == identity.checksum() else None


def _make(
    directory: Directory, name: str, cluster_id: bytes, node_id: int, entropy: Entropy
) -> Identity:
    _probe_punching(directory, name)
    made = Identity(
        format=FORMAT,
        cluster_id=cluster_id.hex(),
        node_id=node_id,
        disk_id=entropy.random_bytes(16).hex(),
    )
    return msgspec.structs.replace(made, check=made.checksum())


def _probe_punching(directory: Directory, name: str) -> None:
    file = directory.open(_PROBE, create=True)
    try:
        file.append([bytes(8192)])
        file.punch(0, 4096)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise Refused(
                f"{name} lies on a file system that cannot punch holes: use ext4, xfs or btrfs"
            ) from None
        raise
    finally:
        file.close()
        directory.remove(_PROBE)
