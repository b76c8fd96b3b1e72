"""The disk port: directories of append-mostly files. All calls block; run them through `Threads`.

Durability: bytes appended or written are durable after `File.sync`; a created, renamed or removed
name after `Directory.sync`. Errors are OSError as the kernel gives them (ENOSPC, EIO).
"""

from __future__ import annotations

from typing import Protocol


class File(Protocol):
    """An open file."""

    def append(self, parts: list[bytes | memoryview]) -> int:
        """Write `parts` at the end, all of them or raise; give the offset where they begin.

        On an error the file may hold part of them: the caller truncates or marks the tail.
        """
        ...

    def pread(self, offset: int, length: int) -> bytes:
        """Read; short only at the end of the file."""
        ...

    def sync(self) -> None:
        """Fdatasync."""
        ...

    def punch(self, offset: int, length: int) -> None:
        """Free the blocks wholly inside the range; reads there give zeroes; size stays."""
        ...

    def truncate(self, size: int) -> None:
        """Set the size."""
        ...

    def size(self) -> int:
        """Give the size in bytes."""
        ...

    def allocated(self) -> int:
        """Give the bytes of blocks it occupies."""
        ...

    def close(self) -> None:
        """Close; does not sync."""
        ...


class Directory(Protocol):
    """A directory that its owner has locked for itself."""

    def open(self, name: str, *, create: bool = False) -> File:
        """Open for reading and appending. FileNotFoundError unless `create`."""
        ...

    def names(self) -> list[str]:
        """List the plain files, sorted."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file."""
        ...

    def rename(self, name: str, new_name: str) -> None:
        """Rename within the directory, replacing."""
        ...

    def write_whole(self, name: str, data: bytes) -> None:
        """Replace a small file, atomically and durably."""
        ...

    def sync(self) -> None:
        """Make names durable."""
        ...

    def device(self) -> str:
        """Name the file system it lies on: the same for every directory on it, for no other."""
        ...

    def usage(self) -> tuple[int, int]:
        """Give (total, free) bytes of the file system it lies on, free as non-root sees it."""
        ...
