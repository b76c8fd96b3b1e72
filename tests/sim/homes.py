"""A node's own directory in memory: `NodeDirectory` itself over files that are values.

Every file is replaced as a whole and durable at once, as the real one's are.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cfs.fs.root import directory
from cfs.fs.root.directory import Membership, NodeDirectory


class MemoryPath:
    """What `NodeDirectory` does with a path, on a dict of files."""

    def __init__(self, files: dict[str, bytes], name: str) -> None:
        self._files = files
        self.full = name

    def __truediv__(self, name: str) -> MemoryPath:
        return MemoryPath(self._files, f"{self.full}/{name}")

    def __str__(self) -> str:
        return self.full

    def exists(self) -> bool:
        return self.full in self._files

    def read_bytes(self) -> bytes:
        try:
            return self._files[self.full]
        except KeyError:
            raise FileNotFoundError(self.full) from None

    def unlink(self, *, missing_ok: bool = False) -> None:
        if self._files.pop(self.full, None) is None and not missing_ok:
            raise FileNotFoundError(self.full)

    def put(self, data: bytes) -> None:
        self._files[self.full] = data


class SimIdentity:
    """A certificate that never needs renewal."""

    @staticmethod
    def needs_renewal(_now_s: float) -> bool:
        return False


class SimHome(NodeDirectory):
    """The directory of one machine's node."""

    def __init__(self, member: Membership, first_map: Any, *, master_key: bytes, **kept: Any):
        super().__init__(MemoryPath({}, member.name))  # type: ignore[arg-type]
        self.identity_path.__truediv__("member").put(  # type: ignore[attr-defined]
            directory._MEMBER_VERSION + msgspec.msgpack.encode(member)
        )
        self.save_map(first_map)
        self.write_master_key(master_key)
        if "genesis" in kept:
            self.write_genesis(kept["genesis"])

    def identity(self) -> Any:
        return SimIdentity()


def install() -> None:
    """Have `NodeDirectory` write memory paths where it is given some."""
    write_whole, make, sync = (
        directory._write_whole, directory._make_directory, directory._sync_directory
    )  # fmt: skip

    def write(path: Any, data: bytes, *, mode: int) -> None:
        if isinstance(path, MemoryPath):
            path.put(data)
        else:
            write_whole(path, data, mode=mode)

    directory._write_whole = write
    for name, plain in (("_make_directory", make), ("_sync_directory", sync)):
        setattr(directory, name, lambda path, plain=plain: (
            None if isinstance(path, MemoryPath) else plain(path)))  # fmt: skip


install()
