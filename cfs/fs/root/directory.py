"""A node's own directory: who it is and what it last knew. One process owns it at a time.

    identity/identity.pem     private key and certificate in force, 0600 (`cfs.net.identity`)
    identity/ca.pem           certificates of the authorities that are trusted
    identity/pending.pem      private key of an enrolment that was begun and not finished
    identity/member           Membership: ids, name, role, address; one version byte, msgpack
    map                       the last cluster map known; one version byte, msgpack
    master.key                meta nodes: 32 bytes that wrap the root group's secrets, 0600
    genesis                   first meta node, until its cluster is made: the command that makes it
    wal/ state/               meta nodes: write-ahead log and applied state (`cfs.fs.meta`)
    disks                     storage nodes: the directories of its disks, one a line

Every file is replaced as a whole: temporary, fsync, rename, fsync of the directory. `member` is
written last, so a directory that has it is complete.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from cfs.core.api.cluster import ClusterMap
from cfs.core.errors import Corrupt, NotFound, Refused
from cfs.net.identity import Identity

_MAP_VERSION = b"\x01"
_MEMBER_VERSION = b"\x01"
_MAP_DECODER = msgspec.msgpack.Decoder(ClusterMap)


class Membership(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Who this process is in its cluster."""

    node_id: int
    """0 for clients, gateways and administrators."""
    name: str
    role: str
    cluster_id: bytes
    host: str = ""
    port: int = 0
    domain: str = ""
    authority: int = 0
    """`ClusterMap.authority` when its certificate was issued."""


_MEMBER_DECODER = msgspec.msgpack.Decoder(Membership)


class NodeDirectory:
    """The files above, in one directory. Every method blocks on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity_path = path / "identity"

    # --- identity

    def exists(self) -> bool:
        """Tell whether a node's identity is complete here."""
        return (self.identity_path / "member").exists()

    def require_empty(self) -> None:
        """Raise Refused when a node lives here already."""
        if self.exists():
            raise Refused(f"{self.path} holds a node already: choose an empty directory")

    def membership(self) -> Membership:
        """Read who this node is. Raises NotFound, Corrupt."""
        data = _read(self.identity_path / "member")
        if data is None:
            raise NotFound(f"{self.path} holds no node: run cfs init or cfs join first")
        if data[:1] != _MEMBER_VERSION:
            raise Corrupt(f"{self.path}/identity/member has an unknown version: upgrade")
        try:
            return _MEMBER_DECODER.decode(data[1:])
        except msgspec.DecodeError as error:
            raise Corrupt(f"{self.path}/identity/member cannot be read: {error}") from error

    def identity(self) -> Identity:
        """Read key, certificate and trust. Raises NotFound, Refused."""
        return Identity.load(self.identity_path)

    def write_identity(self, membership: Membership, identity: Identity) -> None:
        """Make an identity complete and durable; `member` goes last."""
        _make_directory(self.path)
        identity.save(self.identity_path)
        data = _MEMBER_VERSION + msgspec.msgpack.encode(membership)
        _write_whole(self.identity_path / "member", data, mode=0o644)
        (self.identity_path / "pending.pem").unlink(missing_ok=True)

    def pending_key(self) -> bytes | None:
        """Give the key of an enrolment that was begun: a used token works again only with it."""
        return _read(self.identity_path / "pending.pem")

    def write_pending_key(self, key: bytes) -> None:
        """Keep the key before the token is used."""
        _make_directory(self.path)
        _make_directory(self.identity_path)
        _write_whole(self.identity_path / "pending.pem", key, mode=0o600)

    # --- what else a node keeps

    def load_map(self) -> ClusterMap | None:
        """Read the last known map; None when there is none (or none this program can read)."""
        data = _read(self.path / "map")
        if data is None or data[:1] != _MAP_VERSION:
            return None
        try:
            return _MAP_DECODER.decode(data[1:])
        except msgspec.DecodeError as error:
            raise Corrupt(f"{self.path}/map cannot be read: {error}; remove it") from error

    def save_map(self, known: ClusterMap) -> None:
        """Replace the last known map, durably."""
        _write_whole(self.path / "map", _MAP_VERSION + msgspec.msgpack.encode(known), mode=0o644)

    def master_key(self) -> bytes:
        """Read the master key. Raises NotFound on nodes that have none."""
        data = _read(self.path / "master.key")
        if data is None:
            raise NotFound(f"{self.path} has no master.key: it is not a meta node's directory")
        return data

    def write_master_key(self, key: bytes) -> None:
        """Keep the master key, readable by this user alone."""
        _make_directory(self.path)
        _write_whole(self.path / "master.key", key, mode=0o600)

    def genesis(self) -> bytes | None:
        """Give the command that makes the cluster, until it was applied."""
        return _read(self.path / "genesis")

    def write_genesis(self, command: bytes) -> None:
        """Keep the command that makes the cluster."""
        _make_directory(self.path)
        _write_whole(self.path / "genesis", command, mode=0o600)

    def remove_genesis(self) -> None:
        """Forget the command: the cluster is made."""
        (self.path / "genesis").unlink(missing_ok=True)
        _sync_directory(self.path)

    def rebuilding(self) -> dict[int, int]:
        """Give the groups whose replicas here must be taken from their peers, and their terms."""
        data = _read(self.path / "rebuild")
        return {} if data is None else msgspec.msgpack.decode(data, type=dict[int, int])

    def write_rebuilding(self, terms: dict[int, int]) -> None:
        """Keep which replicas must be taken from their peers, durably, until that is done."""
        if terms:
            _write_whole(self.path / "rebuild", msgspec.msgpack.encode(terms), mode=0o644)
        else:
            (self.path / "rebuild").unlink(missing_ok=True)
            _sync_directory(self.path)

    def disks(self) -> list[Path]:
        """Give a storage node's disks."""
        data = _read(self.path / "disks")
        return [] if data is None else [Path(line) for line in data.decode().splitlines() if line]

    def write_disks(self, disks: list[Path]) -> None:
        """Keep the list of a storage node's disks."""
        _make_directory(self.path)
        lines = "".join(f"{disk.absolute()}\n" for disk in disks)
        _write_whole(self.path / "disks", lines.encode(), mode=0o644)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sync_directory(path.parent)


def _write_whole(path: Path, data: bytes, *, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
